"""Minecraft through MineRL, which runs as a worker process in an interpreter of its own."""

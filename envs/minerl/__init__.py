"""Minecraft through MineRL, which lives in an interpreter of its own and is spoken to over a pipe."""

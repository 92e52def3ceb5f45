"""Minetest in lock-step: Debian's unmodified engine, a Lua mod, frames from a private X display."""

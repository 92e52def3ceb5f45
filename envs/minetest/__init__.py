"""Minetest in lock-step: Debian's unmodified engine, our Lua mod, frames from a private display."""

"""Find the programs that Minetest needs, where Debian installs them."""

from __future__ import annotations

import glob
import shutil
from pathlib import Path

__all__ = ["GAME", "find_program", "lua_socket"]

GAME = Path("/usr/share/games/minetest/games/minetest_game")
"""Minetest Game, which Debian installs with the engine."""

_FALLBACKS = {"minetest": Path("/usr/games/minetest"), "Xvfb": Path("/usr/bin/Xvfb")}


def find_program(name: str) -> str | None:
    """Return the path of "minetest" or "Xvfb", or None."""
    fallback = _FALLBACKS[name]
    return shutil.which(name) or (str(fallback) if fallback.is_file() else None)


def lua_socket() -> Path | None:
    """Return the folder of lua-socket's library for the engine's Lua, or None."""
    found = glob.glob("/usr/lib/*/lua/5.1/socket/unix.so") + glob.glob("/usr/local/lib/lua/5.1/socket/unix.so")
    return Path(found[0]).parent.parent if found else None

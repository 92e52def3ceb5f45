"""Where Debian puts the programs that Minetest needs."""

from __future__ import annotations

import glob
import shutil
from pathlib import Path

__all__ = ["GAME", "find_program", "lua_socket"]

GAME = Path("/usr/share/games/minetest/games/minetest_game")
"""The game that Debian ships with the engine."""

_BESIDE_THE_PATH = {"minetest": Path("/usr/games/minetest"), "Xvfb": Path("/usr/bin/Xvfb")}


def find_program(name: str) -> str | None:
    """Return the path of "minetest" or "Xvfb", or None where there is none."""
    beside = _BESIDE_THE_PATH[name]
    return shutil.which(name) or (str(beside) if beside.is_file() else None)


def lua_socket() -> Path | None:
    """Return the folder of lua-socket's library for the engine's Lua, or None."""
    found = glob.glob("/usr/lib/*/lua/5.1/socket/unix.so") + glob.glob("/usr/local/lib/lua/5.1/socket/unix.so")
    return Path(found[0]).parent.parent if found else None

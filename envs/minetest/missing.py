"""Check for the dependencies of Minetest; starts nothing, imports nothing heavy."""

from __future__ import annotations

import sys

from dreamenv.envs.minetest.programs import GAME, find_program, lua_socket
from dreamenv.envs.missing import Missing

__all__ = ["REMEDY", "missing_parts"]

REMEDY = "make minetest (or: apt-get install -y --no-install-recommends minetest lua-socket xvfb)"
"""The command that installs everything."""


def missing_parts() -> Missing | None:
    """Return what Minetest lacks on this machine, or None."""
    if not sys.platform.startswith("linux"):
        return Missing(what=f"Minetest runs on Linux only, and this is {sys.platform}", remedy="use Linux")
    absent = [f"no program {name}" for name in ("minetest", "Xvfb") if find_program(name) is None]
    if not GAME.is_dir():
        absent.append(f"no game in {GAME}")
    if lua_socket() is None:
        absent.append("no lua-socket for Lua 5.1")
    return Missing(what=", ".join(absent), remedy=REMEDY) if absent else None

"""What Minetest needs on this machine. Looks only; starts nothing, imports nothing heavy."""

from __future__ import annotations

import sys

from dreamenv.envs.minetest.programs import GAME, find_program, lua_socket
from dreamenv.envs.missing import Missing

__all__ = ["REMEDY", "missing_parts"]

REMEDY = "make minetest (or: apt-get install -y --no-install-recommends minetest lua-socket xvfb)"
"""The command that brings everything."""


def missing_parts() -> Missing | None:
    """Say what Minetest lacks here."""
    if not sys.platform.startswith("linux"):
        return Missing(what=f"it runs on Linux only, and this is {sys.platform}", remedy="use Linux")
    lacking = [f"no program {name}" for name in ("minetest", "Xvfb") if find_program(name) is None]
    if not GAME.is_dir():
        lacking.append(f"no game in {GAME}")
    if lua_socket() is None:
        lacking.append("no lua-socket for Lua 5.1")
    return Missing(what=", ".join(lacking), remedy=REMEDY) if lacking else None

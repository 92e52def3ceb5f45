"""The tasks that have a recipe; importing this imports nothing slow."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["TaskName"]

TaskName: TypeAlias = Literal[
    "take_cover",
    "health_gathering",
    "my_way_home",
    "miniworld_one_room",
    "minetest_navigate",
    "minetest_maze",
    "crafter",
]

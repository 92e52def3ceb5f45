"""Stands in for MineRL 1.0, which PyPI does not serve; it is not MineRL and plays no Minecraft.

Written from the shape of the 1.0 client, not from its code: the same ids, names of keys and of observations, picture
size, mission elements that matter to the Java side, and the same messages. Like MineRL's, its FindCave mission asks the
game for the picture alone, and its Java side pays nothing.
"""

from __future__ import annotations

import gym

from minerl.env.client import Client

_KEYS = (
    *("ESC", "attack", "back", "drop", "forward", *(f"hotbar.{slot}" for slot in range(1, 10)), "inventory", "jump"),
    *("left", "pickItem", "right", "sneak", "sprint", "swapHands", "use"),
)
_STATISTICS = '<ObservationFromFullInventory flat="false"/><ObservationFromFullStats/>'

gym.register("MineRLBasaltFindCave-v0", lambda: Client(_KEYS, ""))
gym.register("MineRLHumanSurvival-v0", lambda: Client(_KEYS, _STATISTICS))

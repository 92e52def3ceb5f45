"""The task of Crafter, with the facts of Crafter's ``data.yaml``."""

from __future__ import annotations

from dreamenv.envs.task import RealTask

__all__ = ["CRAFTER_TASKS"]

_ACTIONS = (
    "noop", "move_left", "move_right", "move_up", "move_down", "do", "sleep", "place_stone", "place_table",
    "place_furnace", "place_plant", "make_wood_pickaxe", "make_stone_pickaxe", "make_iron_pickaxe", "make_wood_sword",
    "make_stone_sword", "make_iron_sword",
)  # fmt: skip

CRAFTER_TASKS: dict[str, RealTask] = {
    "crafter": RealTask(
        name="crafter",
        id="dreamenv/Crafter-v0",
        action_names=_ACTIONS,  # all of Crafter's own, in its order
        action_table=tuple(range(len(_ACTIONS))),
        native_rate=5.0,  # the frame rate of Crafter's own window
        max_native_steps=10_000,
        score="achievements unlocked, of 22",
        solved=22.0,
        about="Survive: gather, build tools, eat, drink, sleep, fight. Reward: +1 when an achievement is unlocked for "
        "the first time in the episode, +0.1 or -0.1 per point of health gained or lost. The score counts these "
        "achievements; the score of Crafter's paper is the geometric mean of their success rates over many episodes. "
        "Death terminates; 10,000 steps truncate.",
    )
}

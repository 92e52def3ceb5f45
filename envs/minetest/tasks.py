"""The table of Minetest tasks: the actions, rewards and score of each.

A native action is six numbers, held for a native step of 0.1 s of simulated time:
(forward -1 to 1, jump 0 or 1, turn in degrees with left positive, look in degrees with down positive, dig 0 or 1, place
0 or 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from dreamenv.envs.task import RealTask

__all__ = ["ARRIVAL_REWARD", "MINETEST_TASKS", "NATIVE_RATE", "MinetestTask"]

NATIVE_RATE = 10.0
"""Native steps per second of simulated time, in hertz."""

ARRIVAL_REWARD = 10.0
"""Reward of the arrival in the setting "progress", in metres of progress."""


@dataclass(frozen=True, kw_only=True)
class MinetestTask(RealTask):
    """A Minetest task.

    Attributes:
        script: the Lua file in ``mod/server/tasks`` with its rules.
    """

    script: str
    native_rate: float = NATIVE_RATE


_ACTIONS = {
    "noop": (0, 0, 0, 0, 0, 0),
    "forward": (1, 0, 0, 0, 0, 0),
    "forward_jump": (1, 1, 0, 0, 0, 0),
    "turn_left": (0, 0, 15, 0, 0, 0),
    "turn_right": (0, 0, -15, 0, 0, 0),
    "look_up": (0, 0, 0, -15, 0, 0),
    "look_down": (0, 0, 0, 15, 0, 0),
    "dig": (0, 0, 0, 0, 1, 0),
    "place": (0, 0, 0, 0, 0, 1),
}


def _table(names: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(_ACTIONS[name] for name in names)


_WALK = ("noop", "forward", "turn_left", "turn_right")  # in the maze, with turns of 30 degrees
_HIKE = ("noop", "forward", "turn_left", "turn_right", "forward_jump")
_ALL = tuple(_ACTIONS)

MINETEST_TASKS: dict[str, MinetestTask] = {
    task.name: task
    for task in (
        MinetestTask(
            name="minetest_navigate",
            id="dreamenv/MinetestNavigate-v0",
            script="navigate",
            action_names=_HIKE,
            action_table=_table(_HIKE),
            max_native_steps=400,
            rewards=("progress", "arrival"),
            score="beacon reached (0 or 1)",
            solved=1.0,
            about="Reach a glowing pillar on natural terrain, 10 to 22 m away, reachable on foot. Reward "
            "'progress': metres come nearer (negative for going away), and 10 for the arrival; 'arrival': 1 for the "
            "arrival. The arrival terminates; 40 s truncate.",
        ),
        MinetestTask(
            name="minetest_treechop",
            id="dreamenv/MinetestTreechop-v0",
            script="treechop",
            action_names=_ALL,
            action_table=_table(_ALL),
            max_native_steps=1000,
            rewards=("logs",),
            score="logs chopped",
            solved=4.0,
            about="Chop trees with a steel axe: a log takes about 1.5 s of 'dig' held at it, leaves less. Reward: "
            "+1 for every log. 'place' puts down one of 16 nodes of dirt. 100 s truncate; nothing terminates.",
        ),
        MinetestTask(
            name="minetest_maze",
            id="dreamenv/MinetestMaze-v0",
            script="maze",
            action_names=_WALK,
            action_table=((0, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0), (0, 0, 30, 0, 0, 0), (0, 0, -30, 0, 0, 0)),
            max_native_steps=800,
            rewards=("progress", "arrival"),
            score="beacon reached (0 or 1)",
            solved=1.0,
            about="Find the beacon in a maze of five by five cells with walls of four colours, a new one for every "
            "seed. Rewards as in minetest_navigate, with metres as the crow flies. The arrival terminates; 80 s "
            "truncate.",
        ),
    )
}

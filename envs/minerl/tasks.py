"""The table of Minecraft tasks: the MineRL environment, actions, rewards and score of each.

A native action is a part of MineRL's action dictionary: the keys that are held, and ``camera``, the turn (pitch, yaw)
in degrees, positive down and to the right. Keys are held for all native steps of an agent step; the camera turns once,
in the first of them, so that a turn is 15 degrees whatever the frame skip.

The facts are those of MineRL's environment specifications (0.4.4 and 1.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dreamenv.envs.task import RealTask

__all__ = ["CAMERA_STEP", "GOAL_REWARD", "MINERL_TASKS", "TICKS_PER_SECOND", "MinerlTask"]

TICKS_PER_SECOND = 20.0
"""Minecraft's clock, in hertz; a native step is one tick."""

CAMERA_STEP = 15.0
"""The turn of one camera action, in degrees."""

GOAL_REWARD = 100.0
"""Reward of MineRL's Navigate for touching the diamond block; no other tick gives half as much."""

_MARGIN = 100
"""Ticks by which our time limit precedes the game's own, which a client cannot tell from a termination."""


@dataclass(frozen=True, kw_only=True)
class MinerlTask(RealTask):
    """One MineRL environment as a task.

    Attributes:
        env_id: MineRL's own id.
        score_metric: "goal" is 1.0 once the goal was reached, "return" sums MineRL's rewards, "logs" and "metres" are
            the logs collected and the metres walked.
        since: the first version of MineRL with this environment, as (major, minor).
    """

    env_id: str
    score_metric: Literal["goal", "return", "logs", "metres"]
    since: tuple[int, int] = (0, 4)
    native_rate: float = TICKS_PER_SECOND
    frame_skip: int = 4  # five decisions per second, in each of which a walking player covers 0.86 m


_Actions = dict[str, dict[str, Any]]

_WALK: _Actions = {
    "noop": {},
    "turn_left": {"camera": [0.0, -CAMERA_STEP]},
    "turn_right": {"camera": [0.0, CAMERA_STEP]},
    "look_up": {"camera": [-CAMERA_STEP, 0.0]},
    "look_down": {"camera": [CAMERA_STEP, 0.0]},
    "forward": {"forward": 1},
    "back": {"back": 1},
    "jump": {"jump": 1},
    "forward_jump": {"forward": 1, "jump": 1},
}
_SPRINT: _Actions = {"sprint_jump": {"forward": 1, "jump": 1, "sprint": 1}}
_ATTACK: _Actions = {"attack": {"attack": 1}, "forward_attack": {"forward": 1, "attack": 1}}

_TRAVEL: _Actions = {**_WALK, **_SPRINT, **_ATTACK}
_CHOP: _Actions = {**_WALK, **_ATTACK}
_LIVE: _Actions = {**_WALK, **_SPRINT, **_ATTACK, "use": {"use": 1}}

_COMPUTED = (
    "Reward 'distance': metres walked over ground; 'logs': +1 per log that comes into the inventory; 'native': "
    "MineRL's own, which is always 0."
)


def _table(actions: _Actions) -> dict[str, Any]:
    return {"action_names": tuple(actions), "action_table": tuple(actions.values())}


MINERL_TASKS: dict[str, MinerlTask] = {
    task.name: task
    for task in (
        MinerlTask(
            name="minerl_navigate_dense",
            id="dreamenv/MinerlNavigateDense-v0",
            env_id="MineRLNavigateDense-v0",  # MineRL 0.4
            **_table(_TRAVEL),
            max_native_steps=6000 - _MARGIN,
            score="goal reached (0 or 1)",
            score_metric="goal",
            solved=1.0,
            about="Find a diamond block 64 m away, with a compass in info. Reward: +100 at the block, and per tick the "
            "metres by which it came nearer. The block, or death, terminates; 5,900 ticks (295 s) truncate.",
        ),
        MinerlTask(
            name="minerl_navigate",
            id="dreamenv/MinerlNavigate-v0",
            env_id="MineRLNavigate-v0",  # MineRL 0.4
            **_table(_TRAVEL),
            max_native_steps=6000 - _MARGIN,
            score="goal reached (0 or 1)",
            score_metric="goal",
            solved=1.0,
            about="Find a diamond block 64 m away, with a compass in info. Reward: +100 at the block. The block, or "
            "death, terminates; 5,900 ticks (295 s) truncate.",
        ),
        MinerlTask(
            name="minerl_treechop",
            id="dreamenv/MinerlTreechop-v0",
            env_id="MineRLTreechop-v0",  # MineRL 0.4
            **_table(_CHOP),
            max_native_steps=8000 - _MARGIN,
            score="logs collected",
            score_metric="return",
            solved=64.0,
            about="Chop trees with an iron axe. Reward: +1 per log. 64 logs, or death, terminate; 7,900 ticks (395 s) "
            "truncate.",
        ),
        MinerlTask(
            name="minerl_find_cave",
            id="dreamenv/MinerlFindCave-v0",
            env_id="MineRLBasaltFindCave-v0",  # MineRL 1.0; in 0.4 too, with smaller pictures
            **_table(_TRAVEL),
            max_native_steps=3600 - _MARGIN,
            rewards=("distance", "logs", "native"),
            score="metres walked",
            score_metric="metres",
            solved=float("inf"),
            about="Look for a cave. Only people can judge whether one was found, so success is always false. "
            f"{_COMPUTED} Death terminates; 3,500 ticks (175 s) truncate.",
        ),
        MinerlTask(
            name="minerl_survival",
            id="dreamenv/MinerlSurvival-v0",
            env_id="MineRLHumanSurvival-v0",
            since=(1, 0),
            **_table(_LIVE),
            max_native_steps=12_000,
            rewards=("logs", "distance", "native"),
            score="logs collected",
            score_metric="logs",
            solved=64.0,
            about=f"Live in an open world. {_COMPUTED} Death terminates; 12,000 ticks (10 min) truncate.",
        ),
    )
}

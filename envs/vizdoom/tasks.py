"""The table of ViZDoom tasks: the actions, rewards and score of each.

To add a scenario, add an entry here. The facts are those of ViZDoom's own ``.cfg`` files. Any other configuration file
can be played as the task "vizdoom", which is made from it (`dreamenv.envs.vizdoom.config`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dreamenv.envs.task import RealTask

__all__ = ["HEALTH_REWARD", "TICS_PER_SECOND", "VIZDOOM_TASKS", "VizdoomTask"]

TICS_PER_SECOND = 35.0
"""Doom's clock, in hertz; a native step is one tic."""

HEALTH_REWARD = 3.0
"""Reward per point of health in take_cover's setting "health", in tics of survival (random play: 300 tics on 100)."""


@dataclass(frozen=True, kw_only=True)
class VizdoomTask(RealTask):
    """A ViZDoom scenario as a task. A native action is the state of each button, 0 or 1.

    Attributes:
        scenario: the scenario's configuration file: a name of ViZDoom's own without ``.cfg``, or a path.
        buttons: the buttons an action presses, by ViZDoom's names, in the order of the action table's columns.
        score_metric: "tics" survived, "goal" (1.0 once it was reached), or "return" (the sum of the rewards).
    """

    scenario: str
    buttons: tuple[str, ...]
    score_metric: Literal["tics", "goal", "return"]
    native_rate: float = TICS_PER_SECOND
    frame_skip: int = 4


_WALK_BUTTONS = ("TURN_LEFT", "TURN_RIGHT", "MOVE_FORWARD")
_WALK_NAMES = ("noop", "turn_left", "turn_right", "forward", "forward_left", "forward_right")
_WALK_TABLE = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1))

VIZDOOM_TASKS: dict[str, VizdoomTask] = {
    task.name: task
    for task in (
        VizdoomTask(
            name="take_cover",
            id="dreamenv/VizdoomTakeCover-v0",
            scenario="take_cover",
            buttons=("MOVE_LEFT", "MOVE_RIGHT"),
            action_names=("noop", "left", "right"),
            action_table=((0, 0), (1, 0), (0, 1)),
            max_native_steps=2100,  # the cap of Ha and Schmidhuber (2018) and of OpenAI Gym's DoomTakeCover-v0
            rewards=("native", "health"),
            score="tics survived",
            score_metric="tics",
            solved=750.0,  # "solved" in OpenAI Gym's DoomTakeCover-v0: 750 tics on average over 100 episodes
            about="Dodge the fireballs of ever more monsters by stepping left and right. Reward 'native': +1 per tic "
            "survived; 'health': the same, and +3 for a point of health gained, -3 for one lost, so that damage "
            "is punished at once (potential-based shaping, which keeps the optimal policy: Ng et al. 1999). Death "
            "terminates; 2100 tics (60 s) truncate.",
        ),
        VizdoomTask(
            name="health_gathering",
            id="dreamenv/VizdoomHealthGathering-v0",
            scenario="health_gathering",
            buttons=_WALK_BUTTONS,
            action_names=_WALK_NAMES,
            action_table=_WALK_TABLE,
            max_native_steps=2100,
            rewards=("native", "medkit"),
            score="tics survived",
            score_metric="tics",
            solved=2100.0,
            about="The floor is acid; medkits restore health. Reward 'native': +1 per tic survived and -100 on death; "
            "'medkit': +1 for a step in which health rose, 0 otherwise. Death terminates; 2100 tics truncate.",
        ),
        VizdoomTask(
            name="my_way_home",
            id="dreamenv/VizdoomMyWayHome-v0",
            scenario="my_way_home",
            buttons=_WALK_BUTTONS,
            action_names=_WALK_NAMES,
            action_table=_WALK_TABLE,
            max_native_steps=2100,
            rewards=("native",),
            score="goal reached (0 or 1)",
            score_metric="goal",
            solved=1.0,
            about="Find the green vest in a maze of rooms, from a random room. Reward: +1 at the vest, -0.0001 per "
            "tic. The vest terminates; 2100 tics truncate.",
        ),
        VizdoomTask(  # a template, to be filled in from a configuration file
            name="vizdoom",
            id="dreamenv/Vizdoom-v0",
            scenario="",
            buttons=(),
            action_names=("noop",),
            action_table=((),),
            max_native_steps=10_500,  # 5 minutes, for files that set no limit
            score="return",
            score_metric="return",
            solved=math.inf,
            example_arguments={"config": "basic"},
            about="Any scenario with a configuration file: config='path.cfg', or a name of ViZDoom's own such as "
            "'deadly_corridor'. The actions are a no-op, each of the file's buttons alone, and walking or shooting "
            "together with turning or strafing. Reward and termination are the scenario's; the score is the return. "
            "Without solved=..., no episode is a success. The file's episode_timeout truncates.",
        ),
    )
}

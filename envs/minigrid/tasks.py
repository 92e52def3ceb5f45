"""The table of MiniGrid tasks, with the facts of MiniGrid's own classes and registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dreamenv.envs.task import RealTask

__all__ = ["MINIGRID_TASKS", "MinigridTask"]


@dataclass(frozen=True, kw_only=True)
class MinigridTask(RealTask):
    """A MiniGrid task. A native action is a value of MiniGrid's ``Actions``.

    Attributes:
        simulator: the class in ``minigrid.envs``.
        arguments: its keyword arguments, as in MiniGrid's registry.
    """

    simulator: str
    arguments: Mapping[str, int] = field(default_factory=dict)
    native_rate: float = 10.0  # the frame rate of MiniGrid's own window
    score: str = "goal reached (0 or 1)"
    solved: float = 1.0


# MiniGrid has no no-op. In these tasks 6, "done", is one: it has no effect, and only time passes.
_WALK_NAMES = ("noop", "turn_left", "turn_right", "forward")
_WALK_TABLE = (6, 0, 1, 2)
_REWARD = "Reward: 1 - 0.9 t / T at the goal after t of T steps, 0 otherwise. The goal terminates; "

MINIGRID_TASKS: dict[str, MinigridTask] = {
    task.name: task
    for task in (
        MinigridTask(
            name="minigrid_four_rooms",
            id="dreamenv/MinigridFourRooms-v0",
            simulator="FourRoomsEnv",
            action_names=_WALK_NAMES,
            action_table=_WALK_TABLE,
            max_native_steps=100,
            about=f"Find the green square in four rooms that are joined by gaps. {_REWARD}100 steps truncate.",
        ),
        MinigridTask(
            name="minigrid_lava_gap",
            id="dreamenv/MinigridLavaGap-v0",
            simulator="LavaGapEnv",
            arguments={"size": 7},  # MiniGrid-LavaGapS7-v0
            action_names=_WALK_NAMES,
            action_table=_WALK_TABLE,
            max_native_steps=196,
            about="Go through the gap in a river of lava, which terminates without reward, to the green square. "
            f"{_REWARD}196 steps truncate.",
        ),
        MinigridTask(
            name="minigrid_multi_room",
            id="dreamenv/MinigridMultiRoom-v0",
            simulator="MultiRoomEnv",
            arguments={"minNumRooms": 4, "maxNumRooms": 4, "maxRoomSize": 5},  # MiniGrid-MultiRoom-N4-S5-v1
            action_names=(*_WALK_NAMES, "toggle"),
            action_table=(*_WALK_TABLE, 5),
            max_native_steps=80,
            about="Go through four rooms, opening the doors between them with 'toggle', to the green square. "
            f"{_REWARD}80 steps truncate.",
        ),
        MinigridTask(
            name="minigrid_door_key",
            id="dreamenv/MinigridDoorKey-v0",
            simulator="DoorKeyEnv",
            arguments={"size": 8},  # MiniGrid-DoorKey-8x8-v0
            action_names=(*_WALK_NAMES, "pickup", "toggle"),
            action_table=(*_WALK_TABLE, 3, 5),
            max_native_steps=640,
            about="Pick up the key, unlock the door with 'toggle', go to the green square. "
            f"{_REWARD}640 steps truncate.",
        ),
    )
}

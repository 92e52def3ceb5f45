"""The table of MiniWorld tasks, with the facts of MiniWorld 2.1's own classes."""

from __future__ import annotations

from dataclasses import dataclass

from dreamenv.envs.task import RealTask

__all__ = ["MINIWORLD_TASKS", "MiniworldTask"]


@dataclass(frozen=True, kw_only=True)
class MiniworldTask(RealTask):
    """A MiniWorld environment as a task. A native action is a value of MiniWorld's ``Actions``.

    The no-op is MiniWorld's "done", which has no effect in these tasks but takes a step. A turn is 15 degrees, a step
    forward 0.15 metres.

    Attributes:
        world: the class in ``miniworld.envs``.
    """

    world: str
    action_names: tuple[str, ...] = ("noop", "turn_left", "turn_right", "forward")
    action_table: tuple[int, ...] = (7, 0, 1, 2)
    native_rate: float = 30.0  # MiniWorld's own "render_fps"
    score: str = "goal reached (0 or 1)"
    solved: float = 1.0


def _about(place: str, steps: int) -> str:
    return (
        f"Reach the red box {place}. Reward: 1 - 0.2 * steps / {steps} at the box, else 0. The box terminates; {steps} "
        "steps truncate."
    )


MINIWORLD_TASKS: dict[str, MiniworldTask] = {
    task.name: task
    for task in (
        MiniworldTask(
            name="miniworld_hallway",
            id="dreamenv/MiniworldHallway-v0",
            world="Hallway",
            max_native_steps=250,
            about=_about("at the end of a hallway 12 metres long", 250),
        ),
        MiniworldTask(
            name="miniworld_one_room",
            id="dreamenv/MiniworldOneRoom-v0",
            world="OneRoom",
            max_native_steps=180,
            about=_about("somewhere in a room of 10x10 metres", 180),
        ),
        MiniworldTask(
            name="miniworld_four_rooms",
            id="dreamenv/MiniworldFourRooms-v0",
            world="FourRooms",
            max_native_steps=250,
            about=_about("somewhere in four rooms of 6x6 metres, joined in a ring", 250),
        ),
        MiniworldTask(
            name="miniworld_tmaze",
            id="dreamenv/MiniworldTMaze-v0",
            world="TMaze",
            max_native_steps=280,
            about=_about("at one of the two ends of a T", 280),
        ),
        MiniworldTask(
            name="miniworld_maze_s3",
            id="dreamenv/MiniworldMazeS3-v0",
            world="MazeS3",
            max_native_steps=216,
            about=_about("somewhere in a maze of 3x3 small rooms, a new one in each episode", 216),
        ),
    )
}

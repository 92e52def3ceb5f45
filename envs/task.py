"""What a task is: a name, an id, a table of actions, a clock, a reward, a score, an end. Plain data, no simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dreamenv.errors import ConfigError

__all__ = ["RealTask"]


@dataclass(frozen=True, kw_only=True)
class RealTask:
    """One task of a real environment; families add what their simulator needs to know.

    Attributes:
        name: short name, such as "take_cover".
        id: gymnasium id.
        action_names: one name per discrete action; the first is the no-op.
        action_table: per discrete action, the simulator's native action, in JSON values; the first does nothing.
        native_rate: native steps per second of the simulator's own time, in hertz.
        frame_skip: native steps per agent step, by default.
        max_native_steps: the time limit in native steps; reaching it truncates.
        rewards: the reward settings this task knows; the first is the default.
        score: what ``info["score"]`` is, with its unit.
        solved: the score from which ``info["success"]`` is true.
        about: one paragraph: the task, its reward and its ending.
        example_arguments: of a task that cannot be made without arguments: some that will do, for trying it.
    """

    name: str
    id: str
    action_names: tuple[str, ...]
    action_table: tuple[Any, ...]
    native_rate: float
    frame_skip: int = 1
    max_native_steps: int
    rewards: tuple[str, ...] = ("native",)
    score: str
    solved: float
    about: str
    example_arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.action_table or len(self.action_names) != len(self.action_table):
            raise ConfigError(f"{self.name}: every action needs a name, and there must be one at least.")

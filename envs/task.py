"""Describe a task of a real environment: id, action table, time limit, rewards, score. Plain data, no simulator."""

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
        action_table: the native action of each discrete action, as JSON values; the first is the no-op.
        native_rate: native steps per second of simulated time, in hertz.
        frame_skip: native steps per agent step, by default.
        max_native_steps: the time limit in native steps, at which the episode is truncated.
        rewards: the names of the reward settings; the first is the default.
        score: what ``info["score"]`` is, with its unit.
        solved: the score from which ``info["success"]`` is true.
        about: one paragraph: the task, its reward, and what terminates or truncates an episode.
        example_arguments: keyword arguments to try a task with that cannot be made without any.
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
            raise ConfigError(
                f"{self.name} has {len(self.action_names)} action names and {len(self.action_table)} actions; "
                "give one name per action, and at least one action."
            )

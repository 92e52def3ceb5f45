"""Describe how a real environment was set up: its id, and everything that defines its frames and actions.

It is passed from the environment to the dataset and to the world, and is compared before a policy acts in a real
environment.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from dreamenv.checks import settle_types, show
from dreamenv.errors import ConfigError, DatasetError, WorldMismatchError

__all__ = ["Provenance"]

_COMPARED = ("action_table", "frame_skip", "frame_size", "resize")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The setup of a recorded environment. All values are JSON.

    Attributes:
        environment_id: its Gymnasium id.
        environment_kwargs: its keyword arguments.
        action_names: a name per discrete action, or per value of an action of another space; empty if they have none.
        action_table: the native action of each discrete value; empty for other spaces.
        frame_skip: native frames per agent step.
        frame_size: height and width of a frame, in pixels: one number if they are equal, else a pair.
        resize: the method by which native frames were resized ("area").
        frame_rate: agent steps per second of simulated time, in hertz.
        max_episode_steps: agent steps until an episode is truncated; None if never.
        score: what ``info["score"]`` is, with its unit; "" if there is none.
    """

    environment_id: str
    environment_kwargs: dict[str, Any] = field(default_factory=dict)
    action_names: tuple[str, ...] = ()
    action_table: list[Any] = field(default_factory=list)
    frame_skip: int = 1
    frame_size: int | tuple[int, int] = 64
    resize: str = "area"
    frame_rate: float = 10.0
    max_episode_steps: int | None = None
    score: str = ""

    def __post_init__(self) -> None:
        # Tuples become lists, as they would on their way through JSON, so that both sides of a comparison agree.
        for name, change in {
            "frame_size": _as_tuple,
            "action_names": _as_tuple,
            "action_table": _listed,
            "environment_kwargs": _listed,
        }.items():
            object.__setattr__(self, name, change(getattr(self, name)))
        settle_types(self)
        sides = (self.frame_size,) * 2 if isinstance(self.frame_size, int) else self.frame_size
        if min(sides) < 1:
            raise ConfigError(f"frame_size must be positive, one number or two, not {self.frame_size}.")
        object.__setattr__(self, "frame_size", sides[0] if sides[0] == sides[1] else sides)
        for name in ("frame_skip", "frame_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}.")
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps must be at least 1 or None, not {self.max_episode_steps}.")

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary of JSON values."""
        return {**dataclasses.asdict(self), "action_names": list(self.action_names)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Provenance:
        """Read back what `to_json` wrote.

        Raises:
            DatasetError: a value is missing or unknown.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise DatasetError(
                f"this provenance cannot be read: {error}. It was written by another version of dreamenv."
            ) from None

    def differences(self, other: Provenance) -> list[str]:
        """Return the settings in which frames or actions differ, with both values."""
        return [
            f"{name}: {show(getattr(self, name))} against {show(getattr(other, name))}"
            for name in _COMPARED
            if getattr(self, name) != getattr(other, name)
        ]

    def check_matches(self, other: Provenance) -> None:
        """Check that frames and actions have the same meaning in both.

        Raises:
            WorldMismatchError: they differ; the message names each difference.
        """
        differences = self.differences(other)
        if differences:
            raise WorldMismatchError(
                f"{self.environment_id} and {other.environment_id} differ in frames or actions: "
                f"{'; '.join(differences)}. Make the environment with "
                f"{', '.join(f'{k}={v!r}' for k, v in self.environment_kwargs.items()) or 'the same arguments'}."
            )


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _listed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    return value

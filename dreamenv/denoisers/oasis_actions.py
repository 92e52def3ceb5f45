"""Minecraft's actions as the 25 values that Oasis was trained on (`dreamenv.data.readers.minecraft` says which).

The camera turns by up to 20 degrees a frame each way, in steps of half a degree; a value is the turn divided by 20.
That is what the public code makes of its 81 bins, taken to be equally wide. Larger turns count as 20 degrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dreamenv.action_layout import ActionLayout
from dreamenv.data.readers.minecraft import (
    ACTION_KEYS,
    LARGEST_TURN,
    TURN_STEP,
    action_space,
    camera_value,
    key_index,
)
from dreamenv.errors import ConfigError
from dreamenv.nn.actions import ActionEncoder

__all__ = ["KeyVectors", "minerl_space", "native_vector"]

_CAMERA = ("cameraX", "cameraY")
_CAMERA_AT = [key_index(name) for name in _CAMERA]
_KEYS = tuple(key for key in ACTION_KEYS if key not in _CAMERA)
_HALF_CIRCLE = 180.0  # degrees, the bounds of MineRL's camera


def minerl_space() -> spaces.Dict:
    """Return the native actions of MineRL 1.0: 23 keys and a camera, (pitch, yaw) in degrees."""
    keys = {key: spaces.Discrete(2) for key in _KEYS}
    return spaces.Dict({**keys, "camera": spaces.Box(-_HALF_CIRCLE, _HALF_CIRCLE, (2,), np.float32)})


def native_vector(action: Mapping[str, Any]) -> tuple[float, ...]:
    """Turn a sparse native action, such as {"forward": 1, "camera": [0, 15]}, into its 25 values.

    Raises:
        ConfigError: a key that there is not.
    """
    values = np.zeros(len(ACTION_KEYS), np.float32)
    for key, value in action.items():
        if key == "camera":
            values[_CAMERA_AT] = camera_value(np.asarray(value, np.float64))
        elif key in _KEYS:
            values[key_index(key)] = value
        else:
            raise ConfigError(f"Oasis knows no key {key!r}; it knows {', '.join(_KEYS)} and camera.")
    return tuple(values.tolist())


class KeyVectors(ActionEncoder):
    """Turn actions (..., *a) of a space into float32 vectors (..., 25).

    Args:
        space: the 25 values themselves; a Dict of keys and a camera in degrees; or a Discrete with a table.
        table: for a Discrete, the vector of each of its numbers; empty for other spaces.

    Raises:
        ConfigError: another space, a key that there is not, a table of another length, or one without a use.
    """

    rows: Tensor

    def __init__(self, space: gym.Space[Any], table: tuple[tuple[float, ...], ...] = ()) -> None:
        super().__init__()
        self.size = len(ACTION_KEYS)
        self.discrete = [key in _KEYS for key in ACTION_KEYS]
        self.space = space
        self.keys: list[tuple[int, int]] = []  # from which number of the action to which of the vector
        self.camera: slice | None = None
        if table and not isinstance(space, spaces.Discrete):
            raise ConfigError(f"a table of actions goes with a Discrete space, not with {space}; leave it empty.")
        match space:
            case spaces.Discrete():
                if len(table) != space.n or any(len(row) != self.size for row in table):
                    raise ConfigError(
                        f"{space} needs a table of {space.n} actions of {self.size} values each, not one of "
                        f"{len(table)}."
                    )
            case spaces.Box():
                self._check_box(space)
            case spaces.Dict():
                self._read_keys(space)
            case _:
                raise ConfigError(
                    f"Oasis takes a Discrete, a Box of {self.size} values or a Dict of keys, not {space}."
                )
        self.register_buffer("rows", torch.tensor(table).reshape(-1, self.size), persistent=False)

    def forward(self, actions: Tensor) -> Tensor:
        """(..., *a) -> (..., 25)."""
        if isinstance(self.space, spaces.Discrete):
            return self.rows[actions.long() - int(self.space.start)]
        if isinstance(self.space, spaces.Box):
            return actions.float()
        vectors = torch.zeros(*actions.shape[:-1], self.size, device=actions.device)
        for source, target in self.keys:
            vectors[..., target] = actions[..., source].float()
        if self.camera is not None:
            steps = (actions[..., self.camera].clamp(-LARGEST_TURN, LARGEST_TURN) / TURN_STEP).round()
            vectors[..., _CAMERA_AT] = steps / (LARGEST_TURN / TURN_STEP) + 0.0
        return vectors

    def _check_box(self, space: spaces.Box) -> None:
        known = action_space()
        if space.shape != known.shape or (space.low < known.low).any() or (space.high > known.high).any():
            raise ConfigError(
                f"the values of a Box must be {self.size}, keys in [0, 1] and camera in [-1, 1], not {space}."
            )

    def _read_keys(self, space: spaces.Dict) -> None:
        for part in ActionLayout(space).parts:
            key = ".".join(part.path)
            if key == "camera" and isinstance(part.space, spaces.Box) and part.shape == (2,):
                self.camera = part.columns
            elif key in _KEYS and isinstance(part.space, spaces.Discrete) and part.space.n == 2:
                self.keys.append((part.columns.start, key_index(key)))
            else:
                raise ConfigError(
                    f"Oasis has no action {key!r}, {part.space}: it knows {', '.join(_KEYS)}, each pressed or not, "
                    "and camera, two turns in degrees."
                )

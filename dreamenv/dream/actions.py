"""Actions across the boundary: checked against the space, and turned into the tensor a model takes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from dreamenv.errors import ActionError, ConfigError

__all__ = ["ActionReader"]


class ActionReader:
    """Reads the actions of ``rows`` rows.

    Args:
        space: of one action: Discrete, MultiDiscrete or Box.
        rows: how many actions come at once.
        device: where the model is.
    """

    def __init__(self, space: gym.Space[Any], rows: int, device: torch.device) -> None:
        self._space, self._device = space, device
        self._low: Any
        self._high: Any
        if isinstance(space, gym.spaces.Discrete):
            self._low, self._high = int(space.start), int(space.start + space.n - 1)
        elif isinstance(space, gym.spaces.MultiDiscrete):
            self._low, self._high = space.start, space.start + space.nvec - 1
        elif isinstance(space, gym.spaces.Box):
            self._low, self._high = space.low, space.high
        else:
            raise ConfigError(f"dreams take actions of Discrete, MultiDiscrete or Box spaces, not of {space}.")
        self._real = isinstance(space, gym.spaces.Box)
        self._kinds = "fiu" if self._real else "iu"
        self._type = np.float32 if self._real else np.int64
        self._shape = (rows, *(space.shape or ()))
        self._bounds = [torch.as_tensor(bound, device=device) for bound in (self._low, self._high)]

    def __call__(self, actions: Any) -> Tensor:
        """Return (b, 1, *a) int64 or float32 on the model's device, of memory of its own.

        Args:
            actions: (b, *a), an array, a tensor or nested sequences.

        Raises:
            ActionError: names the row and the value that are not in the space.
        """
        if isinstance(actions, Tensor) and actions.device.type != "cpu":
            return self._read_tensor(actions)
        array = np.asarray(actions)
        if array.shape != self._shape or array.dtype.kind not in self._kinds:
            raise ActionError(
                f"actions must be {self._shape} {'numbers' if self._real else 'integers'}, one of {self._space} per "
                f"row, not {array.shape} {array.dtype}."
            )
        good = (array >= self._low) & (array <= self._high)  # False for NaN
        if not good.all():
            row = int(np.argmin(good.reshape(len(array), -1).all(axis=1)))
            raise ActionError(f"the action {array[row]} of row {row} is not in {self._space}.")
        return torch.from_numpy(array.astype(self._type)).unsqueeze(1).to(self._device)

    def _read_tensor(self, actions: Tensor) -> Tensor:
        if tuple(actions.shape) != self._shape or actions.is_floating_point() != self._real:
            raise ActionError(
                f"actions must be {self._shape} {'float32' if self._real else 'int64'}, one of {self._space} per row, "
                f"not {tuple(actions.shape)} {actions.dtype}."
            )
        actions = actions.detach().to(self._device)
        good = (actions >= self._bounds[0]) & (actions <= self._bounds[1])
        if not bool(good.all()):  # an index out of range would bring down the device, so this wait is worth it
            row = int(good.reshape(len(actions), -1).all(dim=1).to(torch.uint8).argmin())
            raise ActionError(f"the action {actions[row].tolist()} of row {row} is not in {self._space}.")
        return actions.to(torch.float32 if self._real else torch.int64, copy=True).unsqueeze(1)

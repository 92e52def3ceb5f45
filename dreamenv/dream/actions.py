"""Actions across the boundary: checked against the space, and turned into the tensor a model takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from dreamenv.action_layout import ActionLayout
from dreamenv.checks import to_array
from dreamenv.errors import ActionError

__all__ = ["ActionReader", "one_row"]


class ActionReader:
    """Reads the actions of ``rows`` rows.

    Args:
        space: of one action: Discrete, MultiDiscrete, MultiBinary, Box, or a Dict of these.
        rows: how many actions come at once.
        device: where the model is.

    Raises:
        ConfigError: another kind of space.
    """

    def __init__(self, space: gym.Space[Any], rows: int, device: torch.device) -> None:
        self._layout, self._device, self._rows = ActionLayout(space), device, rows
        self._real = self._layout.dtype.kind == "f"
        self._kinds = "fiu" if self._real else "iu"
        self._shape = (rows, *self._layout.shape)
        self._bounds = [torch.as_tensor(bound, device=device) for bound in (self._layout.low, self._layout.high)]
        self._whole = torch.as_tensor(self._layout.whole, device=device)

    def __call__(self, actions: Any) -> Tensor:
        """Return (b, 1, *a) int64 or float32 on the model's device, of memory of its own.

        Args:
            actions: (b, *a), an array, a tensor or nested sequences. Those of a Dict may also be a dictionary of
                batched entries, as gymnasium's vector environments take them.

        Raises:
            ActionError: names the row and the value that are not in the space.
        """
        if isinstance(actions, Tensor) and actions.device.type != "cpu":
            return self._read_tensor(actions.detach())
        layout, host = self._layout, _on_host(actions)
        array = layout.pack_rows(host) if isinstance(host, Mapping) else host
        if array.shape != self._shape or array.dtype.kind not in self._kinds:
            raise self._misfit(array.shape, array.dtype)
        good = layout.inside(array)
        if not good.all():
            row = int(np.argmin(good))
            raise ActionError(f"the action {array[row]} of row {row} is not in {layout.space}.")
        return torch.from_numpy(array.astype(layout.dtype)).unsqueeze(1).to(self._device)

    def _read_tensor(self, actions: Tensor) -> Tensor:
        whole = not (actions.is_floating_point() or actions.is_complex() or actions.dtype == torch.bool)
        if tuple(actions.shape) != self._shape or not (whole or (self._real and actions.is_floating_point())):
            raise self._misfit(tuple(actions.shape), actions.dtype)
        actions = actions.to(self._device)
        good = (actions >= self._bounds[0]) & (actions <= self._bounds[1])
        if self._real:
            good &= ~self._whole | (actions == actions.round())
        if not bool(good.all()):  # an index out of range would bring down the device, so this wait is worth it
            row = int(good.reshape(len(actions), -1).all(dim=1).to(torch.uint8).argmin())
            raise ActionError(f"the action {actions[row].tolist()} of row {row} is not in {self._layout.space}.")
        return actions.to(torch.float32 if self._real else torch.int64, copy=True).unsqueeze(1)

    def _misfit(self, shape: tuple[int, ...], dtype: Any) -> ActionError:
        kind = "numbers" if self._real else "integers"
        return ActionError(
            f"actions must be {self._shape} {kind}, one of {self._layout.space} per row, not {shape} {dtype}."
        )


def one_row(action: Any) -> Any:
    """Turn one action, or each entry of one, into a batch of one row."""
    if isinstance(action, Mapping):
        return {key: one_row(entry) for key, entry in action.items()}
    if isinstance(action, Tensor):
        return action[None]
    return to_array("an action", action, error=ActionError)[None]


def _on_host(actions: Any) -> Any:
    """Turn actions, or each entry of a dictionary of them, into arrays."""
    if isinstance(actions, Mapping):
        return {key: _on_host(entry) for key, entry in actions.items()}
    return to_array("actions", actions, error=ActionError)

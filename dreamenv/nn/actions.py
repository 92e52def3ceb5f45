"""Encode actions as vectors: one-hot where they are discrete, scaled to [-1, 1] where they are continuous."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.action_layout import ActionLayout, ActionPart
from dreamenv.errors import ConfigError

__all__ = ["ActionEncoder", "ActionVector"]


_MOST = 2**20  # numbers of a vector
_WIDEST = 1e4  # distance of bounds; at 1e4, actions of 1 are still told apart by 2e-4


class ActionEncoder(nn.Module, ABC):
    """Encode actions (..., *a) of a space into float32 vectors (..., size).

    Attributes:
        size: width of a vector.
        discrete: for each entry of a vector whether it is discrete; else it is continuous.
    """

    size: int
    discrete: list[bool]

    @abstractmethod
    def forward(self, actions: Tensor) -> Tensor:
        """(..., *a) -> (..., size)."""


class ActionVector(ActionEncoder):
    """Encode actions (..., *a) of a space into float32 vectors (..., size).

    Discrete(n) becomes n indicators, MultiDiscrete and MultiBinary the indicators of each of their parts, and Box its
    flattened values, scaled to [-1, 1] (DreamerV3 likewise keeps actions within unit magnitude). Bounds that are
    infinite, or so wide that they say nothing of the actions, would scale all of them to one number: such values x
    become asinh(x), which is x near 0 and grows like a logarithm. A Dict becomes the vectors of its entries one after
    another, in the order of `dreamenv.action_layout`.

    Raises:
        ConfigError: for other spaces, or one of more than a million choices.
    """

    low: Tensor
    scale: Tensor
    bounded: Tensor

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__()
        layout = ActionLayout(space)
        self.axes, self.width = len(layout.shape), layout.size
        low, high = layout.low.reshape(-1).astype(np.float64), layout.high.reshape(-1).astype(np.float64)
        bounded = high - low <= _WIDEST
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        scale = 2.0 / np.maximum(high - low, 1e-8)
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32), persistent=False)
        self.register_buffer("bounded", torch.as_tensor(bounded), persistent=False)
        self.all_bounded = bool(bounded.all())
        self.parts = [_Part(part, layout) for part in layout.parts]
        self.size = sum(part.size for part in self.parts)
        if self.size > _MOST:
            raise ConfigError(f"actions of {space} would be vectors of {self.size:,} numbers, more than {_MOST:,}.")

    @cached_property
    def discrete(self) -> list[bool]:  # type: ignore[override]
        """Whether each of the ``size`` numbers of a vector is an indicator."""
        return [bool(part.choices) for part in self.parts for _ in range(part.size)]

    def forward(self, actions: Tensor) -> Tensor:
        """(..., *a) -> (..., size)."""
        lead = actions.shape[: actions.ndim - self.axes]
        flat = actions.reshape(*lead, self.width)
        vectors = [self._one_hot(flat, part) if part.choices else self._continuous(flat, part) for part in self.parts]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1)

    def project(self, actions: Tensor, weight: Tensor) -> Tensor:
        """Return the vectors' product with a weight (outputs, size): (..., *a) -> (..., outputs) float32.

        One choice among n has one indicator, whose column of the weight is looked up, with less work and fewer calls.
        """
        part = self.parts[0]
        if len(self.parts) > 1 or len(part.choices) != 1:
            return functional.linear(self(actions).to(weight.dtype), weight).float()
        index, table = actions.reshape(actions.shape[: actions.ndim - self.axes]), weight.t()
        if index.numel() >= len(table):  # columns read again and again become rows first
            table = table.contiguous()
        return functional.embedding(index - part.first[0] if part.first[0] else index, table).float()

    def _continuous(self, flat: Tensor, part: _Part) -> Tensor:
        at = part.columns
        scaled = (flat[..., at] - self.low[at]) * self.scale[at] - 1.0
        return scaled if self.all_bounded else torch.where(self.bounded[at], scaled, torch.asinh(flat[..., at]))

    @staticmethod
    def _one_hot(flat: Tensor, part: _Part) -> Tensor:
        chosen = flat[..., part.columns].long().unbind(-1)
        parts = [
            functional.one_hot(one - first, n).float()
            for one, first, n in zip(chosen, part.first, part.choices, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class _Part:
    """How to encode some columns: ``choices`` counts the indicators of each, and is empty for continuous ones."""

    def __init__(self, part: ActionPart, layout: ActionLayout) -> None:
        self.columns = part.columns
        self.first = layout.low.reshape(-1)[part.columns].astype(int).tolist() if part.discrete else []
        last = layout.high.reshape(-1)[part.columns].astype(int).tolist() if part.discrete else []
        self.choices = [int(b - a + 1) for a, b in zip(self.first, last, strict=True)]
        self.size = sum(self.choices) if part.discrete else part.columns.stop - part.columns.start

"""Actions as vectors: one-hot for discrete spaces, scaled to [-1, 1] for boxes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError

__all__ = ["ActionVector"]


class ActionVector(nn.Module):
    """Turn actions (..., *a) of a space into float32 vectors (..., size).

    Discrete(n) becomes n indicators, MultiDiscrete the indicators of each of its parts, and Box its flattened values,
    scaled to [-1, 1] where a bound is finite (DreamerV3 likewise keeps actions within unit magnitude).

    Raises:
        ConfigError: for other spaces.
    """

    low: Tensor
    scale: Tensor

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__()
        self.choices: tuple[int, ...]
        if isinstance(space, gym.spaces.Discrete):
            self.choices, self.offset, self.size = (int(space.n),), int(space.start), int(space.n)
        elif isinstance(space, gym.spaces.MultiDiscrete):
            self.choices, self.offset = tuple(int(n) for n in space.nvec.ravel()), 0
            self.size = sum(self.choices)
        elif isinstance(space, gym.spaces.Box):
            self.choices, self.offset, self.size = (), 0, int(np.prod(space.shape))
            bounded = np.isfinite(space.low) & np.isfinite(space.high)
            low = np.where(bounded, space.low, -1.0).ravel()
            high = np.where(bounded, space.high, 1.0).ravel()
            self.register_buffer("low", torch.as_tensor(low, dtype=torch.float32), persistent=False)
            scale = torch.as_tensor(2.0 / np.maximum(high - low, 1e-8), dtype=torch.float32)
            self.register_buffer("scale", scale, persistent=False)
        else:
            raise ConfigError(f"actions of {space} cannot be fed to a model; use Discrete, MultiDiscrete or Box.")
        self.axes = len(space.shape or ())

    def forward(self, actions: Tensor) -> Tensor:
        """(..., *a) -> (..., size)."""
        lead = actions.shape[: actions.ndim - self.axes]
        if not self.choices:
            return (actions.reshape(*lead, self.size) - self.low) * self.scale - 1.0
        if len(self.choices) == 1:
            return functional.one_hot(actions.reshape(lead) - self.offset, self.size).float()
        parts = actions.reshape(*lead, len(self.choices)).unbind(-1)
        return torch.cat([functional.one_hot(a, n).float() for a, n in zip(parts, self.choices, strict=True)], dim=-1)

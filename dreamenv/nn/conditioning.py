"""Embed what a denoiser is conditioned on in one vector: noise level, actions, step size and time shift."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ConditionEmbedding", "FourierFeatures"]


class FourierFeatures(nn.Module):
    """Encode a number as cosines and sines of fixed random frequencies (Tancik et al. 2020), saved with the weights.

    Args:
        size: how many features, an even number.
    """

    frequencies: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(size // 2))

    def forward(self, numbers: Tensor) -> Tensor:
        """(n,) -> (n, size)."""
        angles = 2 * math.pi * numbers[:, None] * self.frequencies
        return torch.cat((angles.cos(), angles.sin()), dim=-1)


class ConditionEmbedding(nn.Module):
    """Embed noise level, actions, size of a sampler's step and time shift in one vector.

    Args:
        action_size: width of the actions' vector; 0 if actions are conditioned on elsewhere.
        embed_dim: of the vector, an even number.
        step_size: include the size of a sampler's step.
        time_shift: include how far ahead a frame lies.
    """

    def __init__(self, action_size: int, embed_dim: int, *, step_size: bool = False, time_shift: bool = False) -> None:
        super().__init__()
        self.time = FourierFeatures(embed_dim)
        self.action = nn.Linear(action_size, embed_dim) if action_size else None
        self.step_size = FourierFeatures(embed_dim) if step_size else None
        self.time_shift = FourierFeatures(embed_dim) if time_shift else None
        self.mlp = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.SiLU(), nn.Linear(embed_dim, embed_dim))

    def forward(
        self, time: Tensor, actions: Tensor, step_size: Tensor | None = None, time_shift: Tensor | None = None
    ) -> Tensor:
        """Times (...) and actions (..., a) -> (..., embed_dim). Step sizes and shifts are 1 where they are None."""
        total = _features(self.time, time)
        if self.action is not None:
            total = total + self.action(actions)
        if self.step_size is not None:  # in doublings, as the sizes are
            total = total + _features(self.step_size, _log2(step_size, time) / 4)
        if self.time_shift is not None:
            total = total + _features(self.time_shift, _log2(time_shift, time) / 4)
        embedded: Tensor = self.mlp(total)
        return embedded


def _log2(number: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if number is None else number.to(like.dtype).log2()


def _features(features: FourierFeatures, numbers: Tensor) -> Tensor:
    encoded: Tensor = features(numbers.flatten())
    return encoded.reshape(*numbers.shape, -1)

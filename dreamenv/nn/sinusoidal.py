"""Sinusoidal embeddings of numbers such as timesteps (Ho et al. 2020, after Vaswani et al. 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["sinusoidal_embedding"]

_LONGEST = 10_000.0  # ratio of the longest wavelength to the shortest


def sinusoidal_embedding(numbers: Tensor, size: int) -> Tensor:
    """Return cosines, then sines, of numbers (...), such as timesteps: (..., size), an even number."""
    half = size // 2
    order = torch.arange(half, device=numbers.device, dtype=numbers.dtype)
    angles = numbers[..., None] * torch.exp(-math.log(_LONGEST) * order / half)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)

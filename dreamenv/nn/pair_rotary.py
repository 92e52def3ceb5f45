"""Rotary positions (RoPE) on neighbouring channels, as in published video transformers.

Channels 2i and 2i + 1 are rotated together, by speed i times the position (RoPE, Su et al. 2021). In space a position
runs from -1 to 1 over a frame's rows, and over its columns, whatever their number, and speeds are evenly spaced; in
time positions are counted, and each pair rotates a constant factor slower than the one before it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["apply_rotary", "place_angles", "place_speeds", "time_speeds"]

_BASE = 10_000.0  # ratio of the fastest to the slowest rotation in time


def place_speeds(pairs: int, highest: float) -> Tensor:
    """Return the speeds (pairs,) along one axis of a frame: from pi to half the highest frequency times pi."""
    return torch.linspace(1.0, highest / 2, pairs) * math.pi


def time_speeds(pairs: int) -> Tensor:
    """Return the speeds (pairs,) along time, in radians per frame."""
    return 1.0 / _BASE ** (torch.arange(0, 2 * pairs, 2) / (2 * pairs))


def place_angles(rows: int, columns: int, speeds: Tensor) -> Tensor:
    """Return the angles (rows * columns, 2 pairs) of every place: those of its row, then those of its column."""
    positions = (torch.linspace(-1, 1, n, device=speeds.device, dtype=speeds.dtype) for n in (rows, columns))
    down, across = (position[:, None] * speeds for position in positions)
    both = torch.broadcast_tensors(down[:, None], across[None])
    return torch.cat(both, dim=-1).flatten(0, 1)


def apply_rotary(tokens: Tensor, angles: Tensor) -> Tensor:
    """Rotate the first pairs of channels (..., d) by angles (..., pairs); channels beyond them stay as they are."""
    rotating, rest = tokens.tensor_split([2 * angles.shape[-1]], dim=-1)
    first, second = rotating.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = angles.cos(), angles.sin()
    rotated = torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=-1).flatten(-2)
    return torch.cat((rotated.type_as(tokens), rest), dim=-1)

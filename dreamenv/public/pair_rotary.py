"""Rotary positions that turn neighbouring channels, as the public video transformers have them.

Channels 2i and 2i + 1 turn together, by an angle that is speed i times the position (RoPE, Su et al. 2021). In space a
position runs from -1 to 1 over a frame's rows, and over its columns, whatever their number, and speeds are evenly
apart; in time positions are counted, and each pair turns a constant factor slower than the one before it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["place_angles", "place_speeds", "time_speeds", "turn"]

_BASE = 10_000.0  # by how much the slowest pair would turn slower in time than the fastest


def place_speeds(pairs: int, highest: float) -> Tensor:
    """Return the speeds (pairs,) along one axis of a frame: from pi to half the highest frequency times pi."""
    return torch.linspace(1.0, highest / 2, pairs) * math.pi


def time_speeds(pairs: int) -> Tensor:
    """Return the speeds (pairs,) along time, in radians per frame."""
    return 1.0 / _BASE ** (torch.arange(0, 2 * pairs, 2).float() / (2 * pairs))


def place_angles(rows: int, columns: int, speeds: Tensor) -> Tensor:
    """Return the angles (rows * columns, 2 pairs) of every place: those of its row, then those of its column."""
    down, across = (torch.linspace(-1, 1, n, device=speeds.device)[:, None] * speeds for n in (rows, columns))
    both = torch.broadcast_tensors(down[:, None], across[None])
    return torch.cat(both, dim=-1).flatten(0, 1)


def turn(tokens: Tensor, angles: Tensor) -> Tensor:
    """Turn the first pairs of channels (..., d) by angles (..., pairs); channels beyond them stay as they are."""
    moved, rest = tokens.tensor_split([2 * angles.shape[-1]], dim=-1)
    first, second = moved.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = angles.cos(), angles.sin()
    turned = torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=-1).flatten(-2)
    return torch.cat((turned.type_as(tokens), rest), dim=-1)

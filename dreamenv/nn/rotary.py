"""Rotary positions (RoPE, Su et al. 2021): pairs of channels are rotated by angles that grow with a token's position.

The product of a query and a key then depends only on their relative position, so cached keys stay valid while a window
slides. The angles are the same in all layers of a network, which computes them once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Rotary", "angles_of", "axial_rotary", "place_rotary", "time_rotary"]

_BASE = 10_000.0  # of the rotations' wavelengths in time
_SPACE_BASE = 100.0  # in space, where frames have some ten rows of tokens

Angles = tuple[Tensor, Tensor]
"""Cosines and sines."""


@dataclass(frozen=True)
class Rotary:
    """Rotation angles of pairs of channels.

    Attributes:
        parts: cosines and sines (..., d / 2) per coordinate, each for d consecutive channels.
    """

    parts: tuple[Angles, ...]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Rotate channels (..., d), of all parts together."""
        rotated = []
        pieces = tokens.split([2 * cosine.shape[-1] for cosine, _ in self.parts], dim=-1)
        for piece, (cosine, sine) in zip(pieces, self.parts, strict=True):
            first, second = piece.chunk(2, dim=-1)
            rotated.append(torch.addcmul(first * cosine, second, sine, value=-1))
            rotated.append(torch.addcmul(second * cosine, first, sine))
        return torch.cat(rotated, dim=-1)


def time_rotary(time: Tensor, channels: int) -> Rotary:
    """Return rotations of all channels by the time (...)."""
    return Rotary((angles_of(time, channels, _BASE),))


def place_rotary(rows: int, columns: int, channels: int) -> Rotary:
    """Return rotations of half of the channels by the row, half by the column, of rows * columns places."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    row, column = (angles_of(one, channels // 2, _SPACE_BASE) for one in places.unbind(-1))
    return Rotary((row, column))


def axial_rotary(time: Tensor, row: Tensor, column: Tensor, channels: int) -> Rotary:
    """Return rotations of half of the channels by the time, a quarter each by row and column, (...) each."""
    of_time = angles_of(time, channels // 2, _BASE)
    return Rotary((of_time, *(angles_of(one, channels // 4, _SPACE_BASE) for one in (row, column))))


def angles_of(positions: Tensor, channels: int, base: float) -> Angles:
    """Return cosines and sines of angles that grow with positions (...), (..., channels / 2) each.

    The slowest pair rotates almost ``base`` times slower than the fastest, which rotates by 1 radian per position.
    """
    half = channels // 2
    speeds = base ** (-torch.arange(half, device=positions.device) / half)
    angles = positions[..., None] * speeds
    return angles.cos(), angles.sin()

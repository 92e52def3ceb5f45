"""Where in past frames a place was seen: block matching, by what is decoded of a frame so far.

Sender and receiver compute it from the same decoded pixels, so no motion is sent. All sums are of whole numbers, which
floats hold exactly, so they are the same however they are computed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Alignment", "align"]

_RANK = 1 << 12  # more than there are candidates; a cost times this, plus a candidate's rank, is a single number


@dataclass(frozen=True, eq=False)
class Alignment:
    """The best match of every cell of a frame.

    Attributes:
        cell: height and width of a cell in pixels.
        frame: (n, y, x) int64, which past frame.
        shift: (n, 2, y, x) int64, rows and columns from a place in the frame to its match.
        cost: (n, y, x) float32, the mean absolute difference around it, in levels of 255.
    """

    cell: int
    frame: Tensor
    shift: Tensor
    cost: Tensor


def align(known: Tensor, past: Tensor, *, cell: int, reach: tuple[int, int], window: int) -> Alignment:
    """Find the best match of every cell.

    Args:
        known: (n, c, y, x) float32, whole levels in [0, 255]: a frame's pixels at every ``cell``-th row and column.
        past: (n, r, c, h, w) uint8, past frames, the latest first.
        cell: the distance of the known pixels.
        reach: rows and columns up to which matches are looked for.
        window: side of the square of cells that are compared, an odd number.
    """
    _, r, c, h, w = past.shape
    (up, left), shifts = reach, _shifts(reach)
    # Brightness alone is compared. Borders are repeated, and all shifts looked at are views of one padded array.
    bright = past.sum(dim=2, dtype=torch.int32).float()
    padded = functional.pad(bright, (left, left, up, up), mode="replicate")
    windows = padded.unfold(2, h, 1).unfold(3, w, 1)[..., ::cell, ::cell].flatten(2, 3)  # n r d y x
    cost = (windows - known.sum(dim=1)[:, None, None]).abs_().flatten(1, 2)
    for sides, border in (((window, 1), (window // 2, 0)), ((1, window), (0, window // 2))):
        cost = functional.avg_pool2d(cost, sides, stride=1, padding=border, divisor_override=1)
    assert cost.shape[1] <= _RANK
    # Without a difference the latest frame and the least shift win: their rank, below the cost, is part of one number.
    number = torch.arange(r, dtype=torch.int32)[:, None] * len(shifts.rank) + shifts.rank
    best = cost.to(torch.int32).mul_(_RANK).add_(number.flatten()[:, None, None]).amin(dim=1)
    rank = (best % _RANK).long()
    shift = shifts.values[rank % len(shifts.rank)].movedim(-1, 1)
    return Alignment(cell, rank // len(shifts.rank), shift, (best // _RANK).float() / (c * window**2))


@dataclass(frozen=True, eq=False)
class _Shifts:
    rank: Tensor  # (d,) int32, of the shifts row by row: the smallest has rank 0
    values: Tensor  # (d, 2) rows and columns by rank


@functools.lru_cache(maxsize=8)
def _shifts(reach: tuple[int, int]) -> _Shifts:
    up, left = reach
    rows, columns = torch.meshgrid(torch.arange(-up, up + 1), torch.arange(-left, left + 1), indexing="ij")
    every = torch.stack((rows.flatten(), columns.flatten()), dim=1)
    order = every.square().sum(dim=1).argsort(stable=True)
    return _Shifts(order.argsort().to(torch.int32), every[order])

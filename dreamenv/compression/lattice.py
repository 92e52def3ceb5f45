"""The order in which a frame's pixels are coded: a lattice that is filled from coarse to fine, in a few passes.

Every eighth pixel of every eighth row comes first. Then, at each halving of the distance, the centres of the squares
are coded given their corners, and then the middles of the sides given all four neighbours. So all pixels of a pass are
coded at once, and three of four pixels have decoded ones right beside them (as in interlaced image formats, and in
multi-scale autoregressive models: Reed et al. 2017).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["COARSEST", "LatticePass", "lattice"]

COARSEST = 8  # distance of the pixels that come first, in pixels

# Offsets of decoded pixels around one that is to be coded, nearest first, in halves of the distance being halved.
_AROUND_CENTRES = ((-1, -1), (-1, 1), (1, -1), (1, 1), (-1, -3), (-1, 3), (1, -3), (1, 3), (-3, -1), (-3, 1), (3, -1),
                   (3, 1))  # fmt: skip
_AROUND_SIDES = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -2), (-1, 2), (1, -2), (1, 2), (-2, -1), (-2, 1), (2, -1),
                 (2, 1), (0, -3), (0, 3), (-3, 0), (3, 0))  # fmt: skip


@dataclass(frozen=True, eq=False)
class LatticePass:
    """One pass.

    Attributes:
        spacing: the distance of the lattice that is known before the squares are halved; `COARSEST` in the first pass.
        targets: (p, 2) int64, row and column of the pixels that are coded.
        neighbours: (n, p, 2) int64, decoded pixels around each, the four nearest first; none in the first pass.
    """

    spacing: int
    targets: Tensor
    neighbours: Tensor


@functools.lru_cache(maxsize=8)
def lattice(height: int, width: int) -> tuple[LatticePass, ...]:
    """Return the passes over frames of a size, in order; together they code every pixel once."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    first = (rows % COARSEST == 0) & (columns % COARSEST == 0)
    passes = [LatticePass(COARSEST, first.nonzero(), torch.zeros((0, int(first.sum()), 2), dtype=torch.int64))]
    spacing = COARSEST
    while spacing > 1:
        half = spacing // 2
        on_grid = (rows % half == 0) & (columns % half == 0)
        odd_row, odd_column = rows % spacing == half, columns % spacing == half
        for chosen, offsets in (
            (on_grid & odd_row & odd_column, _AROUND_CENTRES),
            (on_grid & (odd_row ^ odd_column), _AROUND_SIDES),
        ):
            targets = chosen.nonzero()
            around = torch.stack([_around(targets, offset, half, height, width) for offset in offsets])
            passes.append(LatticePass(spacing, targets, around))
        spacing = half
    return tuple(one for one in passes if len(one.targets))


def _around(targets: Tensor, offset: tuple[int, int], half: int, height: int, width: int) -> Tensor:
    """Return the pixel at an offset from each target, (p, 2), or where the frame ends another one that is decoded.

    A lattice is its own mirror image about a pixel to be coded, so the offset is mirrored; in frames too small for
    that, too, the pixel above or to the left is taken, which there always is.
    """
    step, size = torch.tensor(offset) * half, torch.tensor((height, width))
    places, mirrored = targets + step, targets - step
    places = torch.where((places >= 0) & (places < size), places, mirrored)
    inside = ((places >= 0) & (places < size)).all(dim=1, keepdim=True)
    fallback = targets - (targets % (2 * half) == half).long() * half
    return torch.where(inside, places, fallback)

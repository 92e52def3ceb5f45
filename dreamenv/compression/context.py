"""What is known around the pixels of a pass: decoded neighbours, their matches in past frames, and the dream.

Letters: ``n`` frames, ``r`` past frames, ``p`` pixels, ``c`` channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamenv.compression.alignment import Alignment
from dreamenv.compression.lattice import LatticePass

__all__ = ["ANCHORS", "PassContext", "context_size", "gather_context"]

ANCHORS = 5
"""Guesses of a pixel: neighbours, match, frame before, dream, and the match corrected by how it missed neighbours."""

_CROSS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
_SQUARE = (*_CROSS, (-1, -1), (-1, 1), (1, -1), (1, 1))
_SCALARS = 4  # the place, the cost of the match, the spread of neighbours


@dataclass(frozen=True, eq=False)
class PassContext:
    """What a network is given of each pixel.

    Attributes:
        differences: (n, p, d) float32, levels around it less `centre`.
        scalars: (n, p, s) float32, about 1 in size: the centre's levels, and what else is no difference.
        centre: (n, c, p) float32, a guess of the pixel, in levels.
        anchors: (n, ANCHORS, c, p) float32, guesses that mixtures are set up around, in levels.
    """

    differences: Tensor
    scalars: Tensor
    centre: Tensor
    anchors: Tensor


def context_size(neighbours: int, channels: int) -> tuple[int, int]:
    """Return the numbers of differences and of scalars of a pixel with so many decoded neighbours."""
    return channels * (2 * neighbours + 2 * len(_SQUARE) + len(_CROSS)), channels + _SCALARS


def gather_context(
    frame: Tensor, past: Tensor, dream: Tensor, alignment: Alignment, one: LatticePass, chosen: Tensor | None = None
) -> PassContext:
    """Gather the context of a pass.

    Args:
        frame: (n, c, h, w) float32, levels; only what earlier passes decoded is looked at.
        past: (n, r, c, h, w) uint8, the latest first.
        dream: (n, c, h, w) uint8, what the world predicts.
        alignment: of this pass.
        one: the pass.
        chosen: (p,) int64, which of its targets; None for all.
    """
    targets, neighbours = one.targets, one.neighbours
    if chosen is not None:
        targets, neighbours = targets[chosen], neighbours[:, chosen]
    n, _, h, w = frame.shape
    cells = targets // alignment.cell
    at = (slice(None), cells[:, 0], cells[:, 1])
    number, cost = alignment.frame[at], alignment.cost[at]  # n p
    shift = torch.stack([alignment.shift[:, axis][at] for axis in (0, 1)], dim=-1)  # n p 2

    square = targets + torch.tensor(_SQUARE)[:, None]  # 9 p 2
    known = _read(frame, neighbours)  # n c k p
    matched = _read_past(past, number, torch.cat((square, neighbours)) + shift[:, None])  # n c 9+k p
    before = _read(past[:, 0], square)
    dreamt = _read(dream, square[: len(_CROSS)])
    match, k = matched[:, :, 0], known.shape[2]
    if k:
        centre = known[:, :, :4].mean(dim=2)
        corrected = match + centre - matched[:, :, len(_SQUARE) : len(_SQUARE) + 4].mean(dim=2)
        spread = (known[:, :, :4] - centre[:, :, None]).abs().mean(dim=(1, 2))
    else:
        centre, corrected, spread = match, match, torch.zeros_like(cost)
    around = torch.cat((known, matched, before, dreamt), dim=2) - centre[:, :, None]
    place = targets.float() / torch.tensor([h, w]) * 2 - 1
    scalars = torch.cat(
        (
            (centre / 128 - 1).transpose(1, 2),
            place.expand(n, -1, -1),
            torch.stack((torch.log1p(cost) - 1.5, torch.log1p(spread) - 1.5), dim=-1),
        ),
        dim=-1,
    )
    anchors = torch.stack((centre, match, before[:, :, 0], dreamt[:, :, 0], corrected), dim=1)
    return PassContext(around.flatten(1, 2).transpose(1, 2).contiguous(), scalars, centre, anchors)


def _read(frame: Tensor, places: Tensor) -> Tensor:
    """Return (n, c, k, p) float32 of frames (n, c, h, w) at places (k, p, 2), or at the border next to them."""
    h, w = frame.shape[-2:]
    return frame[:, :, places[..., 0].clamp(0, h - 1), places[..., 1].clamp(0, w - 1)].float()


def _read_past(past: Tensor, number: Tensor, places: Tensor) -> Tensor:
    """Return (n, c, k, p) float32 of past frames by number (n, p), at places (n, k, p, 2) or the border nearby."""
    n, r, c, h, w = past.shape
    row, column = places[..., 0].clamp(0, h - 1), places[..., 1].clamp(0, w - 1)
    index = ((number[:, None] * h + row) * w + column).flatten(1)  # n (k p)
    flat = past.transpose(1, 2).reshape(n, c, r * h * w)
    found: Tensor = flat.gather(2, index[:, None].expand(-1, c, -1)).unflatten(2, row.shape[1:]).float()
    return found

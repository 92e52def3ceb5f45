"""Convolutions over a few rows at a time, where that is faster."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["in_pieces"]

_CACHE = 1 << 20  # values of a layer's maps that a processor's core keeps near it: 4 MiB of float32


def in_pieces(function: Callable[..., Tensor], values: int, *tensors: Tensor) -> Tensor:
    """Apply a function to a few rows at a time while dreaming on a processor.

    Maps of many rows do not stay in its cache from one layer to the next; those of a few do. DIAMOND's U-Net over 32
    rows is 1.4 times as fast in pieces of 4.

    Args:
        function: takes tensors (n, ...) and returns one; its rows are independent of each other.
        values: of the largest map within it, per row.
        tensors: (n, ...) each.
    """
    n, rows = len(tensors[0]), max(1, _CACHE // values)
    if n <= rows or tensors[0].device.type != "cpu" or torch.is_grad_enabled():
        return function(*tensors)
    return torch.cat([function(*piece) for piece in zip(*(one.split(rows) for one in tensors), strict=True)])

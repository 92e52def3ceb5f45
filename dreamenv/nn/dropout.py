"""Dropout with a generator as argument, so that a training step can be repeated exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["dropout"]


def dropout(
    values: Tensor, rate: float, generator: torch.Generator | None, shape: Sequence[int] | None = None
) -> Tensor:
    """Set a random share of the values to 0 and scale up the rest (Srivastava et al. 2014).

    Args:
        values: of any shape.
        rate: the share, in [0, 1); 0 changes nothing.
        generator: of the mask; None for torch's global one.
        shape: of the mask, which broadcasts against the values; None for theirs.
    """
    if rate == 0:
        return values
    size = tuple(values.shape if shape is None else shape)
    kept = torch.rand(size, generator=generator, device=values.device) >= rate
    return values * kept / (1 - rate)

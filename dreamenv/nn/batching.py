"""Run layers on rows in the fastest layout: in chunks of a few rows, or as one matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["linear_2d", "map_in_chunks"]

_CACHE = 1 << 20  # values of a feature map that fit the cache of a CPU core: 4 MiB of float32


def map_in_chunks(function: Callable[..., Tensor], values: int, *tensors: Tensor) -> Tensor:
    """Apply a function to chunks of a few rows, at inference on a CPU.

    Feature maps of few rows stay in the cache from one layer to the next. DIAMOND's U-Net over 32 rows is 1.4 times as
    fast in chunks of 4.

    Args:
        function: takes tensors (n, ...) and returns one; its rows are independent of each other.
        values: of the largest map within it, per row.
        tensors: (n, ...) each.
    """
    n, rows = len(tensors[0]), max(1, _CACHE // values)
    if n <= rows or tensors[0].device.type != "cpu" or torch.is_grad_enabled():
        return function(*tensors)
    return torch.cat([function(*chunk) for chunk in zip(*(one.split(rows) for one in tensors), strict=True)])


def linear_2d(layer: nn.Linear, tokens: Tensor) -> Tensor:
    """Apply a layer to tokens (..., width), flattened to one matrix.

    On transposed tokens, and on a single frame, whose strides look transposed, torch would run many products of small
    matrices, in bfloat16 with a copy of the weights for each: four times as slow for 64 dreams of the preset
    ``diffusion_forcing``.
    """
    product: Tensor = layer(tokens.flatten(0, -2)).unflatten(0, tokens.shape[:-1])
    return product

"""Convert frames: float32 ``c h w`` in [0, 1] inside models, uint8 ``h w c`` outside.

All conversions between the two, and all rounding to 8 bits, are here.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["frames_from_model", "frames_to_model", "frames_to_numpy", "quantize_uint8", "to_float", "to_uint8"]

_BLOCK = 64  # frames converted together
_ROUNDING = torch.tensor(2.0**23)  # a CPU scalar, which torch combines with tensors of any device


def frames_to_model(
    frames: Tensor | NDArray[np.uint8], device: torch.device | str | None = None, *, channels_last: bool = False
) -> Tensor:
    """Turn (..., h, w, c) uint8 into (..., c, h, w) float32 in [0, 1].

    Args:
        frames: a tensor or an array.
        device: of the result; None for that of the frames.
        channels_last: keep the channels last in memory, which saves a copy; otherwise the result is contiguous.
    """
    if isinstance(frames, np.ndarray):
        frames = torch.from_numpy(np.require(frames, requirements=("C", "W")))
    frames = frames if device is None else frames.to(device)
    if frames.device.type == "cpu":
        # numpy asks for huge pages and torch does not: 7 ms against 17 ms for 16 x 48 frames of 64x64.
        values = torch.from_numpy(np.empty(frames.shape, np.float32)).copy_(frames)
    else:
        values = frames.to(torch.float32)
    values = values.div_(255).movedim(-1, -3)
    return values if channels_last else values.contiguous()


def frames_from_model(frames: Tensor) -> Tensor:
    """Turn (..., c, h, w) float32 in [0, 1] into (..., h, w, c) uint8, 255 x rounded; the result is a copy.

    Values outside [0, 1] wrap around. About eight in a million values are so near the middle of two levels that
    `to_uint8`, which rounds the product first, yields the other one.
    """
    last = frames.movedim(-3, -1)
    channels_last = last.is_contiguous()
    if channels_last:
        frames = last
    if frames.ndim > 3 and len(frames) > _BLOCK and frames.device.type == "cpu":
        pixels = torch.empty(frames.shape, dtype=torch.uint8)
        for values, out in zip(frames.split(_BLOCK), pixels.split(_BLOCK), strict=True):
            out.copy_(_whole(values))  # what is added fits the cache
    else:
        pixels = _whole(frames).to(torch.uint8)
    return pixels if channels_last else torch.stack(pixels.unbind(-3), dim=-1)  # ... h w c


def _whole(frames: Tensor) -> Tensor:
    """Return integers whose lowest byte is 255 x rounded.

    Added to 2**23, a float's last bit counts ones, so that the sum is rounded and its lowest byte is the pixel: four
    times faster than rounding and converting.
    """
    return torch.add(_ROUNDING, frames, alpha=255).view(torch.int32)


def frames_to_numpy(frames: Tensor) -> NDArray[np.uint8]:
    """Turn (..., c, h, w) float into (..., h, w, c) uint8 for display; clipped to [0, 1]."""
    pixels: NDArray[np.uint8] = to_uint8(frames.detach().float().clamp(0, 1)).cpu().numpy()
    return np.ascontiguousarray(np.moveaxis(pixels, -3, -1))


def to_float(pixels: Tensor) -> Tensor:
    """Turn uint8 of any shape into float32 in [0, 1] of the same shape."""
    return pixels.to(torch.float32).div_(255)


def to_uint8(frames: Tensor) -> Tensor:
    """Turn float in [0, 1] of any shape into uint8 of the same shape, 255 x rounded to the nearest level."""
    return frames.mul(255).round().to(torch.uint8)


def quantize_uint8(frames: Tensor, *, floor: bool = False) -> Tensor:
    """Round float in [0, 1] to 8 bits, still as float: the nearest level, or with ``floor`` the lower."""
    levels = frames.mul(255)
    return (levels.floor() if floor else levels.round()).div(255)

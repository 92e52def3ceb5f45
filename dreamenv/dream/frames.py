"""Frames across the boundary: float32 ``c h w`` in [0, 1] inside models, uint8 ``h w c`` outside."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

__all__ = ["frames_from_model", "frames_to_model"]


def frames_from_model(frames: Tensor) -> Tensor:
    """Turn (b, c, h, w) float32 in [0, 1] into (b, h, w, c) uint8, 255 x rounded to the nearest."""
    scaled = torch.add(_HALF, rearrange(frames, "b c h w -> b h w c"), alpha=255)  # one pass; truncated below
    return scaled.to(torch.uint8).contiguous()


def frames_to_model(frames: Tensor) -> Tensor:
    """Turn (..., h, w, c) uint8 into (..., c, h, w) float32 in [0, 1]."""
    return rearrange(frames, "... h w c -> ... c h w").to(torch.float32).div_(255).contiguous()


_HALF = torch.tensor(0.5)  # a CPU scalar, which torch lets stand beside tensors of any device

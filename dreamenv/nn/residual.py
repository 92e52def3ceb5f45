"""Convolutions that take float32 whatever their weights are stored in, and a residual block of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["CastConv", "ConvBlock"]

_GROUPS = 8  # of channels normalised together, where they divide the channels


class CastConv(nn.Conv2d):
    """A convolution that keeps the size of its maps, and computes in the precision of its weights.

    Args:
        inputs, outputs: channels.
        size: of its kernel, odd.
    """

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)."""
        return super().forward(maps.to(self.weight.dtype))


class ConvBlock(nn.Module):
    """Two convolutions after normalisations, with a residual connection (He et al. 2016). At first it changes nothing.

    Args:
        channels: of its maps.
        condition: width of a vector that scales and shifts the normalised maps (FiLM, Perez et al. 2018); 0: none.
    """

    def __init__(self, channels: int, condition: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(math.gcd(_GROUPS, channels), channels)
        self.norm2 = nn.GroupNorm(math.gcd(_GROUPS, channels), channels)
        self.conv1, self.conv2 = CastConv(channels, channels, 3), CastConv(channels, channels, 3)
        self.film = nn.Linear(condition, 2 * channels) if condition else None
        nn.init.zeros_(self.conv2.weight)
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, maps: Tensor, vector: Tensor | None = None) -> Tensor:
        """Maps (n, channels, h, w) and vectors (n, condition) -> maps."""
        inner = self.conv1(nn.functional.silu(_normalise(self.norm1, maps)))
        inner = _normalise(self.norm2, inner)
        if self.film is not None:
            scale, shift = self.film(vector)[..., None, None].chunk(2, dim=1)
            inner = torch.addcmul(inner + shift, inner, scale)
        return maps + self.conv2(nn.functional.silu(inner)).to(maps.dtype)


def _normalise(norm: nn.GroupNorm, maps: Tensor) -> Tensor:
    """Normalise in the maps' own precision, whatever that of the scale and shift."""
    weight, bias = norm.weight.to(maps.dtype), norm.bias.to(maps.dtype)
    return nn.functional.group_norm(maps, norm.num_groups, weight, bias, norm.eps)

"""Convolutions that take float32 whatever their weights are stored in, and a residual block of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CastConv", "ConvBlock", "FiLMBlock"]

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
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(math.gcd(_GROUPS, channels), channels)
        self.norm2 = nn.GroupNorm(math.gcd(_GROUPS, channels), channels)
        self.conv1, self.conv2 = CastConv(channels, channels, 3), CastConv(channels, channels, 3)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, channels, h, w)."""
        inner = self.conv1(functional.silu(_normalise(self.norm1, maps)))
        change: Tensor = self.conv2(functional.silu(_normalise(self.norm2, inner)))
        return maps + change.to(maps.dtype)


class FiLMBlock(ConvBlock):
    """A block whose second normalisation is scaled and shifted by a vector (FiLM, Perez et al. 2018)."""

    def forward(self, maps: Tensor, film: Tensor) -> Tensor:  # type: ignore[override]
        """Maps (n, channels, h, w), scales less 1 and shifts (n, 2 channels) -> maps."""
        inner = _normalise(self.norm2, self.conv1(functional.silu(_normalise(self.norm1, maps))))
        scale, shift = film.to(inner.dtype)[..., None, None].chunk(2, dim=1)
        change: Tensor = self.conv2(functional.silu(torch.addcmul(inner + shift, inner, scale)))
        return maps + change.to(maps.dtype)


def _normalise(norm: nn.GroupNorm, maps: Tensor) -> Tensor:
    """Normalise in the maps' own precision, whatever that of the scale and shift."""
    weight, bias = norm.weight.to(maps.dtype), norm.bias.to(maps.dtype)
    return functional.group_norm(maps, norm.num_groups, weight, bias, norm.eps)

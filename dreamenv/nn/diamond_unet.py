"""DIAMOND's U-Net: residual blocks of convolutions, modulated by a condition (Alonso et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.attention import attend

__all__ = ["DiamondUNet", "ResidualBlocks", "check_resolutions", "downsampling", "group_norm"]

_GROUP = 32  # channels normalised together
_HEAD = 8  # channels per head of attention


def check_resolutions(channels: Sequence[int], blocks: Sequence[int], attention: Sequence[bool]) -> None:
    """Check the settings of each resolution.

    Raises:
        ConfigError: not as many of one as of the other, or sizes that are not positive.
    """
    if not len(channels) == len(blocks) == len(attention) > 0:
        raise ConfigError(
            "channels, blocks and attention must be as many as there are resolutions, not "
            f"{len(channels)}, {len(blocks)} and {len(attention)}."
        )
    if min(*channels, *blocks) < 1:
        raise ConfigError(f"channels and blocks must be positive, not {tuple(channels)} and {tuple(blocks)}.")


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group normalisation in groups of 32 channels, or of all where there are fewer.

    Raises:
        ConfigError: channels that the groups do not divide.
    """
    return nn.GroupNorm(_split(channels, _GROUP), channels)


class ResidualBlocks(nn.Module):
    """A sequence of residual blocks, each with optional extra input channels.

    Args:
        widths: (inputs, outputs) of each.
        embed_dim: width of the condition.
        attention: after each block.

    Raises:
        ConfigError: widths that groups of normalisation, or heads of attention, do not divide.
    """

    def __init__(self, widths: Sequence[tuple[int, int]], embed_dim: int, *, attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(*both, embed_dim, attention) for both in widths)

    def forward(self, maps: Tensor, condition: Tensor, more: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return the maps after each block."""
        outputs: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            maps = block(maps if more is None else torch.cat((maps, more[index]), dim=1), condition)
            outputs.append(maps)
        return outputs


class DiamondUNet(nn.Module):
    """DIAMOND's U-Net; maps are padded to a multiple of the coarsest resolution, and cropped again.

    Args:
        embed_dim: width of the condition.
        channels: of each resolution, finest first.
        blocks: of each resolution, on the way down; one more on the way up.
        attention: at each resolution.

    Raises:
        ConfigError: channels that groups of normalisation, or heads of attention, do not divide.
    """

    def __init__(
        self, embed_dim: int, channels: Sequence[int], blocks: Sequence[int], attention: Sequence[bool]
    ) -> None:
        super().__init__()
        downs, ups = [], []
        for index, (width, count, attends) in enumerate(zip(channels, blocks, attention, strict=True)):
            finer = channels[max(0, index - 1)]
            down = [(finer, width)] + [(width, width)] * (count - 1)
            up = [(2 * width, width)] * count + [(finer + width, finer)]
            downs.append(ResidualBlocks(down, embed_dim, attention=attends))
            ups.append(ResidualBlocks(up, embed_dim, attention=attends))
        self.downs, self.ups = nn.ModuleList(downs), nn.ModuleList(reversed(ups))
        self.middle = ResidualBlocks([(channels[-1], channels[-1])] * 2, embed_dim, attention=True)
        self.downsample = downsampling(channels)
        self.upsample = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for width in reversed(channels[:-1]))
        self.upsample.insert(0, nn.Identity())

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """(n, channels[0], h, w) and (n, embed_dim) -> the same shape as the maps."""
        h, w = maps.shape[-2:]
        multiple = 2 ** (len(self.downs) - 1)
        if h % multiple or w % multiple:
            maps = functional.pad(maps, (0, -w % multiple, 0, -h % multiple))
        skips = []
        for downsample, down in zip(self.downsample, self.downs, strict=True):
            maps = downsample(maps)
            outputs = [maps, *down(maps, condition)]
            skips.append(outputs)
            maps = outputs[-1]
        maps = self.middle(maps, condition)[-1]
        for index, (upsample, up) in enumerate(zip(self.upsample, self.ups, strict=True)):
            maps = upsample(functional.interpolate(maps, scale_factor=2.0)) if index else maps
            maps = up(maps, condition, skips.pop()[::-1])[-1]
        return maps[..., :h, :w]


def downsampling(channels: Sequence[int]) -> nn.ModuleList:
    """Return the downsampling before each resolution: none before the finest, then strided convolutions."""
    convolutions = (nn.Conv2d(width, width, 3, 2, 1) for width in channels[:-1])
    return nn.ModuleList([nn.Identity(), *convolutions])


class _Block(nn.Module):
    """A residual block of two modulated convolutions, optionally followed by attention."""

    def __init__(self, inputs: int, outputs: int, embed_dim: int, attention: bool) -> None:
        super().__init__()
        self.groups = _split(inputs, _GROUP), _split(outputs, _GROUP)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        self.modulations = nn.ModuleList(nn.Linear(embed_dim, 2 * width) for width in (inputs, outputs))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, outputs, 3, padding=1) for width in (inputs, outputs))
        self.attention = _Attention(outputs) if attention else None

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """(n, inputs, h, w) and (n, embed_dim) -> (n, outputs, h, w)."""
        inner = maps
        for groups, modulation, convolution in zip(self.groups, self.modulations, self.convolutions, strict=True):
            scale, shift = modulation(condition)[..., None, None].chunk(2, dim=1)
            normal = functional.group_norm(inner, groups)
            inner = convolution(functional.silu(torch.addcmul(shift, normal, 1 + scale), inplace=True))
        maps = inner + (maps if self.shortcut is None else self.shortcut(maps))
        return maps if self.attention is None else self.attention(maps)


class _Attention(nn.Module):
    """Self-attention among all places, with a shortcut of the normalised maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = _split(channels, _HEAD)
        self.norm = group_norm(channels)
        self.qkv, self.out_proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape."""
        h, w = maps.shape[-2:]
        maps = self.norm(maps)
        query, key, value = self.qkv(maps).flatten(2).unflatten(1, (3, self.heads, -1)).mT.unbind(1)
        attended = attend(query, key, value)
        return maps + self.out_proj(attended.mT.flatten(1, 2).unflatten(-1, (h, w)))  # type: ignore[no-any-return]


def _split(channels: int, size: int) -> int:
    """Return how many parts of a size channels make, at least 1."""
    parts = max(1, channels // size)
    if channels % parts:
        raise ConfigError(
            f"{channels} channels, of one resolution or of two that are put together, cannot be divided by {parts}, "
            f"into parts of about {size}; take multiples of {size}."
        )
    return parts

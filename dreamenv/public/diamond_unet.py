"""DIAMOND's convolutions: residual blocks that a condition modulates, gathered into a U-Net (Alonso et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.nn.attention import attend

__all__ = ["Blocks", "DiamondUNet", "group_norm", "shrinking"]

_GROUP = 32  # channels normalised together
_HEAD = 8  # channels per head of attention


def group_norm(channels: int) -> nn.GroupNorm:
    """Make what normalises channels by groups of 32, or all together where there are fewer."""
    return nn.GroupNorm(max(1, channels // _GROUP), channels)


class _Attention(nn.Module):
    """All places attend to each other, beside a shortcut of the normalised maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // _HEAD)
        self.norm = group_norm(channels)
        self.enter, self.leave = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape."""
        h, w = maps.shape[-2:]
        maps = self.norm(maps)
        query, key, value = self.enter(maps).flatten(2).unflatten(1, (3, self.heads, -1)).mT.unbind(1)
        attended = attend(query, key, value)
        return maps + self.leave(attended.mT.flatten(1, 2).unflatten(-1, (h, w)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Two modulated convolutions beside a shortcut, and attention where asked for."""

    def __init__(self, inputs: int, outputs: int, condition: int, attention: bool) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        self.modulations = nn.ModuleList(nn.Linear(condition, 2 * width) for width in (inputs, outputs))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, outputs, 3, padding=1) for width in (inputs, outputs))
        self.attention = _Attention(outputs) if attention else None

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """(n, inputs, h, w) and (n, condition) -> (n, outputs, h, w)."""
        inner = maps
        for modulation, convolution in zip(self.modulations, self.convolutions, strict=True):
            scale, shift = modulation(condition)[..., None, None].chunk(2, dim=1)
            normal = functional.group_norm(inner, max(1, inner.shape[1] // _GROUP))
            inner = convolution(functional.silu(torch.addcmul(shift, normal, 1 + scale), inplace=True))
        maps = inner + (maps if self.shortcut is None else self.shortcut(maps))
        return maps if self.attention is None else self.attention(maps)


def shrinking(channels: Sequence[int]) -> nn.ModuleList:
    """Make what halves maps before each resolution: nothing before the finest, then a convolution."""
    convolutions = (nn.Conv2d(width, width, 3, 2, 1) for width in channels[:-1])
    return nn.ModuleList([nn.Identity(), *convolutions])


class Blocks(nn.Module):
    """Blocks one after another, each of which may be given further channels.

    Args:
        widths: (inputs, outputs) of each.
        condition: width of the condition.
        attention: after each block.
    """

    def __init__(self, widths: Sequence[tuple[int, int]], condition: int, *, attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(*both, condition, attention) for both in widths)

    def forward(self, maps: Tensor, condition: Tensor, more: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return the maps after each block."""
        made: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            maps = block(maps if more is None else torch.cat((maps, more[index]), dim=1), condition)
            made.append(maps)
        return made


class DiamondUNet(nn.Module):
    """Down, across with attention, and up; maps are padded to what the resolutions need, and cut again.

    Args:
        condition: width of the condition.
        channels: of each resolution, finest first.
        blocks: of each resolution, on the way down; one more on the way up.
        attention: at each resolution.
    """

    def __init__(
        self, condition: int, channels: Sequence[int], blocks: Sequence[int], attention: Sequence[bool]
    ) -> None:
        super().__init__()
        self.halvings = len(channels) - 1
        downs, ups = [], []
        for index, (width, count, attends) in enumerate(zip(channels, blocks, attention, strict=True)):
            finer = channels[max(0, index - 1)]
            down = [(finer, width)] + [(width, width)] * (count - 1)
            up = [(2 * width, width)] * count + [(finer + width, finer)]
            downs.append(Blocks(down, condition, attention=attends))
            ups.append(Blocks(up, condition, attention=attends))
        self.downs, self.ups = nn.ModuleList(downs), nn.ModuleList(reversed(ups))
        self.middle = Blocks([(channels[-1], channels[-1])] * 2, condition, attention=True)
        self.shrink = shrinking(channels)
        self.grow = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for width in reversed(channels[:-1]))
        self.grow.insert(0, nn.Identity())

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """(n, channels[0], h, w) and (n, condition) -> the same shape as the maps."""
        h, w = maps.shape[-2:]
        multiple = 2**self.halvings
        if h % multiple or w % multiple:
            maps = functional.pad(maps, (0, -w % multiple, 0, -h % multiple))
        seen = []
        for index, down in enumerate(self.downs):
            maps = self.shrink[index](maps)
            made = [maps, *down(maps, condition)]
            seen.append(made)
            maps = made[-1]
        maps = self.middle(maps, condition)[-1]
        for index, up in enumerate(self.ups):
            maps = self.grow[index](functional.interpolate(maps, scale_factor=2.0)) if index else maps
            maps = up(maps, condition, seen.pop()[::-1])[-1]
        return maps[..., :h, :w]

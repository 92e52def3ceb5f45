"""A U-Net whose blocks are modulated by noise level and actions (Ho et al. 2020; as small as DIAMOND's)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError

__all__ = ["ConditionedBlock", "UNet"]

_GROUP = 32  # channels normalised together


class ConditionedBlock(nn.Module):
    """A residual block of two convolutions, each after a normalisation that the condition scales and shifts.

    Initialised to the identity (or the shortcut).

    Args:
        inputs, outputs: channels.
        condition: width of the condition.
    """

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.groups = _groups(inputs), _groups(outputs)
        self.modulations = nn.ModuleList(nn.Linear(condition, 2 * width) for width in (inputs, outputs))
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        for layer in (*self.modulations, self.second):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """(n, inputs, h, w) and (n, condition) -> (n, outputs, h, w)."""
        inner = maps
        for groups, modulation, convolution in zip(
            self.groups, self.modulations, (self.first, self.second), strict=True
        ):
            scale, shift = modulation(condition)[..., None, None].chunk(2, dim=1)
            normal = functional.group_norm(inner, groups)
            inner = convolution(functional.silu(normal * (1 + scale) + shift))
        return self.shortcut(maps) + inner  # type: ignore[no-any-return]


class UNet(nn.Module):
    """A U-Net: downsampling, middle and upsampling blocks with skip connections.

    Args:
        size: (h, w) of the maps.
        inputs, outputs: channels.
        condition: width of the condition.
        channels: of each resolution, finest first; each is half the one before.
        blocks: per resolution and direction.
        patch: pixels per side that are moved into channels first; 2 makes it four times as fast, and coarser.

    Raises:
        ConfigError: a size that the resolutions do not divide, or sizes that are not positive.
    """

    def __init__(
        self,
        size: tuple[int, int],
        inputs: int,
        outputs: int,
        condition: int,
        channels: Sequence[int],
        blocks: int,
        patch: int = 1,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1 or blocks < 1 or patch < 1:
            raise ConfigError(
                f"channels, blocks and patch must be positive, not {tuple(channels)}, {blocks} and {patch}."
            )
        coarsest = patch * 2 ** (len(channels) - 1)
        if size[0] % coarsest or size[1] % coarsest:
            raise ConfigError(
                f"frames of {size[0]} x {size[1]} are no multiple of {coarsest}, which {len(channels)} resolutions "
                f"with a patch of {patch} need."
            )
        self.patch = patch
        self.conv_in = nn.Conv2d(inputs * patch**2, channels[0], 3, padding=1)
        self.downs, self.ups, widths = nn.ModuleList(), nn.ModuleList(), [channels[0]]
        width = channels[0]
        for index, wide in enumerate(channels):
            if index > 0:
                self.downs.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                widths.append(width)
            for _ in range(blocks):
                self.downs.append(ConditionedBlock(width, wide, condition))
                width = wide
                widths.append(width)
        self.middle = nn.ModuleList(ConditionedBlock(width, width, condition) for _ in range(2))
        for index, wide in reversed(list(enumerate(channels))):
            for _ in range(blocks + 1):
                self.ups.append(ConditionedBlock(width + widths.pop(), wide, condition))
                width = wide
            if index > 0:
                self.ups.append(nn.Conv2d(width, width, 3, padding=1))
        self.conv_out = nn.Conv2d(width, outputs * patch**2, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """(n, inputs, h, w) and (n, condition) -> (n, outputs, h, w)."""
        condition = functional.silu(condition)
        maps = functional.pixel_unshuffle(maps, self.patch).contiguous(memory_format=torch.channels_last)
        maps = self.conv_in(maps)
        skips = [maps]
        for layer in self.downs:
            maps = layer(maps, condition) if isinstance(layer, ConditionedBlock) else layer(maps)
            skips.append(maps)
        for layer in self.middle:
            maps = layer(maps, condition)
        for layer in self.ups:
            if isinstance(layer, ConditionedBlock):
                maps = layer(torch.cat((maps, skips.pop()), dim=1), condition)
            else:
                maps = layer(functional.interpolate(maps, scale_factor=2.0))
        maps = self.conv_out(functional.silu(functional.group_norm(maps, max(1, maps.shape[1] // _GROUP))))
        return functional.pixel_shuffle(maps, self.patch)


def _groups(channels: int) -> int:
    """Return how many groups are normalised, of `_GROUP` channels or a few more, such that all are of one size."""
    most = max(1, channels // _GROUP)
    small = [low for low in range(1, math.isqrt(channels) + 1) if channels % low == 0]
    return max(divisor for low in small for divisor in (low, channels // low) if divisor <= most)

"""Convolutional encoder and decoder of single frames.

Resolution changes only by space-to-depth and back, so every convolution is a dense 3x3 one at low resolution: on a CPU
with bfloat16 about three times as fast as strided and transposed convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.residual import CastConv, ConvBlock

__all__ = [
    "ChannelsToSpace",
    "FrameDecoder",
    "FrameEncoder",
    "SpaceToChannels",
    "down_network",
    "stage_factors",
    "up_network",
]

_PATCH = 4  # pixels per side that the first and last stage move at once by default
_SMALLEST = 4  # halve until a side is this long
_BLOCK = 64  # rows decoded together on a CPU


def stage_factors(height: int, width: int, patch: int = _PATCH) -> list[int]:
    """Return by how much each stage shrinks a frame: 64x64 gives [4, 2, 2], ending at 4x4.

    Raises:
        ConfigError: if the size is no multiple of the first factor, ``patch``.
    """
    if height % patch or width % patch:
        raise ConfigError(f"frame height and width must be multiples of {patch}, not {height}x{width}; resize them.")
    factors, height, width = [patch], height // patch, width // patch
    while min(height, width) > _SMALLEST and height % 2 == 0 and width % 2 == 0:
        factors.append(2)
        height, width = height // 2, width // 2
    return factors


class SpaceToChannels(nn.Module):
    """Move each factor x factor block of pixels into channels: (n, c, h, w) to (n, factor**2 c, h/factor, w/factor).

    Does what `torch.nn.PixelUnshuffle` does, in another order of channels: with channels last in memory, whole rows of
    a block are copied at once and by all threads, where torch's own kernel copies value by value on one.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, factor**2 c, h/factor, w/factor)."""
        last = rearrange(features, "n c (h p) (w q) -> n h w (p q c)", p=self.factor, q=self.factor)
        return last.permute(0, 3, 1, 2)


class ChannelsToSpace(nn.Module):
    """Undo `SpaceToChannels`."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        """(n, factor**2 c, h, w) -> (n, c, factor h, factor w)."""
        n, _, h, w = features.shape
        return self._blocks(features).reshape(n, h * self.factor, w * self.factor, -1).permute(0, 3, 1, 2)

    def write(self, features: Tensor, out: Tensor) -> None:
        """Write the result into ``out`` (n, factor h, factor w, c), contiguous, converting in the same pass."""
        n, _, h, w = features.shape
        out.view(n, h, self.factor, w, self.factor, -1).copy_(self._blocks(features))

    def _blocks(self, features: Tensor) -> Tensor:
        """Return the values as (n, h, factor, w, factor, c); by hand, as einops costs a single row more than it."""
        last = features.permute(0, 2, 3, 1)
        blocks: Tensor = last.unflatten(-1, (self.factor, self.factor, -1))
        return blocks.transpose(2, 3)


class FrameEncoder(nn.Module):
    """Frames (n, c, h, w) to features (n, features).

    Args:
        frame_shape: (c, h, w).
        channels: after each stage; the last is repeated if the frame needs more stages than given.
        patch: by how much the first stage shrinks it.
    """

    def __init__(self, frame_shape: tuple[int, int, int], channels: Sequence[int], patch: int = _PATCH) -> None:
        super().__init__()
        inputs, height, width = frame_shape
        layers: list[nn.Module] = []
        for index, factor in enumerate(stage_factors(height, width, patch)):
            outputs = channels[min(index, len(channels) - 1)]
            layers += [SpaceToChannels(factor), nn.Conv2d(inputs * factor**2, outputs, 3, padding=1)]
            layers += [_Norm(1, outputs), _SiLU()]
            inputs, height, width = outputs, height // factor, width // factor
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.features = inputs * height * width

    def forward(self, frames: Tensor) -> Tensor:
        """(n, c, h, w) in [0, 1] -> (n, features)."""
        centred = (frames - 0.5).to(self.layers[1].weight.dtype).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.layers(centred)
        return features.flatten(1).float()


class FrameDecoder(nn.Module):
    """Features (n, features) to frames (n, c, h, w), unbounded, as a difference from a mean frame.

    Args:
        frame_shape: (c, h, w).
        channels: as the encoder's, from the finest stage to the coarsest.
    """

    def __init__(self, frame_shape: tuple[int, int, int], channels: Sequence[int]) -> None:
        super().__init__()
        c, height, width = frame_shape
        factors = stage_factors(height, width)
        widths = [channels[min(index, len(channels) - 1)] for index in range(len(factors))]
        total = _PATCH * 2 ** (len(factors) - 1)
        self.grid = (widths[-1], height // total, width // total)
        self.features = widths[-1] * self.grid[1] * self.grid[2]
        layers: list[nn.Module] = [_Norm(1, widths[-1]), _SiLU()]
        for index in reversed(range(1, len(factors))):
            finer = widths[index - 1]
            layers += [nn.Conv2d(widths[index], finer * factors[index] ** 2, 3, padding=1)]
            layers += [ChannelsToSpace(factors[index]), _Norm(1, finer), _SiLU()]
        layers += [nn.Conv2d(widths[0], c * _PATCH**2, 3, padding=1), ChannelsToSpace(_PATCH)]
        self.frame_shape = frame_shape
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: Tensor) -> Tensor:
        """(n, features) -> (n, c, h, w)."""
        grid = features.to(self.layers[2].weight.dtype).view(-1, *self.grid)
        frames: Tensor = self.layers(grid.contiguous(memory_format=torch.channels_last))
        return frames.float()

    def decode(self, features: Tensor, mean_frame: Tensor) -> Tensor:
        """(n, features) -> frames (n, c, h, w) in [0, 1], channels last in memory, for which no gradient is known.

        The same as `forward`, added to the mean frame (c, h, w) and clamped, but for layers that run on blocks of rows
        and write into one result: feature maps of few rows stay in the cache from one layer to the next.
        """
        c, height, width = self.frame_shape
        *layers, last = self.layers
        assert isinstance(last, ChannelsToSpace)
        frames = torch.empty((len(features), height, width, c), device=features.device)
        mean = mean_frame.permute(1, 2, 0)
        rows = _BLOCK if features.device.type == "cpu" else max(1, len(features))
        for grid, out in zip(features.split(rows), frames.split(rows), strict=True):
            maps = grid.to(self.layers[2].weight.dtype).view(-1, *self.grid)
            maps = maps.contiguous(memory_format=torch.channels_last)
            for layer in layers:
                maps = layer(maps)
            last.write(maps, out)
            out.add_(mean).clamp_(0.0, 1.0)
        return frames.permute(0, 3, 1, 2)


def down_network(inputs: int, outputs: int, patch: int, channels: Sequence[int], blocks: int) -> nn.Sequential:
    """Return residual convolutions over ever coarser maps: (n, inputs, h, w) -> (n, outputs, h / f, w / f).

    Args:
        inputs: channels.
        outputs: channels, after a convolution of single places.
        patch: pixels per side that the first stage moves into channels at once; each later stage moves two, so that f
            is ``patch * 2**(stages - 1)``.
        channels: after each stage, finest first.
        blocks: residual blocks per stage.
    """
    layers: list[nn.Module] = []
    for index, width in enumerate(channels):
        factor = 2 if index else patch
        layers += [SpaceToChannels(factor), CastConv(inputs * factor**2, width, 3)]
        layers += [ConvBlock(width) for _ in range(blocks)]
        inputs = width
    return nn.Sequential(*layers, nn.SiLU(), CastConv(inputs, outputs, 1))


def up_network(inputs: int, outputs: int, patch: int, channels: Sequence[int], blocks: int) -> nn.Sequential:
    """Return the way back: (n, inputs, h / f, w / f) -> (n, outputs, h, w); see `down_network`."""
    layers: list[nn.Module] = [CastConv(inputs, channels[-1], 3)]
    for index in reversed(range(len(channels))):
        factor, finer = (2, channels[index - 1]) if index else (patch, outputs)
        layers += [ConvBlock(channels[index]) for _ in range(blocks)]
        layers += [nn.SiLU(), CastConv(channels[index], finer * factor**2, 3), ChannelsToSpace(factor)]
    return nn.Sequential(*layers)


class _Norm(nn.GroupNorm):
    """Group normalisation whose float32 scale and shift also take bfloat16 features."""

    def forward(self, features: Tensor) -> Tensor:
        weight, bias = self.weight.to(features.dtype), self.bias.to(features.dtype)
        return functional.group_norm(features, self.num_groups, weight, bias, self.eps)


class _SiLU(nn.Module):
    """SiLU, in place where no gradient is wanted: its input is the norm's own output."""

    def forward(self, features: Tensor) -> Tensor:
        return functional.silu(features, inplace=not torch.is_grad_enabled())

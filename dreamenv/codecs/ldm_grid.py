"""The networks of VQGAN (Esser et al. 2021) as VAR has them (Tian et al. 2024), with attention at the coarsest maps.

They compute what the public VAR's encoder and decoder compute with the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.codecs.grid import Grid, GridConfig
from dreamenv.errors import ConfigError
from dreamenv.nn.attention import attend
from dreamenv.nn.batching import map_in_chunks
from dreamenv.nn.ldm import LDMDownsample, LDMResidual, LDMUpsample, conv3x3, group_norm

__all__ = ["LDMGrid", "LDMGridConfig"]


@dataclass(frozen=True, kw_only=True)
class LDMGridConfig(GridConfig, kind="ldm_grid"):
    """Settings. The defaults are those of VAR's public tokenizer.

    Attributes:
        channels: of the resolutions, finest first; each is half the one before.
        blocks: residual blocks per resolution on the way down; one more on the way up.
        groups: of channels normalised together.

    Raises:
        ConfigError: sizes that are not positive, or channels that the groups do not divide.
    """

    channels: tuple[int, ...] = (160, 160, 320, 320, 640)
    blocks: int = 2
    groups: int = 32

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive, at least one, not {self.channels}.")
        for name in ("blocks", "groups"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        odd = [width for width in self.channels if width % self.groups]
        if odd:
            raise ConfigError(f"{self.groups} groups do not divide {odd[0]} channels.")

    @property
    def downsample(self) -> int:
        """See `GridConfig`."""
        return int(2 ** (len(self.channels) - 1))

    def build(self, frame_shape: tuple[int, int, int], width: int) -> LDMGrid:
        """See `GridConfig`."""
        return LDMGrid(self, frame_shape, width)


class LDMGrid(Grid):
    """The networks, of pictures from -1 to 1.

    Args:
        config: their settings.
        frame_shape: (c, h, w).
        width: d.

    Raises:
        ConfigError: frames whose sides are no multiples of ``config.downsample``.
    """

    def __init__(self, config: LDMGridConfig, frame_shape: tuple[int, int, int], width: int) -> None:
        super().__init__(frame_shape, config.downsample)
        c, height, wide = frame_shape
        self._values = config.channels[0] * height * wide
        self.encoder = _Encoder(config, c, width)
        self.quant_conv, self.post_quant_conv = conv3x3(width, width), conv3x3(width, width)
        self.decoder = _Decoder(config, width, c)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def last_weight(self) -> Tensor:
        """See `Grid`."""
        return self.decoder.conv_out.weight

    def encode(self, frames: Tensor) -> Tensor:
        """See `Grid`."""
        pictures = (2 * frames - 1).contiguous(memory_format=torch.channels_last)
        return map_in_chunks(lambda few: self.quant_conv(self.encoder(few)), self._values, pictures).float()

    def decode(self, maps: Tensor) -> Tensor:
        """See `Grid`."""
        maps = maps.contiguous(memory_format=torch.channels_last)
        pictures = map_in_chunks(lambda few: self.decoder(self.post_quant_conv(few)), self._values, maps)
        return (pictures.float() + 1) / 2


class _Encoder(nn.Module):
    def __init__(self, config: LDMGridConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        widths, groups = config.channels, config.groups
        self.conv_in = conv3x3(inputs, widths[0])
        self.stages = nn.ModuleList(
            _Stage(before, width, config.blocks, groups, None if last else LDMDownsample(width), attention=last)
            for before, width, last in _in_turn(widths)
        )
        self.middle = _Middle(widths[-1], groups)
        self.norm, self.conv_out = group_norm(widths[-1], groups), conv3x3(widths[-1], outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, y, x)."""
        maps = self.conv_in(pictures)
        for stage in self.stages:
            maps = stage(maps)
        encoded: Tensor = self.conv_out(functional.silu(self.norm(self.middle(maps))))
        return encoded


class _Decoder(nn.Module):
    def __init__(self, config: LDMGridConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        widths, groups = config.channels[::-1], config.groups
        self.conv_in = conv3x3(inputs, widths[0])
        self.middle = _Middle(widths[0], groups)
        self.stages = nn.ModuleList(
            _Stage(before, width, config.blocks + 1, groups, None if last else LDMUpsample(width), attention=index == 0)
            for index, (before, width, last) in enumerate(_in_turn(widths))
        )
        self.norm, self.conv_out = group_norm(widths[-1], groups), conv3x3(widths[-1], outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, y, x) -> (n, outputs, h, w)."""
        maps = self.middle(self.conv_in(maps))
        for stage in self.stages:
            maps = stage(maps)
        pictures: Tensor = self.conv_out(functional.silu(self.norm(maps)))
        return pictures


class _Stage(nn.Module):
    """Residual blocks at one resolution, each followed by attention where wanted, and what leads to the next one."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, groups: int, resize: nn.Module | None, *, attention: bool
    ) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.blocks = nn.ModuleList(LDMResidual(a, b, groups) for a, b in pairwise(widths))
        self.attention = nn.ModuleList(_Attention(outputs, groups) for _ in range(blocks if attention else 0))
        self.resize = resize

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h', w')."""
        for index, block in enumerate(self.blocks):
            maps = block(maps)
            if len(self.attention):
                maps = self.attention[index](maps)
        return maps if self.resize is None else self.resize(maps)


class _Middle(nn.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(LDMResidual(width, width, groups) for _ in range(2))
        self.attention = _Attention(width, groups)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, width, y, x) -> the same shape."""
        first, second = self.blocks
        result: Tensor = second(self.attention(first(maps)))
        return result


class _Attention(nn.Module):
    """Attention of one head over all places, with a residual connection."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(width, groups)
        self.qkv, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, width, y, x) -> the same shape."""
        places = rearrange(self.norm(maps), "n c y x -> n 1 (y x) c")
        attended = self.out_proj(attend(*self.qkv(places).chunk(3, dim=-1)))
        change: Tensor = rearrange(attended, "n 1 (y x) c -> n c y x", y=maps.shape[2])
        return maps + change


def _in_turn(widths: tuple[int, ...]) -> list[tuple[int, int, bool]]:
    """Return channels before and at each resolution, and whether it is the last."""
    return [(before, width, k == len(widths) - 1) for k, (before, width) in enumerate(pairwise((widths[0], *widths)))]

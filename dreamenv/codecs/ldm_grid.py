"""The networks of VQGAN (Esser et al. 2021) as VAR (Tian et al. 2024) and MineWorld (Guo et al. 2025) have them.

They compute what the public VAR's encoder and decoder compute with the same weights, or those of `diffusers.VQModel`,
which is MineWorld's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dreamenv.codecs.grid import Grid, GridConfig
from dreamenv.errors import ConfigError
from dreamenv.nn.batching import map_in_chunks
from dreamenv.nn.ldm import LDMDecoder, LDMEncoder, LDMMiddle, SplitMiddle

__all__ = ["LDMGrid", "LDMGridConfig"]


@dataclass(frozen=True, kw_only=True)
class LDMGridConfig(GridConfig, kind="ldm_grid"):
    """Settings. The defaults are those of VAR's public tokenizer.

    Attributes:
        channels: of the resolutions, finest first; each is half the one before.
        blocks: residual blocks per resolution on the way down; one more on the way up.
        groups: of channels normalised together.
        attention: over all places of the coarsest maps: "coarsest" after every block there and in the middle, as VAR
            has it, "middle" there alone, as in latent diffusion, or "none".
        kernel: side of the convolutions next to the codes, 1 or 3.

    Raises:
        ConfigError: sizes that are not positive, or channels that the groups do not divide.
    """

    channels: tuple[int, ...] = (160, 160, 320, 320, 640)
    blocks: int = 2
    groups: int = 32
    attention: Literal["coarsest", "middle", "none"] = "coarsest"
    kernel: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive, at least one, not {self.channels}.")
        for name in ("blocks", "groups"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.attention not in ("coarsest", "middle", "none"):
            raise ConfigError(f"attention must be one of coarsest, middle, none, not {self.attention!r}.")
        if self.kernel not in (1, 3):
            raise ConfigError(f"kernel must be 1 or 3, not {self.kernel}.")
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
        widths, blocks, groups = config.channels, config.blocks, config.groups
        everywhere = config.attention == "coarsest"
        self.encoder = LDMEncoder(
            widths, blocks, groups, inputs=c, outputs=width, middle=_middle(config), attention=everywhere
        )
        self.quant_conv, self.post_quant_conv = (
            nn.Conv2d(width, width, config.kernel, padding=config.kernel // 2) for _ in range(2)
        )
        self.decoder = LDMDecoder(
            widths, blocks + 1, groups, inputs=width, outputs=c, middle=_middle(config), attention=everywhere
        )
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


def _middle(config: LDMGridConfig) -> nn.Module:
    width, groups = config.channels[-1], config.groups
    if config.attention == "coarsest":
        return LDMMiddle(width, groups)
    return SplitMiddle(width, groups, attention=config.attention == "middle")

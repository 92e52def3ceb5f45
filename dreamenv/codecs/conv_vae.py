"""Residual convolutions, as latent diffusion's (Rombach et al. 2022), but without attention at the coarsest maps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamenv.codecs.base import Autoencoder, AutoencoderConfig
from dreamenv.errors import ConfigError
from dreamenv.nn.batching import map_in_chunks

__all__ = ["ConvVAE", "ConvVAEConfig"]

_GROUPS = 8  # of channels normalised together, where they divide the channels


@dataclass(frozen=True, kw_only=True)
class ConvVAEConfig(AutoencoderConfig, kind="conv_vae"):
    """Settings. The defaults are for frames of 64 x 64 on two CPU cores: places of 4 x 4 pixels learn fastest.

    For as many values in a quarter of the places, so that a transformer has fewer tokens, take three resolutions and 16
    ``latent_channels``.

    Attributes:
        latent_channels: values of a latent per place.
        channels: of each resolution, finest first; each is half the one before, so that a place is
            ``patch * 2**(resolutions - 1)`` pixels per side.
        blocks: per resolution and direction.
        patch: pixels per side that are gathered into channels first; 2 makes it four times as fast, and coarser.
        temporal_stride: frames per latent.

    Raises:
        ConfigError: sizes that are not positive.
    """

    latent_channels: int = 4
    channels: tuple[int, ...] = (32, 64)
    blocks: int = 1
    patch: int = 2
    temporal_stride: int = 1

    def __post_init__(self) -> None:
        for name in ("latent_channels", "blocks", "patch", "temporal_stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive, at least one, not {self.channels}.")

    @property
    def frames_per_latent(self) -> int:
        """See `AutoencoderConfig`."""
        return self.temporal_stride

    @property
    def downsample(self) -> int:
        """Pixels per side of a latent's place."""
        return int(self.patch * 2 ** (len(self.channels) - 1))

    def build(self, picture_shape: tuple[int, int, int]) -> ConvVAE:
        """See `AutoencoderConfig`."""
        return ConvVAE(self, picture_shape)


class ConvVAE(Autoencoder):
    """The autoencoder.

    Args:
        config: its settings.
        picture_shape: (c, h, w).

    Raises:
        ConfigError: a picture that the places do not divide.
    """

    def __init__(self, config: ConvVAEConfig, picture_shape: tuple[int, int, int]) -> None:
        super().__init__(picture_shape, config.latent_channels, config.downsample)
        widths, patch, blocks = config.channels, config.patch, config.blocks
        values, width = picture_shape[0] * patch**2, widths[0]
        self._values = width * picture_shape[1] * picture_shape[2] // patch**2
        down: list[nn.Module] = [nn.PixelUnshuffle(patch), nn.Conv2d(values, width, 3, padding=1)]
        for index, wide in enumerate(widths):
            if index > 0:
                down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
            down += _stage(width, wide, blocks)
            width = wide
        down += [_norm(width), nn.SiLU(), nn.Conv2d(width, 2 * config.latent_channels, 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(config.latent_channels, width, 3, padding=1)]
        for index, wide in enumerate(reversed(widths)):
            if index > 0:
                up += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)]
            up += _stage(width, wide, blocks)
            width = wide
        up += [_norm(width), nn.SiLU(), nn.Conv2d(width, values, 3, padding=1), nn.PixelShuffle(patch)]
        self.down, self.up = nn.Sequential(*down), nn.Sequential(*up)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _encode(self, pictures: Tensor) -> Tensor:
        return map_in_chunks(self.down, self._values, pictures.contiguous(memory_format=torch.channels_last))

    def _decode(self, latents: Tensor) -> Tensor:
        return map_in_chunks(self.up, self._values, latents.contiguous(memory_format=torch.channels_last))


class _Residual(nn.Module):
    """Two convolutions, each after a normalisation, with a residual connection. At first it changes nothing."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.inner = nn.Sequential(
            _norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1), _norm(outputs), nn.SiLU(), second
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        for parameter in second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)."""
        return self.shortcut(maps) + self.inner(maps)  # type: ignore[no-any-return]


def _stage(inputs: int, outputs: int, blocks: int) -> list[_Residual]:
    return [_Residual(inputs if block == 0 else outputs, outputs) for block in range(blocks)]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)

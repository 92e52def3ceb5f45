"""Stable Diffusion's autoencoder (Rombach et al. 2022), whose latents Navigation World Models denoise.

Residual convolutions over halved and doubled resolutions, and one attention over all places of the coarsest maps in
each direction. It computes what ``AutoencoderKL`` of the library `diffusers` computes with the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from dreamenv.codecs.base import Autoencoder, AutoencoderConfig, CodecTraining
from dreamenv.errors import ConfigError
from dreamenv.nn.batching import map_in_chunks
from dreamenv.nn.ldm import LDMDecoder, LDMEncoder, SplitMiddle

__all__ = ["SDVAE", "SDVAEConfig"]


@dataclass(frozen=True, kw_only=True)
class SDVAEConfig(AutoencoderConfig, kind="sd_vae"):
    """Settings. The defaults are those of the published one, and of training it further.

    Attributes:
        channels: of the resolutions, finest first; each is half the one before.
        blocks: residual blocks per resolution on the way down; one more on the way up.
        latent_channels: values of a latent per place.
        groups: of channels normalised together.

    Raises:
        ConfigError: sizes that are not positive, or channels that the groups do not divide.
    """

    training: CodecTraining = field(default=CodecTraining(batch_size=4, learning_rate=1e-5))
    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4
    groups: int = 32
    latent_scale: ClassVar[float | None] = 0.18215
    sampled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive, at least one, not {self.channels}.")
        for name in ("blocks", "latent_channels", "groups"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        odd = [width for width in self.channels if width % self.groups]
        if odd:
            raise ConfigError(f"{self.groups} groups do not divide {odd[0]} channels.")

    @property
    def downsample(self) -> int:
        """Pixels per side of a latent's place."""
        return int(2 ** (len(self.channels) - 1))

    def build(self, picture_shape: tuple[int, int, int]) -> SDVAE:
        """See `AutoencoderConfig`."""
        return SDVAE(self, picture_shape)


class SDVAE(Autoencoder):
    """The autoencoder.

    Args:
        config: its settings.
        picture_shape: (c, h, w).

    Raises:
        ConfigError: a picture that the resolutions do not divide.
    """

    def __init__(self, config: SDVAEConfig, picture_shape: tuple[int, int, int]) -> None:
        super().__init__(picture_shape, config.latent_channels, config.downsample)
        latents, moments = config.latent_channels, 2 * config.latent_channels
        self._values = config.channels[0] * picture_shape[1] * picture_shape[2]
        widths, blocks, groups, channels = config.channels, config.blocks, config.groups, picture_shape[0]
        self.encoder = LDMEncoder(
            widths,
            blocks,
            groups,
            inputs=channels,
            outputs=moments,
            middle=SplitMiddle(widths[-1], groups),
            attention=False,
        )
        self.quant_conv = nn.Conv2d(moments, moments, 1)
        self.post_quant_conv = nn.Conv2d(latents, latents, 1)
        self.decoder = LDMDecoder(
            widths, blocks + 1, groups, inputs=latents, outputs=channels, middle=SplitMiddle(widths[-1], groups),
            attention=False,
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _encode(self, pictures: Tensor) -> Tensor:
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        return map_in_chunks(lambda few: self.quant_conv(self.encoder(few)), self._values, pictures)

    def _decode(self, latents: Tensor) -> Tensor:
        latents = latents.contiguous(memory_format=torch.channels_last)
        return map_in_chunks(lambda few: self.decoder(self.post_quant_conv(few)), self._values, latents)

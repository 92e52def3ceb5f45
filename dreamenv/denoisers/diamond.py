"""DIAMOND's denoiser, a U-Net over the last few frames and a noisy one, stacked as channels (Alonso et al. 2024).

Cache: as `dreamenv.denoisers.unet`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.denoisers.base import DenoiserConfig, DenoiserShape
from dreamenv.denoisers.unet import StackedFrameDenoiser
from dreamenv.errors import ConfigError
from dreamenv.nn.batching import map_in_chunks
from dreamenv.nn.conditioning import FourierFeatures
from dreamenv.nn.diamond_unet import DiamondUNet, check_resolutions, group_norm

__all__ = ["Diamond", "DiamondConfig"]


@dataclass(frozen=True, kw_only=True)
class DiamondConfig(DenoiserConfig, kind="diamond"):
    """Settings. The defaults are those of Atari's worlds.

    Attributes:
        context: past frames.
        embed_dim: width of the embedding of noise level and actions; an even multiple of the context.
        channels: of each resolution, finest first.
        blocks: of each resolution, on the way down.
        attention: whether each resolution has it.

    Raises:
        ConfigError: sizes that are not positive or do not go together.
    """

    context: int = 4
    embed_dim: int = 256
    channels: tuple[int, ...] = (64, 64, 64, 64)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    attention: tuple[bool, ...] = (False, False, False, False)

    def __post_init__(self) -> None:
        check_resolutions(self.channels, self.blocks, self.attention)
        if self.context < 1:
            raise ConfigError(f"context must be at least 1, not {self.context}.")
        if self.embed_dim < 1 or self.embed_dim % 2 or self.embed_dim % self.context:
            raise ConfigError(
                f"embed_dim must be even and a multiple of the context of {self.context} frames, not {self.embed_dim}."
            )

    @property
    def context_frames(self) -> int:
        """See `DenoiserConfig`."""
        return self.context

    def build(self, shape: DenoiserShape) -> Diamond:
        """See `DenoiserConfig`."""
        return Diamond(self, shape)


class Diamond(StackedFrameDenoiser):
    """The denoiser.

    Args:
        config: its settings.
        shape: what it is built for.

    Raises:
        ConfigError: channels that groups of normalisation, or heads of attention, do not divide.
    """

    def __init__(self, config: DiamondConfig, shape: DenoiserShape) -> None:
        super().__init__(config.context, shape.action_size)
        c, width, dim = shape.frame_shape[0], config.channels[0], config.embed_dim
        self.time = FourierFeatures(dim)
        self.action = nn.Linear(shape.action_size, dim // config.context, bias=False)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.conv_in = nn.Conv2d((config.context + 1) * c, width, 3, padding=1)
        self.unet = DiamondUNet(dim, config.channels, config.blocks, config.attention)
        self.norm = group_norm(width)
        self.conv_out = nn.Conv2d(width, c, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def denoise(self, context: Tensor, noisy: Tensor, time: Tensor, actions: Tensor) -> Tensor:
        """See `StackedFrameDenoiser`."""
        condition = self.mlp(self.time(time) + self.action(actions).flatten(1))
        stacked = torch.cat((context.flatten(1, 2), noisy), dim=1)
        values = self.conv_in.out_channels * stacked.shape[-2] * stacked.shape[-1]
        return map_in_chunks(self._convolve, values, stacked, condition)

    def _convolve(self, stacked: Tensor, condition: Tensor) -> Tensor:
        maps = self.unet(self.conv_in(stacked.contiguous(memory_format=torch.channels_last)), condition)
        output: Tensor = self.conv_out(functional.silu(self.norm(maps)))
        return output

"""A U-Net that sees past frames as further channels below the noisy one, as DIAMOND does (Alonso et al. 2024).

Cache: ``frames`` (b, n, c, h, w), newest last, 0 (grey) where there was none yet; ``actions`` (b, n, a) that led to
them, 0 where there was none.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from dreamenv.denoisers.base import Cache, Denoiser, DenoiserConfig, DenoiserInput, DenoiserShape
from dreamenv.errors import ConfigError
from dreamenv.nn.batching import map_in_chunks
from dreamenv.nn.conditioning import ConditionEmbedding
from dreamenv.nn.unet import UNet

__all__ = ["StackedFrameDenoiser", "UNetConfig", "UNetDenoiser"]


@dataclass(frozen=True, kw_only=True)
class UNetConfig(DenoiserConfig, kind="unet"):
    """Settings.

    Attributes:
        context: past frames.
        channels: of the resolutions, finest first; each is half the one before.
        blocks: per resolution and direction.
        patch: pixels (or latents) per side that are gathered into channels first.
        embed_dim: width of the embedding of noise level and actions, even.

    Raises:
        ConfigError: sizes that cannot be.
    """

    context: int = 4
    channels: tuple[int, ...] = (64, 64, 64, 64)
    blocks: int = 2
    patch: int = 1
    embed_dim: int = 256

    def __post_init__(self) -> None:
        for name in ("context", "blocks", "patch", "embed_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive, at least one, not {self.channels}.")
        if self.embed_dim % 2:
            raise ConfigError(f"embed_dim must be even, not {self.embed_dim}.")

    @property
    def context_frames(self) -> int:
        """See `DenoiserConfig`."""
        return self.context

    def build(self, shape: DenoiserShape) -> UNetDenoiser:
        """See `DenoiserConfig`."""
        return UNetDenoiser(self, shape)


class StackedFrameDenoiser(Denoiser):
    """A denoiser of one frame at a time, given the last few as channels; `denoise` is the network.

    Args:
        context: past frames.
        action_size: width of an action's vector.
    """

    def __init__(self, context: int, action_size: int) -> None:
        super().__init__()
        self.context, self.action_size = context, action_size

    @abstractmethod
    def denoise(self, context: Tensor, noisy: Tensor, time: Tensor, actions: Tensor) -> Tensor:
        """Past frames (n, k, c, h, w), noisy frames (n, c, h, w), times (n,), actions (n, k, a) -> (n, c, h, w).

        The actions led to all but the oldest past frame, and to the noisy one.
        """

    def init_cache(self, frames: Tensor) -> Cache:
        """Return grey frames."""
        b, n = len(frames), self.context
        return {
            "frames": frames.new_zeros(b, n, *frames.shape[1:]),
            "actions": frames.new_zeros(b, n, self.action_size),
        }

    def update_cache(self, cache: Mapping[str, Tensor], context: DenoiserInput) -> Cache:
        """Keep the last ones."""
        n = self.context
        return {
            "frames": torch.cat((cache["frames"], context.frames), dim=1)[:, -n:],
            "actions": torch.cat((cache["actions"], context.actions), dim=1)[:, -n:],
        }

    def forward_cached(self, cache: Mapping[str, Tensor], noisy: DenoiserInput) -> Tensor:
        """Predict one frame, f = 1."""
        actions = torch.cat((cache["actions"][:, 1:], noisy.actions), dim=1)
        return self.denoise(cache["frames"], noisy.frames[:, 0], noisy.time[:, 0], actions)[:, None]

    def forward_sequence(self, context: DenoiserInput, noisy: DenoiserInput) -> Tensor:
        """Predict every frame after the first, as if the dream had started with the sequence."""
        n, clean = self.context, context.frames
        if noisy.drop_context is not None:
            clean = clean * ~noisy.drop_context[:, None, None, None, None]
        grey = torch.zeros_like(clean[:, :1]).expand(-1, n - 1, -1, -1, -1)
        past = torch.cat((grey, clean[:, :-1]), dim=1).unfold(1, n, 1)  # b s-1 c h w n
        nothing = torch.zeros_like(noisy.actions[:, :1]).expand(-1, n - 1, -1)
        actions = torch.cat((nothing, noisy.actions[:, 1:]), dim=1).unfold(1, n, 1)  # b s-1 a n
        output = self.denoise(
            rearrange(past, "b s c h w n -> (b s) n c h w"),
            rearrange(noisy.frames[:, 1:], "b s c h w -> (b s) c h w"),
            rearrange(noisy.time[:, 1:], "b s -> (b s)"),
            rearrange(actions, "b s a n -> (b s) n a"),
        )
        output = rearrange(output, "(b s) c h w -> b s c h w", b=len(clean))
        return torch.cat((torch.zeros_like(output[:, :1]), output), dim=1)


class UNetDenoiser(StackedFrameDenoiser):
    """The denoiser.

    Args:
        config: its settings.
        shape: what it is built for.

    Raises:
        ConfigError: frames that the resolutions do not divide.
    """

    def __init__(self, config: UNetConfig, shape: DenoiserShape) -> None:
        super().__init__(config.context, shape.action_size)
        c, h, w = shape.frame_shape
        self._values = config.channels[0] * h * w // config.patch**2
        self.condition = ConditionEmbedding(config.context * shape.action_size, config.embed_dim)
        self.unet: nn.Module = UNet(
            (h, w), (config.context + 1) * c, c, config.embed_dim, config.channels, config.blocks, config.patch
        )

    def denoise(self, context: Tensor, noisy: Tensor, time: Tensor, actions: Tensor) -> Tensor:
        """See `StackedFrameDenoiser`."""
        stacked = torch.cat((context.flatten(1, 2), noisy), dim=1)
        return map_in_chunks(self.unet, self._values, stacked, self.condition(time, actions.flatten(1)))

"""Diffusion Forcing for video (Chen et al. 2024): each frame at a noise level of its own, by a U-Net over a window.

As published, a normalisation takes its statistics over all frames of the window, the noisy one too, so that what the
network makes of past frames changes in every sampling step: nothing of them can be kept, and each step runs the whole
window. With ``pooling="past"`` a frame is normalised over itself and those before it; past frames are then run once,
and a step runs the new frame alone. That is another computation, for weights that were trained further with it.

Cache: what past frames were given as, newest last, ``frames`` (b, context, c, h, w) and ``times`` (b, context), and
``length`` (b,) int64, how many are there. For "past" instead of what was given: ``keys``, ``values`` and ``moments`` as
in `dreamenv.denoisers.frame_window.WindowCache`, and ``position`` (b,) int64, of the next frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium as gym
import torch
from torch import Tensor

from dreamenv.denoisers.base import Cache, Denoiser, DenoiserConfig, DenoiserInput, DenoiserShape
from dreamenv.denoisers.frame_window import GROUPS, WindowAttention, WindowCache
from dreamenv.denoisers.unet3d import UNet3D
from dreamenv.errors import ConfigError
from dreamenv.nn.actions import ActionEncoder, ActionVector

__all__ = ["DiffusionForcing", "DiffusionForcingConfig"]


@dataclass(frozen=True, kw_only=True)
class DiffusionForcingConfig(DenoiserConfig, kind="diffusion_forcing"):
    """Settings of the network; the defaults are those of the Minecraft model.

    Attributes:
        context: past frames that a frame attends to.
        width: of the first maps, and a quarter of the noise level's embedding.
        channels: of each resolution, finest first.
        heads: of every attention.
        head_size: of each head.
        pooling: over which frames normalisations take their statistics: "window", all of them, as published; or "past",
            a frame and those before it, which is faster and needs weights trained with it.

    Raises:
        ConfigError: sizes that cannot be.
    """

    per_frame_noise: ClassVar[bool] = True
    takes_actions: ClassVar[bool] = False
    pretrained: ClassVar[bool] = True
    noise_processes: ClassVar[tuple[str, ...]] = ("vp",)

    context: int = 9
    width: int = 64
    channels: tuple[int, ...] = (64, 128, 256, 512)
    heads: int = 4
    head_size: int = 64
    pooling: Literal["window", "past"] = "window"

    def __post_init__(self) -> None:
        if self.context < 1:
            raise ConfigError(f"context must be at least 1, not {self.context}.")
        if not self.channels or any(size < 1 or size % GROUPS for size in (self.width, *self.channels)):
            raise ConfigError(
                f"width and channels must be positive multiples of {GROUPS}, not {self.width} and {self.channels}."
            )
        if self.heads < 1 or self.head_size < 2 or self.head_size % 2:
            raise ConfigError(f"heads must be at least 1 and head_size even, not {self.heads} and {self.head_size}.")
        if self.pooling not in ("window", "past"):
            raise ConfigError(f"pooling must be 'window' or 'past', not {self.pooling!r}.")

    @property
    def context_frames(self) -> int:
        """See `DenoiserConfig`."""
        return self.context

    def action_encoder(self, space: gym.Space[Any]) -> ActionEncoder:
        """Return the encoder of the only action that there is.

        Raises:
            ConfigError: a space of several actions.
        """
        if not isinstance(space, gym.spaces.Discrete) or space.n != 1:
            raise ConfigError(f"this network takes no actions: the space must be Discrete(1), not {space}.")
        return ActionVector(space)

    def build(self, shape: DenoiserShape) -> DiffusionForcing:
        """See `DenoiserConfig`."""
        return DiffusionForcing(self, shape)


class DiffusionForcing(Denoiser):
    """Predicts one frame at a time from the last few.

    Args:
        config: its settings.
        shape: of frames.

    Raises:
        ConfigError: frames that the network's resolutions do not divide.
    """

    def __init__(self, config: DiffusionForcingConfig, shape: DenoiserShape) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet3D(shape.frame_shape, config.width, config.channels, config.heads, config.head_size)

    def init_cache(self, frames: Tensor) -> Cache:
        """See `Denoiser`."""
        b, w = len(frames), self.config.context
        none = torch.zeros(b, dtype=torch.int64, device=frames.device)
        if self.config.pooling == "window":
            return {
                "frames": frames.new_zeros(b, w, *frames.shape[1:]), "times": frames.new_zeros(b, w), "length": none,
            }  # fmt: skip
        size = (b, self.unet.places, self.config.heads, w, self.config.head_size)
        moments = frames.new_zeros(b, w, self.unet.norms, GROUPS, 2)
        return {
            "keys": frames.new_zeros(size), "values": frames.new_zeros(size), "moments": moments, "length": none,
            "position": none.clone(),
        }  # fmt: skip

    def update_cache(self, cache: Mapping[str, Tensor], context: DenoiserInput) -> Cache:
        """Keep the last frames, or what the network makes of them."""
        w, f = self.config.context, context.frames.shape[1]
        length = (cache["length"] + f).clamp_max(w)
        if self.config.pooling == "window":
            return {
                "frames": torch.cat((cache["frames"], context.frames), dim=1)[:, -w:],
                "times": torch.cat((cache["times"], context.time), dim=1)[:, -w:],
                "length": length,
            }
        window = self._after(cache, f)
        self.unet(context.frames, context.time, window)
        new = window.cache()
        return {
            "keys": torch.cat((cache["keys"], new.keys), dim=-2)[..., -w:, :],
            "values": torch.cat((cache["values"], new.values), dim=-2)[..., -w:, :],
            "moments": torch.cat((cache["moments"], new.moments), dim=1)[:, -w:],
            "length": length,
            "position": cache["position"] + f,
        }

    def forward_cached(self, cache: Mapping[str, Tensor], noisy: DenoiserInput) -> Tensor:
        """Run the window, or only what is new in it."""
        if self.config.pooling == "past":
            predicted: Tensor = self.unet(noisy.frames, noisy.time, self._after(cache, noisy.frames.shape[1]))
            return predicted
        length = cache["length"]
        n = int(length.max())  # no row has more
        start = self.config.context - n
        frames = torch.cat((cache["frames"][:, start:], noisy.frames), dim=1)
        time = torch.cat((cache["times"][:, start:], noisy.time), dim=1)
        order = torch.arange(frames.shape[1], device=frames.device)
        valid = order >= (n - length)[:, None]
        whole: Tensor = self.unet(frames, time, self._window(valid))
        return whole[:, n:]

    def forward_sequence(self, context: DenoiserInput, noisy: DenoiserInput) -> Tensor:
        """See `Denoiser`."""
        del context
        valid = torch.ones(noisy.time.shape, dtype=torch.bool, device=noisy.time.device)
        whole: Tensor = self.unet(noisy.frames, noisy.time, self._window(valid))
        return whole

    def _window(self, valid: Tensor) -> WindowAttention:
        """Return a window of frames, of which only some are there, (b, f) bool."""
        order = torch.arange(valid.shape[1], device=valid.device)
        back = order[:, None] - order  # f f: how many frames the second lies behind the first
        near = ((back >= 0) & (back <= self.config.context)).expand(len(valid), -1, -1)
        pooled = torch.ones_like(near) if self.config.pooling == "window" else near
        itself = back == 0  # also one that is not there, so that nothing is divided by 0
        attention_mask, pooling_mask = (mask & valid[:, None] | itself for mask in (near, pooled))
        return WindowAttention(attention_mask, pooling_mask, order.expand(len(valid), -1))

    def _after(self, cache: Mapping[str, Tensor], f: int) -> WindowAttention:
        """Return the window of f frames after those in the cache."""
        w, order = self.config.context, torch.arange(f, device=cache["length"].device)
        place = torch.cat((torch.arange(-w, 0, device=order.device), order))  # 0 is the first new one
        back = order[:, None] - place
        near = (back >= 0) & (back <= w) & (place >= -cache["length"][:, None, None])
        positions = cache["position"][:, None] + order
        return WindowAttention(near, near, positions, WindowCache(cache["keys"], cache["values"], cache["moments"]))

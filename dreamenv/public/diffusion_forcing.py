"""Diffusion Forcing for video (Chen et al. 2024): each frame at a noise level of its own, by a U-Net over a window.

As published, a normalisation takes its measure over all frames of the window, the noisy one too, so that what the
network makes of past frames changes in every pass: nothing of them can be kept, and each pass runs the whole window.
With ``pooling="past"`` a frame is normalised over itself and those before it; past frames are then run once, and a pass
runs the new frame alone. That is another computation, for weights that were trained further with it.

Memory: ``frames`` (b, context, c, h, w), newest last, and ``held`` (b,) int64, how many are there. For "past" instead
of the frames: ``keys``, ``values`` and ``moments`` as in `dreamenv.public.frame_window.Kept`, and ``seen`` (b,) int64,
how many frames there have been.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.backbones.denoising.networks import Asked, FrameNetwork, Remembered
from dreamenv.diffusion.objective import stabilised
from dreamenv.diffusion.processes import VariancePreserving
from dreamenv.errors import ConfigError
from dreamenv.nn.actions import ActionVector
from dreamenv.public.frame_window import GROUPS, Kept, Window
from dreamenv.public.unet3d import UNet3D

if TYPE_CHECKING:
    from dreamenv.backbones.denoising.config import DenoisingConfig

__all__ = ["SCHEDULE", "DiffusionForcingFrames", "DiffusionForcingSizes"]

SCHEDULE = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "clipped_snr", "snr",
)  # fmt: skip
"""Names of the tensors about the chain that are saved with the published weights, each (steps,)."""

_SNR_CLIP = 5.0
_LEAST = 1e-20


@dataclass(frozen=True, kw_only=True)
class DiffusionForcingSizes:
    """Sizes of the network; the defaults are those of the Minecraft model.

    Attributes:
        kind: its name.
        width: of the first maps, and a quarter of the noise level's embedding.
        channels: of each resolution, finest first.
        heads: of every attention.
        head_size: of each head.
        pooling: over which frames normalisations take their measure: "window", all of them, as published; or "past", a
            frame and those before it, which is faster and needs weights trained with it.

    Raises:
        ConfigError: sizes that cannot be.
    """

    kind: str = "diffusion forcing"
    width: int = 64
    channels: tuple[int, ...] = (64, 128, 256, 512)
    heads: int = 4
    head_size: int = 64
    pooling: Literal["window", "past"] = "window"

    def __post_init__(self) -> None:
        if not self.channels or any(size < 1 or size % GROUPS for size in (self.width, *self.channels)):
            raise ConfigError(
                f"width and channels must be positive multiples of {GROUPS}, not {self.width} and {self.channels}."
            )
        if self.heads < 1 or self.head_size < 2 or self.head_size % 2:
            raise ConfigError(f"heads must be at least 1 and head_size even, not {self.heads} and {self.head_size}.")
        if self.pooling not in ("window", "past"):
            raise ConfigError(f"pooling must be 'window' or 'past', not {self.pooling!r}.")

    def vectors(self, space: gym.Space[Any]) -> nn.Module:
        """Any space will do whose actions can be vectors; the network is not told of them.

        Raises:
            ConfigError: a space of actions that differ.
        """
        if not isinstance(space, gym.spaces.Discrete) or space.n != 1:
            raise ConfigError(f"this network is not told of actions: the space must be Discrete(1), not {space}.")
        return ActionVector(space)

    def network(
        self, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int
    ) -> DiffusionForcingFrames:
        """Make the untrained network."""
        del action_size
        return DiffusionForcingFrames(self, config, frame_shape)


class DiffusionForcingFrames(FrameNetwork):
    """Draws one frame at a time from the last few.

    Args:
        sizes: of the network.
        config: of its world; ``noise`` must be "chain".
        frame_shape: (c, h, w).

    Raises:
        ConfigError: another process, or frames that the network's resolutions do not divide.
    """

    data_mean: Tensor
    data_std: Tensor

    def __init__(
        self, sizes: DiffusionForcingSizes, config: DenoisingConfig, frame_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.sizes, self.config, self.process, self.target = sizes, config, config.process, config.make_target()
        if not isinstance(self.process, VariancePreserving):
            raise ConfigError(f"this network is told steps of a chain: noise must be 'chain', not {config.noise!r}.")
        self.unet = UNet3D(frame_shape, sizes.width, sizes.channels, sizes.heads, sizes.head_size)
        # These are part of what was published; nothing is computed from them.
        self.schedule = nn.Module()
        for name, values in _schedule(self.process).items():
            self.schedule.register_buffer(name, values)
        for name in ("data_mean", "data_std"):
            self.register_buffer(name, torch.tensor(0.5))

    def begin(self, like: Tensor) -> Remembered:
        """No frame."""
        b, w = like.shape[0], self.config.context
        nothing = torch.zeros(b, dtype=torch.int64, device=like.device)
        if self.sizes.pooling == "window":
            return {"frames": like.new_zeros(b, w, *like.shape[1:]), "held": nothing}
        size = (b, self.unet.places, self.sizes.heads, w, self.sizes.head_size)
        moments = like.new_zeros(b, w, self.unet.normals, GROUPS, 2)
        return {
            "keys": like.new_zeros(size), "values": like.new_zeros(size), "moments": moments, "held": nothing,
            "seen": nothing,
        }  # fmt: skip

    def remember(
        self, past: Mapping[str, Tensor], frames: Tensor, actions: Tensor, groups: Tensor | None = None
    ) -> Remembered:
        """Keep the last ones, or what the network makes of them."""
        del actions, groups
        w, held = self.config.context, (past["held"] + frames.shape[1]).clamp_max(self.config.context)
        if self.sizes.pooling == "window":
            return {"frames": torch.cat((past["frames"], frames), dim=1)[:, -w:], "held": held}
        shown, level = stabilised(self.process, frames, self.config.stabilisation, self.config.manner)
        window = self._after(past, frames.shape[1])
        self.unet(shown, level, window)
        new = window.kept()
        return {
            "keys": torch.cat((past["keys"], new.keys), dim=-2)[..., -w:, :],
            "values": torch.cat((past["values"], new.values), dim=-2)[..., -w:, :],
            "moments": torch.cat((past["moments"], new.moments), dim=1)[:, -w:],
            "held": held,
            "seen": past["seen"] + frames.shape[1],
        }

    def predict(self, past: Mapping[str, Tensor], asked: Asked) -> Tensor:
        """Run the window, or only what is new in it."""
        if self.sizes.pooling == "past":
            drawn: Tensor = self.unet(asked.noisy, self._told(asked.level), self._after(past, asked.noisy.shape[1]))
            return drawn
        held = past["held"]
        n = int(held.max())  # no row has more
        frames = past["frames"][:, self.config.context - n :]
        shown, level = stabilised(self.process, frames, self.config.stabilisation, self.config.manner)
        noisy = torch.cat((shown, asked.noisy), dim=1)
        order = torch.arange(noisy.shape[1], device=noisy.device)
        there = order >= (n - held)[:, None]
        whole: Tensor = self.unet(noisy, self._told(torch.cat((level, asked.level), dim=1)), self._window(there))
        return whole[:, n:]

    def predict_all(self, clean: Tensor, asked: Asked) -> Tensor:
        """All noisy frames together, which are each other's context."""
        there = torch.ones(clean.shape[:2], dtype=torch.bool, device=clean.device)
        whole: Tensor = self.unet(asked.noisy, self._told(asked.level), self._window(there, asked.alone))
        return whole

    def _told(self, level: Tensor) -> Tensor:
        """Steps (b, f) as the network is told them: a clean frame passes for one at step 0."""
        return level.clamp_min(0).floor()

    def _window(self, there: Tensor, alone: Tensor | None = None) -> Window:
        """Return a window of frames (b, f), of which only some are there; rows ``alone`` (b,) see no other frame."""
        order = torch.arange(there.shape[1], device=there.device)
        back = order[:, None] - order  # f f: how many frames the second lies behind the first
        near = ((back >= 0) & (back <= self.config.context)).expand(len(there), -1, -1)
        counts = torch.ones_like(near) if self.sizes.pooling == "window" else near
        seen = there[:, None] if alone is None else there[:, None] & ~alone[:, None, None]
        itself = back == 0  # also one that is not there, so that nothing is divided by 0
        return Window(near & seen | itself, counts & seen | itself, order.expand(len(there), -1).float())

    def _after(self, past: Mapping[str, Tensor], f: int) -> Window:
        """Return the window of f frames after those that are remembered."""
        w, order = self.config.context, torch.arange(f, device=past["held"].device)
        place = torch.cat((torch.arange(-w, 0, device=order.device), order))  # 0 is the first new one
        back = order[:, None] - place
        near = (back >= 0) & (back <= w) & (place >= -past["held"][:, None, None])
        positions = (past["seen"][:, None] + order).float()
        return Window(near, near, positions, Kept(past["keys"], past["values"], past["moments"]))


def _schedule(process: VariancePreserving) -> dict[str, Tensor]:
    """Return the tensors of `SCHEDULE`, as they are computed for publication: in float64, saved as float32."""
    kept = process.signal[1:]
    before = functional.pad(kept[:-1], (1, 0), value=1.0)
    betas = 1 - kept / before
    variance = betas * (1 - before) / (1 - kept)
    snr = kept / (1 - kept)
    values = (
        betas, kept, before, kept.sqrt(), (1 - kept).sqrt(), (1 - kept).log(), (1 / kept).sqrt(), (1 / kept - 1).sqrt(),
        variance, variance.clamp_min(_LEAST).log(), betas * before.sqrt() / (1 - kept),
        (1 - before) * (1 - betas).sqrt() / (1 - kept), snr.clamp_max(_SNR_CLIP), snr,
    )  # fmt: skip
    return {name: value.float() for name, value in zip(SCHEDULE, values, strict=True)}

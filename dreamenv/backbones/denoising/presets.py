"""The systems that brought autoregression back, as settings of one family.

Each keeps what its paper is about and is small enough to learn something in ten minutes of one CPU core, unless it says
otherwise. So all but DIAMOND's draw latents of 16 x 16 places of a frame of 64 x 64 pixels, 16 tokens of 4 x 4 places
to a transformer. Pixels in as few tokens would be 768 values each, whose noise does not pass through so narrow a
transformer, which only a frame itself does (Li and He 2025, "Back to Basics: Let Denoising Generative Models Denoise"),
and in smaller ones cost ten times as much. A codec of 8 x 8 places makes as few tokens, but loses what is small, such
as monsters far away. Transformers predict the frame, also where a paper's predicted noise or velocity, for that reason.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from dreamenv.backbones.denoising.codec import CodecConfig
from dreamenv.backbones.denoising.config import DenoisingConfig

__all__ = [
    "chunkwise",
    "diamond",
    "diffusion_forcing",
    "diffusion_forcing_base",
    "framepack",
    "gamefactory",
    "genie2",
    "holistic",
    "nwm",
    "shortcut",
    "small",
    "small_latents",
    "tiny",
]

_CODEC = CodecConfig(downsample=4, latent_channels=4)
_FOUR_TO_ONE = dataclasses.replace(_CODEC, stride=4)
_TRANSFORMER: dict[str, Any] = {
    "codec": _CODEC, "data_std": 1.0, "condition": 128, "depth": 4, "heads": 4, "patch": 4, "context": 16,
    "denoiser_length": 16, "denoiser_rate": 1e-3, "events_see": "latent", "events_rate": 1e-3,
    "events_batch": 32,
}  # fmt: skip
_FLOW: dict[str, Any] = {"noise": "flow", "target": "frame", "sampler": "euler", "passes": 8, "stabilisation": 0.02}
_CHAIN: dict[str, Any] = {
    "noise": "chain", "schedule": "sigmoid", "target": "frame", "sampler": "ddim", "passes": 8, "stabilisation": 15,
}  # fmt: skip
_PACKING = ((1, 1), (2, 2), (16, 4))


def tiny() -> DenoisingConfig:
    """For tests: trains in seconds."""
    return DenoisingConfig(
        context=2, passes=2, channels=(16, 24), blocks=1, patch=2, condition=32, memory=32, event_channels=(8, 12),
        denoiser_steps=200, events_steps=100, denoiser_length=6, events_length=12, denoiser_rate=1e-3, events_rate=1e-3,
    )  # fmt: skip


def small() -> DenoisingConfig:
    """DIAMOND's recipe with a U-Net that looks at patches of 2 x 2 pixels."""
    return DenoisingConfig(
        channels=(32, 48, 64), blocks=1, patch=2, condition=128, denoiser_rate=1e-3, events_rate=1e-3
    )


def small_latents() -> DenoisingConfig:
    """DIAMOND's recipe in latents: learns in minutes what takes it hours in pixels."""
    return DenoisingConfig(
        channels=(48, 64), blocks=1, condition=128, codec=_CODEC, data_std=1.0, events_see="latent", events_batch=32,
        denoiser_rate=1e-3, events_rate=1e-3,
    )  # fmt: skip


def diamond() -> DenoisingConfig:
    """The size of DIAMOND for Atari (Alonso et al. 2024): 4 frames of context, EDM, 3 Euler steps; for a GPU."""
    return DenoisingConfig(
        blocks=2, memory=512, denoiser_steps=400_000, denoiser_batch=32, denoiser_length=8, denoiser_rate=1e-4,
        events_steps=400_000, events_batch=32, events_length=20, events_rate=1e-4,
    )  # fmt: skip


def diffusion_forcing() -> DenoisingConfig:
    """Diffusion Forcing (Chen et al. 2024): frame after frame, each at a noise level of its own."""
    return DenoisingConfig(network="dit", **_CHAIN, **_TRANSFORMER)


def diffusion_forcing_base() -> DenoisingConfig:
    """The same with 64 tokens per frame and six times the width; for a GPU."""
    return DenoisingConfig(
        network="dit",
        **{
            **_CHAIN, **_TRANSFORMER, "condition": 768, "depth": 8, "heads": 12, "patch": 2, "denoiser_steps": 200_000,
            "denoiser_batch": 64, "denoiser_rate": 1e-4, "events_steps": 20_000,
        },
    )  # fmt: skip


def genie2() -> DenoisingConfig:
    """As Genie 2 is described (DeepMind 2024): latents, causal attention, guidance by the action. It is not public."""
    return DenoisingConfig(
        network="dit", hide_actions=0.1, guide_actions=1.5, **_CHAIN, **_TRANSFORMER
    )  # fmt: skip


def gamefactory() -> DenoisingConfig:
    """GameFactory (Yu et al. 2025): keyboard and mouse each in its own way, four actions to a latent of four frames."""
    return DenoisingConfig(
        network="dit", actions="by kind", action_window=1,
        **{
            **_FLOW, **_TRANSFORMER, "codec": _FOUR_TO_ONE, "context": 8, "denoiser_length": 32,
            "events_see": "frame", "events_batch": 8,
        },
    )  # fmt: skip


def nwm() -> DenoisingConfig:
    """Navigation World Models (Bar et al. 2024): attention across to clean context, and jumps of up to 8 steps."""
    return DenoisingConfig(
        network="cdit", furthest_jump=8, corruption=0.1, **{**_CHAIN, **_TRANSFORMER, "stabilisation": 0.0}
    )


def chunkwise() -> DenoisingConfig:
    """MAGI-1 (Sand AI 2025): four frames at a time out of the noise of a shifted flow, clean chunks remembered."""
    return DenoisingConfig(network="dit", chunk=4, plan="full", shift=3.0, **_FLOW, **_TRANSFORMER)


def framepack() -> DenoisingConfig:
    """FramePack (Zhang and Agrawala 2025): nineteen past frames in the tokens of one and a half; frame after frame."""
    return DenoisingConfig(
        network="packed", packing=_PACKING, corruption=0.1,
        **{**_FLOW, **_TRANSFORMER, "stabilisation": 0.0, "denoiser_length": 20},
    )  # fmt: skip


def shortcut() -> DenoisingConfig:
    """Shortcut forcing (Dreamer 4, Hafner et al. 2025): Diffusion Forcing that draws a frame in 4, 2 or 1 passes."""
    return DenoisingConfig(
        network="dit", shortcut=16, noise="flow", target="frame", sampler="euler", passes=4, stabilisation=1 / 16,
        manner="labelled", **_TRANSFORMER,
    )  # fmt: skip


def holistic() -> DenoisingConfig:
    """No autoregression within a window: sixteen frames denoised together, by the denoiser of `chunkwise`.

    As an environment it is planned anew whenever the action changes: what frame-by-frame worlds are to be held against.
    """
    return dataclasses.replace(chunkwise(), chunk=16)

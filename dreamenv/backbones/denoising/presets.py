"""Presets of denoising worlds: the systems that brought autoregression back, as parts of one family.

A preset whose name ends in ``_like`` is ours in the form of that system: it keeps what the paper is about, in an
architecture of ours that is small enough to learn something in ten minutes of one CPU core, unless it says otherwise.
A preset with a system's plain name is the published architecture. Those whose weights were published are imported
(`dreamenv.importers`).

All of ours but U-Nets sample latents of 16 x 16 places of a frame of 64 x 64 pixels, 16 tokens of 4 x 4 places to a
transformer. Pixels in as few tokens would be 768 values each, whose noise does not pass through so narrow a
transformer, which only a frame itself does (Li and He 2025, "Back to Basics: Let Denoising Generative Models Denoise"),
and in smaller ones cost ten times as much. A codec of 8 x 8 places makes as few tokens, but loses what is small, such
as monsters far away. Transformers predict x0, also where a paper's predict noise or velocity, for that reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from dreamenv.backbones.denoising.training import DenoiserTraining
from dreamenv.backbones.denoising.world import DenoisingConfig
from dreamenv.codecs.conv_vae import ConvVAEConfig
from dreamenv.denoisers.causal_dit import CausalDiTConfig
from dreamenv.denoisers.cross_dit import CrossDiTConfig
from dreamenv.denoisers.diamond import DiamondConfig
from dreamenv.denoisers.foveated_dit import FoveatedDiTConfig
from dreamenv.denoisers.framepack import FramePackConfig
from dreamenv.denoisers.gaze import MotionGaze
from dreamenv.denoisers.unet import UNetConfig
from dreamenv.diffusion.context_noise import NoiseAugmentation, Stabilization
from dreamenv.diffusion.guidance import Guidance
from dreamenv.diffusion.process import RectifiedFlow, VariancePreserving
from dreamenv.diffusion.sampler import DDIM, Euler
from dreamenv.diffusion.schedule import FullSequence
from dreamenv.diffusion.shortcut import Shortcut
from dreamenv.diffusion.target import X0, EDMPreconditioned
from dreamenv.heads.base import HeadTraining
from dreamenv.heads.diamond_head import DiamondHeadConfig
from dreamenv.heads.recurrent import RecurrentHeadConfig
from dreamenv.heads.reward_termination import RewardTerminationHeadConfig

__all__ = [
    "PRESETS",
    "chunkwise",
    "diamond",
    "diffusion_forcing_like",
    "diffusion_forcing_like_base",
    "foveated",
    "framepack_like",
    "gamefactory_like",
    "genie2_like",
    "holistic",
    "nwm_like",
    "shortcut",
    "small",
    "small_latents",
    "tiny",
]

_CODEC = ConvVAEConfig(latent_channels=4, channels=(32, 64), patch=2)
_LATENT_HEAD = RecurrentHeadConfig(watches="latent", training=HeadTraining(batch_size=32, learning_rate=1e-3))
_TRAINING = DenoiserTraining(sequence_length=16, learning_rate=1e-3)
_FLOW_STABILIZATION = Stabilization(stabilization_level=0.02)

_CHAIN = DenoisingConfig(
    denoiser=CausalDiTConfig(),
    process=VariancePreserving(schedule="sigmoid"),
    target=X0(),
    sampler=DDIM(steps=8),
    context_noise=Stabilization(stabilization_level=15.0),
    codec=_CODEC,
    head=_LATENT_HEAD,
    training=_TRAINING,
)
_FLOW = dataclasses.replace(_CHAIN, process=RectifiedFlow(), sampler=Euler(steps=8), context_noise=_FLOW_STABILIZATION)


def tiny() -> DenoisingConfig:
    """For tests: trains in seconds."""
    return DenoisingConfig(
        denoiser=UNetConfig(context=2, channels=(16, 24), blocks=1, patch=2, embed_dim=32),
        sampler=Euler(steps=2),
        head=RecurrentHeadConfig(
            hidden_size=32,
            channels=(8, 12),
            prediction=RewardTerminationHeadConfig(hidden_size=32),
            training=HeadTraining(steps=100, sequence_length=12, learning_rate=1e-3),
        ),
        context_source="decoded",
        training=DenoiserTraining(steps=200, sequence_length=6, learning_rate=1e-3),
    )


def small() -> DenoisingConfig:
    """DIAMOND's recipe with a U-Net that looks at patches of 2 x 2 pixels."""
    return DenoisingConfig(
        denoiser=UNetConfig(channels=(32, 48, 64), blocks=1, patch=2, embed_dim=128),
        head=RecurrentHeadConfig(training=HeadTraining(learning_rate=1e-3)),
        context_source="decoded",
        training=DenoiserTraining(learning_rate=1e-3),
    )


def small_latents() -> DenoisingConfig:
    """DIAMOND's recipe in latents: learns in minutes what takes it hours in pixels."""
    return DenoisingConfig(
        denoiser=UNetConfig(channels=(48, 64), blocks=1, embed_dim=128),
        target=EDMPreconditioned(sigma_data=1.0),
        codec=_CODEC,
        head=_LATENT_HEAD,
        training=DenoiserTraining(learning_rate=1e-3),
    )


def diamond() -> DenoisingConfig:
    """DIAMOND for Atari as published (Alonso et al. 2024): 4.4 million parameters, for a GPU."""
    return DenoisingConfig(
        denoiser=DiamondConfig(),
        target=EDMPreconditioned(offset_noise=0.3),
        sampler=Euler(steps=3, init_noise_sigma=1.0, quantize_x0=True),
        head=DiamondHeadConfig(
            training=HeadTraining(steps=400_000, batch_size=32, sequence_length=20, learning_rate=1e-4, bfloat16=False)
        ),
        training=DenoiserTraining(steps=400_000, batch_size=32, sequence_length=8, learning_rate=1e-4, bfloat16=False),
    )


def diffusion_forcing_like() -> DenoisingConfig:
    """Diffusion Forcing (Chen et al. 2024): frame after frame, each at a noise level of its own."""
    return _CHAIN


def diffusion_forcing_like_base() -> DenoisingConfig:
    """The same with 64 tokens per frame and six times the width; for a GPU."""
    return dataclasses.replace(
        _CHAIN,
        denoiser=CausalDiTConfig(embed_dim=768, depth=8, heads=12, patch=2),
        head=dataclasses.replace(_LATENT_HEAD, training=HeadTraining(steps=20_000, batch_size=32, learning_rate=1e-3)),
        training=DenoiserTraining(steps=200_000, batch_size=64, sequence_length=16, learning_rate=1e-4),
    )


def genie2_like() -> DenoisingConfig:
    """As Genie 2 is described (DeepMind 2024): latents, causal attention, guidance by the action. It is not public."""
    return dataclasses.replace(_CHAIN, guidance=Guidance(action_dropout=0.1, action_guidance_scale=1.5))


def gamefactory_like() -> DenoisingConfig:
    """GameFactory (Yu et al. 2025): keyboard and mouse each in its own way, four actions to a latent of four frames."""
    return dataclasses.replace(
        _FLOW,
        denoiser=CausalDiTConfig(context=8, action_conditioning="cross_attention", action_window=1),
        codec=dataclasses.replace(_CODEC, temporal_stride=4),
        head=RecurrentHeadConfig(training=HeadTraining(learning_rate=1e-3)),
        training=dataclasses.replace(_TRAINING, sequence_length=32),
    )


def nwm_like() -> DenoisingConfig:
    """Navigation World Models (Bar et al. 2024): cross-attention to clean context, and shifts of up to 8 steps."""
    return dataclasses.replace(
        _CHAIN, denoiser=CrossDiTConfig(max_time_shift=8), context_noise=NoiseAugmentation(max_std=0.1)
    )


def chunkwise() -> DenoisingConfig:
    """Four frames at a time out of the noise of a shifted flow, clean chunks remembered, as MAGI-1 (Sand AI 2025)."""
    return dataclasses.replace(_FLOW, process=RectifiedFlow(shift=3.0), schedule=FullSequence(frames=4))


def framepack_like() -> DenoisingConfig:
    """FramePack (Zhang and Agrawala 2025): nineteen past frames in the tokens of one and a half; frame after frame."""
    return dataclasses.replace(
        _FLOW,
        denoiser=FramePackConfig(packing=((1, 1), (2, 2), (16, 4))),
        context_noise=NoiseAugmentation(max_std=0.1),
        training=dataclasses.replace(_TRAINING, sequence_length=20),
    )


def foveated() -> DenoisingConfig:
    """Fine tokens where things move, coarse ones elsewhere (Foveated Diffusion, 2026): 28 tokens instead of 64."""
    return dataclasses.replace(_CHAIN, denoiser=FoveatedDiTConfig(context=8, patch=2, fovea=(4,), gaze=MotionGaze()))


def shortcut() -> DenoisingConfig:
    """Shortcut forcing (Dreamer 4, Hafner et al. 2025): Diffusion Forcing with a frame in 4, 2 or 1 steps."""
    return dataclasses.replace(
        _FLOW,
        process=RectifiedFlow(logit_std=None),
        sampler=Shortcut(steps=4, max_steps=16),
        context_noise=Stabilization(stabilization_level=1 / 16, context_noise_mode="labelled"),
    )


def holistic() -> DenoisingConfig:
    """No autoregression within a window: sixteen frames denoised together, by the denoiser of `chunkwise`.

    As an environment it is planned again whenever the action changes: what frame-by-frame worlds are held against.
    """
    return dataclasses.replace(chunkwise(), schedule=FullSequence(frames=16))


PRESETS: dict[str, Callable[[], DenoisingConfig]] = {
    "small": small,
    "tiny": tiny,
    "small_latents": small_latents,
    "diamond": diamond,
    "diffusion_forcing_like": diffusion_forcing_like,
    "diffusion_forcing_like_base": diffusion_forcing_like_base,
    "shortcut": shortcut,
    "nwm_like": nwm_like,
    "framepack_like": framepack_like,
    "foveated": foveated,
    "chunkwise": chunkwise,
    "holistic": holistic,
    "genie2_like": genie2_like,
    "gamefactory_like": gamefactory_like,
}

"""Denoising worlds as small as they get, one per denoiser, and what their tests share."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from dreamenv.backbones.denoising import DenoisingConfig, DenoisingWorld
from dreamenv.backbones.denoising.presentation import Presentation
from dreamenv.backbones.denoising.presets import tiny
from dreamenv.codecs.base import CodecTraining
from dreamenv.codecs.conv_vae import ConvVAEConfig
from dreamenv.denoisers.base import DenoiserInput
from dreamenv.denoisers.causal_dit import CausalDiTConfig
from dreamenv.denoisers.cross_dit import CrossDiTConfig
from dreamenv.denoisers.foveated_dit import FoveatedDiTConfig
from dreamenv.denoisers.framepack import FramePackConfig
from dreamenv.denoisers.gaze import MotionGaze
from dreamenv.diffusion.context_noise import Stabilization
from dreamenv.diffusion.preconditioning import Preconditioning
from dreamenv.diffusion.process import RectifiedFlow, VariancePreserving
from dreamenv.diffusion.sampler import DDIM
from dreamenv.diffusion.shortcut import Shortcut
from dreamenv.diffusion.target import X0
from dreamenv.testing import SPEC

TINY = tiny()
TINY_DIT = dataclasses.replace(
    TINY,
    denoiser=CausalDiTConfig(context=3, embed_dim=64, depth=2, heads=2, patch=4),
    process=VariancePreserving(schedule="sigmoid"),
    target=X0(),
    sampler=DDIM(steps=2),
    context_noise=Stabilization(stabilization_level=15.0),
)
_CLEAN_CONTEXT = dataclasses.replace(TINY_DIT, context_noise=None)
TINY_CROSS = dataclasses.replace(
    _CLEAN_CONTEXT, denoiser=CrossDiTConfig(context=3, embed_dim=64, depth=2, heads=2, patch=4)
)
TINY_PACKED = dataclasses.replace(
    _CLEAN_CONTEXT, denoiser=FramePackConfig(packing=((1, 1), (2, 2)), embed_dim=64, depth=2, heads=2, patch=4)
)
TINY_FOVEATED = dataclasses.replace(
    TINY_DIT,
    denoiser=FoveatedDiTConfig(context=3, embed_dim=64, depth=2, heads=2, patch=4, fovea=(2,), gaze=MotionGaze()),
)
TINY_SHORTCUT = dataclasses.replace(
    TINY_DIT,
    process=RectifiedFlow(logit_std=None),
    sampler=Shortcut(steps=2, max_steps=4),
    context_noise=Stabilization(stabilization_level=0.25, context_noise_mode="labelled"),
)
TINY_CODEC = ConvVAEConfig(channels=(16, 16), patch=2, training=CodecTraining(learning_rate=3e-3))
TINY_LATENT = dataclasses.replace(
    TINY_DIT,
    denoiser=dataclasses.replace(TINY_DIT.denoiser, patch=1),
    codec=TINY_CODEC,
    head=dataclasses.replace(TINY.head, watches="latent"),
    context_source="sampled",
)


def with_denoiser(config: DenoisingConfig, **settings: Any) -> DenoisingConfig:
    """Change settings of the denoiser."""
    return dataclasses.replace(config, denoiser=dataclasses.replace(config.denoiser, **settings))


def with_training(config: DenoisingConfig, **settings: Any) -> DenoisingConfig:
    """Change how the denoiser is trained."""
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **settings))


def randomized(config: DenoisingConfig) -> DenoisingWorld:
    """A world whose denoiser's every weight is random, also those that begin as 0."""
    torch.manual_seed(0)
    world = config.build(SPEC).eval()
    for parameter in world.denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    return world


def presented(world: DenoisingWorld, *, rows: int, frames: int) -> tuple[Tensor, DenoiserInput, DenoiserInput]:
    """Random clean frames of a sequence, as they are presented as context, and noise to predict them from."""
    generator, config = torch.Generator().manual_seed(1), world.config
    clean = torch.rand((rows, frames, *SPEC.frame_shape), generator=generator) * 2 - 1
    noisy = torch.randn(clean.shape, generator=generator)
    level = config.process.training_levels(torch.rand((rows, frames), generator=generator))
    actions = world.action(torch.randint(3, (rows, frames), generator=generator))
    actions = torch.cat((torch.zeros_like(actions[:, :1]), actions[:, 1:]), dim=1)
    present = Presentation(
        Preconditioning(config.process, config.target), config.context_noise, config.sampler.finest_step_size
    )
    return clean, present.context(clean, actions), present.noisy(noisy, level, actions)

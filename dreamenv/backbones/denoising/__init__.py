"""Worlds that draw each next frame out of noise: settings, presets and model."""

from __future__ import annotations

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.model import DenoisingWorld
from dreamenv.backbones.denoising.presets import (
    chunkwise,
    diamond,
    diffusion_forcing,
    framepack,
    gamefactory,
    genie2,
    holistic,
    nwm,
    shortcut,
    small,
    tiny,
)

__all__ = [
    "DenoisingConfig",
    "DenoisingWorld",
    "chunkwise",
    "diamond",
    "diffusion_forcing",
    "framepack",
    "gamefactory",
    "genie2",
    "holistic",
    "nwm",
    "shortcut",
    "small",
    "tiny",
]

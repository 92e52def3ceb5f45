"""Worlds that draw each next frame out of noise: settings and model."""

from __future__ import annotations

from dreamenv.backbones.denoising.config import DenoisingConfig, chunkwise, diamond, diffusion_forcing, small, tiny
from dreamenv.backbones.denoising.model import DenoisingWorld

__all__ = ["DenoisingConfig", "DenoisingWorld", "chunkwise", "diamond", "diffusion_forcing", "small", "tiny"]

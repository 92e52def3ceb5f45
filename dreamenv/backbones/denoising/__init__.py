"""Worlds that denoise each next frame: their parts (`DenoisingConfig`), the model, and presets (`presets`)."""

from __future__ import annotations

from dreamenv.backbones.denoising.training import DenoiserTraining
from dreamenv.backbones.denoising.world import DenoisingConfig, DenoisingWorld

__all__ = ["DenoiserTraining", "DenoisingConfig", "DenoisingWorld"]

"""Worlds that draw each next frame out of noise: settings (`config`), presets (`presets`) and model (`model`)."""

from __future__ import annotations

from dreamenv.backbones.denoising import presets
from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.model import DenoisingWorld

__all__ = ["DenoisingConfig", "DenoisingWorld", "presets"]

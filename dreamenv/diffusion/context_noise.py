"""Noise on past frames, which makes a network robust to its own prediction errors."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamenv.diffusion.preconditioning import per_frame
from dreamenv.diffusion.process import NoiseProcess
from dreamenv.errors import ConfigError
from dreamenv.parts import Part

__all__ = ["ContextNoise", "NoiseAugmentation", "Stabilization"]


@dataclass(frozen=True, kw_only=True)
class ContextNoise(Part, ABC):
    """How past frames are presented."""


@dataclass(frozen=True, kw_only=True)
class Stabilization(ContextNoise, kind="stabilization"):
    """Clean frames are presented as slightly noisy; for networks whose frames each have a noise level of their own.

    Attributes:
        stabilization_level: that they are given, on the scale of the noise process.
        context_noise_mode: "scaled", shrunk to what is left of a frame at that level (Diffusion Forcing, Chen et al.
            2024), or "labelled", unchanged under that level's label (Oasis).

    Raises:
        ConfigError: an unknown mode.
    """

    stabilization_level: float = 0.0
    context_noise_mode: Literal["scaled", "labelled"] = "scaled"

    def __post_init__(self) -> None:
        if self.context_noise_mode not in ("scaled", "labelled"):
            raise ConfigError(f"context_noise_mode must be 'scaled' or 'labelled', not {self.context_noise_mode!r}.")

    def present(self, process: NoiseProcess, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return clean frames (b, f, ...) as they are presented, and their levels (b, f)."""
        levels = torch.full(frames.shape[:2], self.stabilization_level, device=frames.device)
        if self.context_noise_mode == "labelled":
            return frames, levels
        alpha, _ = process.alpha_sigma(levels)
        return per_frame(alpha, frames) * frames, levels


@dataclass(frozen=True, kw_only=True)
class NoiseAugmentation(ContextNoise, kind="noise_augmentation"):
    """In training, past frames get noise of their own; for networks that are given clean ones (GameNGen 2024).

    Attributes:
        max_std: greatest standard deviation; each window samples one.

    Raises:
        ConfigError: a standard deviation that is not positive.
    """

    max_std: float = 0.1

    def __post_init__(self) -> None:
        if not self.max_std > 0:
            raise ConfigError(f"max_std must be positive, not {self.max_std}; leave noise augmentation out for none.")

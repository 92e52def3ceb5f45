"""What a denoiser is given of frames, clean or noisy: scaled, and with the time of their noise level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamenv.denoisers.base import DenoiserInput
from dreamenv.diffusion.context_noise import ContextNoise, Stabilization
from dreamenv.diffusion.preconditioning import Preconditioning

__all__ = ["Presentation"]


@dataclass(frozen=True)
class Presentation:
    """How frames are presented.

    Attributes:
        preconditioning: process and target.
        context_noise: of past frames.
        finest_step_size: that goes with clean frames, where step sizes are given.
    """

    preconditioning: Preconditioning
    context_noise: ContextNoise | None
    finest_step_size: float | None

    def context(
        self, frames: Tensor, actions: Tensor, block_ids: Tensor | None = None, surprise: Tensor | None = None
    ) -> DenoiserInput:
        """Present clean frames (b, f, ...) that vectors of actions (b, f, a) led to, as context of later ones."""
        process, target = self.preconditioning.process, self.preconditioning.target
        if isinstance(self.context_noise, Stabilization):
            frames, level = self.context_noise.present(process, frames)
        else:
            level = torch.full(frames.shape[:2], process.clean, device=frames.device)
            frames = frames if target.context_scale == 1 else frames * target.context_scale
        step_size = None
        if self.finest_step_size is not None:
            step_size = torch.full_like(level, self.finest_step_size)
        time = self.preconditioning.time(level)
        return DenoiserInput(frames, time, actions, step_size, block_ids=block_ids, surprise=surprise)

    def noisy(
        self,
        frames: Tensor,
        level: Tensor,
        actions: Tensor,
        *,
        step_size: Tensor | None = None,
        time_shift: Tensor | None = None,
        drop_context: Tensor | None = None,
        block_ids: Tensor | None = None,
        gaze: Tensor | None = None,
    ) -> DenoiserInput:
        """Present noisy frames (b, f, ...) at levels (b, f) whose target is to be predicted; see `DenoiserInput`."""
        return DenoiserInput(
            self.preconditioning.scaled(frames, level),
            self.preconditioning.time(level),
            actions,
            step_size,
            time_shift,
            drop_context,
            block_ids,
            gaze,
        )

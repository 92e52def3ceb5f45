"""How a denoiser is trained: which frames get which noise, what is hidden, and how far off its prediction is.

Every frame of a window is predicted given those before it, at a noise level of its own, or of its block's. What a dream
will do later is done here at random: blocks are seen as observed or as sampled, actions or the past are hidden for
guidance, frames lie further ahead, steps are longer, and context is a little wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dreamenv.backbones.denoising.presentation import Presentation
from dreamenv.codecs.base import CodecTraining
from dreamenv.denoisers.base import Denoiser
from dreamenv.diffusion.context_noise import NoiseAugmentation
from dreamenv.diffusion.guidance import Guidance
from dreamenv.diffusion.loss import add_noise, denoising_error, motion_weight, variance_error
from dreamenv.diffusion.preconditioning import per_frame
from dreamenv.diffusion.shortcut import shortcut_error
from dreamenv.errors import ConfigError
from dreamenv.heads.base import HeadTraining
from dreamenv.nn.precision import autocast
from dreamenv.parts import Training
from dreamenv.world_model import Batch, Objective, Stage

__all__ = ["DenoiserTraining", "DenoisingLoss", "draw_blocks", "make_stage"]

_LEAST_NOISE = 0.05  # of a frame whose error counts as its velocity's, which is this much greater at most
_COARSE = 0.25  # share of the windows whose steps are longer than the finest, as in shortcut models (Frans et al. 2024)


@dataclass(frozen=True, kw_only=True)
class DenoiserTraining(Training, kind="denoiser_training"):
    """The stage that learns frames.

    Attributes:
        steps: optimiser steps.
        batch_size: windows per step.
        sequence_length: steps per window.
        learning_rate: peak rate.
        loss_weighting: "plain" counts the error of the prediction at every noise level alike; "velocity", for a network
            that predicts x0, counts it as if it had predicted the velocity, so that it also learns what is small, which
            shows at low levels only (Li and He 2025).
        motion_weight: share of the weight of a frame's error that goes to places that move rather than to all alike, in
            [0, 1); see `dreamenv.diffusion.loss.motion_weight`.
        bfloat16: compute products in bfloat16, where the hardware does so natively.

    Raises:
        ConfigError: a number that cannot be.
    """

    steps: int = 2000
    batch_size: int = 8
    sequence_length: int = 8
    learning_rate: float = 3e-4
    loss_weighting: Literal["plain", "velocity"] = "plain"
    motion_weight: float = 0.0
    bfloat16: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "sequence_length", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}.")
        if self.loss_weighting not in ("plain", "velocity"):
            raise ConfigError(f"loss_weighting must be 'plain' or 'velocity', not {self.loss_weighting!r}.")
        if not 0 <= self.motion_weight < 1:
            raise ConfigError(f"motion_weight must be in [0, 1), not {self.motion_weight}.")


@dataclass(frozen=True, kw_only=True)
class DenoisingLoss:
    """The loss.

    Attributes:
        presentation: of frames to the denoiser.
        guidance: what is hidden how often.
        group_size: frames of a chunk that see each other both ways.
        max_time_shift: steps ahead that frames are predicted.
        max_steps: of shortcuts; None without them.
        training: weights of errors, and precision.
    """

    presentation: Presentation
    guidance: Guidance
    group_size: int
    max_time_shift: int
    max_steps: int | None
    training: DenoiserTraining

    def __call__(
        self, denoiser: Denoiser, frames: Tensor, actions: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return how far off a denoiser is in predicting windows.

        Args:
            denoiser: in training, it computes in bfloat16 where settings and hardware allow it.
            frames: (b, s, c, h, w), as the denoiser has them; the first of each window is not predicted.
            actions: (b, s, a), the vectors that led to them.
            generator: of all sampling.

        Returns:
            The squared error (b, s), and whether a frame could be predicted, (b, s) bool.
        """
        device, (b, s) = frames.device, frames.shape[:2]

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device)

        def standard_normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        noise, clean, shift = standard_normal(*frames.shape), frames, None
        possible = torch.ones((b, s), dtype=torch.bool, device=device)
        if self.max_time_shift > 1:
            shift, actions = _shifted(uniform(b, s), actions, min(self.max_time_shift, s - 1))
            possible = shift <= torch.arange(s, device=device)  # no shift goes back beyond the first frame
        if self.guidance.action_dropout:
            actions = actions * (uniform(b, 1, 1) >= self.guidance.action_dropout)
        drop = uniform(b) < self.guidance.context_dropout if self.guidance.context_dropout else None
        augmentation = self.presentation.context_noise
        if isinstance(augmentation, NoiseAugmentation):
            clean = frames + augmentation.max_std * uniform(b, 1, 1, 1, 1) * standard_normal(*frames.shape)
        blocks = draw_blocks(s, self.group_size, generator, device)
        gaze = denoiser.draw_gaze(frames, uniform)

        def predict(
            noisy: Tensor, level: Tensor, step_size: Tensor | None = None, rows: Tensor | slice = slice(None)
        ) -> Tensor:
            context = self.presentation.context(clean[rows], actions[rows], blocks)
            given = self.presentation.noisy(
                noisy,
                level,
                actions[rows],
                step_size=step_size,
                time_shift=None if shift is None else shift[rows],
                drop_context=None if drop is None else drop[rows],
                block_ids=blocks,
                gaze=None if gaze is None else gaze[rows],
            )
            with autocast(device, self.training.bfloat16 and denoiser.training):
                return denoiser.forward_sequence(context, given).float()

        if self.max_steps is not None:
            doublings = self.max_steps.bit_length() - 1
            coarse = ((uniform(b) * doublings).floor().long() + 1).clamp_max(doublings) * (uniform(b) < _COARSE)
            error = shortcut_error(
                lambda noisy, signal, size, rows: predict(noisy, 1 - signal, size, rows), frames, noise, uniform(b, s),
                finest=self.max_steps, coarse=coarse,
            )  # fmt: skip
            return error, possible
        preconditioning = self.presentation.preconditioning
        process, target = preconditioning.process, preconditioning.target
        level = process.training_levels(uniform(b, s)[:, blocks])
        if target.channel_noise:
            sigma = per_frame(process.alpha_sigma(level)[1], frames)
            noise = noise + target.channel_noise / sigma * standard_normal(*frames.shape[:3], 1, 1)
        output = predict(add_noise(process, frames, noise, level), level)
        output, *variance = output.split(frames.shape[2], dim=2)
        moving = self.training.motion_weight
        weight = motion_weight(frames, moving) if moving else None
        error = denoising_error(preconditioning, output, frames, noise, level, weight)
        if self.training.loss_weighting == "velocity":
            error = error / process.alpha_sigma(level)[1].clamp_min(_LEAST_NOISE) ** 2
        for predicted in variance:
            error = error + variance_error(preconditioning, output, (predicted + 1) / 2, frames, noise, level)
        return error, possible


def make_stage(
    name: str,
    module: nn.Module,
    loss: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]],
    training: CodecTraining | DenoiserTraining | HeadTraining,
    sequence_length: int,
    precompute: Callable[[Tensor], Tensor] | None = None,
    *,
    sees_ahead: bool = False,
) -> Stage:
    """Return the stage that trains a module by one loss, for as long as its training says.

    What may be compiled is what the module names as its ``networks``, see `Stage`.
    Where a frame sees later ones of its window it would see padding, too, so those windows lie within their episode.
    """
    return Stage(
        name=name,
        objectives=[Objective(name, list(module.parameters()), loss)],
        steps=training.steps,
        batch_size=training.batch_size,
        sequence_length=sequence_length,
        learning_rate=training.learning_rate,
        precompute=precompute,
        crop_at_episode_ends=not sees_ahead,
        networks=getattr(module, "networks", ()),
    )


def draw_blocks(frames: int, size: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draw which frames of a window are seen as observed, one by one, and which after them as sampled in blocks.

    Args:
        frames: of the window, the first one and multiples of the size.
        size: of a block.
        generator: of the sample.
        device: of the result.

    Returns:
        (frames,) int64, the block of each.
    """
    order = torch.arange(frames, device=device)
    if size == 1:
        return order
    observed = size * int(torch.randint((frames - 1) // size, (), generator=generator, device=device))
    return torch.where(order <= observed, order, observed + 1 + (order - observed - 1) // size)


def _shifted(uniform: Tensor, actions: Tensor, furthest: int) -> tuple[Tensor, Tensor]:
    """Draw shifts (b, s) from 1 to the furthest; return them and the actions (b, s, a), averaged over each."""
    shift = (uniform * furthest).floor().clamp_max(furthest - 1) + 1
    total = actions.cumsum(1)
    order = torch.arange(actions.shape[1], device=actions.device)
    before = (order - shift.long()).clamp_min(0)[..., None].expand_as(actions)
    return shift, (total - total.gather(1, before)) / shift[..., None]

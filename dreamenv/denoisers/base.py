"""The interface of denoisers: what a denoising world passes to them and expects back.

A denoiser sees past frames through its cache, a dict of (b, ...) tensors that becomes part of the world's state, and
predicts something about noisy frames (the world's target). Scaling and the noise level's meaning are the world's
business (`dreamenv.diffusion.preconditioning`): a denoiser is given scaled frames and a time.

Letters: ``b`` rows; ``f`` frames as the denoiser has them, which are pixels in [-1, 1] or latents of any (c, h, w) with
a standard deviation of about 1; ``a`` width of an action's vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor, nn

from dreamenv.nn.actions import ActionEncoder, ActionVector
from dreamenv.parts import Part
from dreamenv.world_model import StateBounds

__all__ = ["Cache", "Denoiser", "DenoiserConfig", "DenoiserInput", "DenoiserShape", "Uniform"]

Cache = dict[str, Tensor]
"""What a denoiser keeps of past frames: entries (b, ...) of the world's state."""

Uniform = Callable[..., Tensor]
"""A shape to that many samples in [0, 1)."""


@dataclass(frozen=True)
class DenoiserInput:
    """Frames, clean or noisy, with what a denoiser is given of each.

    Attributes:
        frames: (b, f, c, h, w), scaled.
        time: (b, f), of their noise level, as the noise process gives it.
        actions: (b, f, a), vectors of the actions that led to each; 0 for a first frame, which none led to.
        step_size: (b, f) in (0, 1], share of the way from noise that a sampler's step makes; None where the network is
            not given it (see `dreamenv.diffusion.shortcut`).
        time_shift: (b, f), how many steps each frame lies after the last one that may be seen; None for one step.
            Actions are then the mean over these steps.
        drop_context: (b,) bool, rows that are predicted as if there were no past; None for none. For
            `Denoiser.forward_sequence` only: else an empty cache does it.
        block_ids: (f,) int64, never falling: frames of one block are denoised together and see each other both ways;
            None where each is a block of its own.
        gaze: (b, f, 2) in [0, 1], row and column at which each frame is looked at; for `Denoiser.forward_sequence` of
            those that draw it, see `Denoiser.draw_gaze`: else the cache has it.
        surprise: (b, f, h, w) at least 0, how far sampled frames came to lie from what was first predicted of them;
            None for observed ones.
    """

    frames: Tensor
    time: Tensor
    actions: Tensor
    step_size: Tensor | None = None
    time_shift: Tensor | None = None
    drop_context: Tensor | None = None
    block_ids: Tensor | None = None
    gaze: Tensor | None = None
    surprise: Tensor | None = None

    def blocks(self) -> Tensor:
        """Return ``block_ids``, or those of frames that are blocks of their own."""
        if self.block_ids is not None:
            return self.block_ids
        return torch.arange(self.frames.shape[1], device=self.frames.device)


@dataclass(frozen=True, kw_only=True)
class DenoiserShape:
    """What a denoiser is built for.

    Attributes:
        frame_shape: (c, h, w) of a frame as the denoiser has it.
        discrete: (a,) for each entry of one action's vector, whether it is a choice (else a quantity).
        actions_per_frame: actions that lead to one frame, whose vectors come one after another: more than 1 where a
            latent stands for several frames.
        chunk: frames that are denoised together.
        step_size: whether ``DenoiserInput.step_size`` is given.
    """

    frame_shape: tuple[int, int, int]
    discrete: tuple[bool, ...]
    actions_per_frame: int = 1
    chunk: int = 1
    step_size: bool = False

    @property
    def action_size(self) -> int:
        """Width of the vector of the actions that lead to one frame."""
        return len(self.discrete) * self.actions_per_frame


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig(Part, ABC):
    """Settings of a denoiser: of its own architecture, and of nothing else.

    Attributes:
        per_frame_noise: past frames have noise levels of their own, like those that are predicted (Diffusion Forcing);
            else they are clean. Such a network knows frames without a past, so its context needs no dropout.
        predicts_chunks: can denoise several frames together.
        takes_actions: listens to actions.
        takes_step_size: can be given the size of a sampler's step.
        learns_variance: predicts the variance of a step as well (Nichol and Dhariwal 2021).
        pretrained: its weights come from elsewhere, so that windows in training need not hold all that it can do.
        noise_processes: kinds of noise that it can be given the level of; empty for all.
    """

    per_frame_noise: ClassVar[bool] = False
    predicts_chunks: ClassVar[bool] = False
    takes_actions: ClassVar[bool] = True
    takes_step_size: ClassVar[bool] = False
    learns_variance: ClassVar[bool] = False
    pretrained: ClassVar[bool] = False
    noise_processes: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def context_frames(self) -> int:
        """Past frames that are remembered, as the denoiser has them."""

    @property
    def shift_range(self) -> int:
        """The most steps ahead that a frame can be predicted; 1 for the next one alone."""
        return 1

    def action_encoder(self, space: gym.Space[Any]) -> ActionEncoder:
        """Return what turns actions (..., *a) of a space into vectors (..., a).

        Raises:
            ConfigError: a space that the denoiser cannot be given.
        """
        return ActionVector(space)

    @abstractmethod
    def build(self, shape: DenoiserShape) -> Denoiser:
        """Return the untrained network.

        Raises:
            ConfigError: a shape that it cannot have.
        """


class Denoiser(nn.Module, ABC):
    """Predicts something about noisy frames, given a cache of those before."""

    @property
    def networks(self) -> tuple[tuple[nn.Module, str], ...]:
        """What may be compiled while it is trained, see `dreamenv.world_model.Stage`."""
        return ((self, "forward_sequence"),)

    @abstractmethod
    def init_cache(self, frames: Tensor) -> Cache:
        """Return an empty cache for rows of frames like (b, c, h, w).

        Its entries become entries of the world's state, so none may be called as one of the world's ("frame", "latent",
        ...) or its head's ("hidden", ...): such a world raises ConfigError when it starts.
        """

    def cache_bounds(self) -> StateBounds:
        """Return bounds of entries of a cache, see `dreamenv.world_model.WorldModel.state_bounds`."""
        return {}

    def draw_gaze(self, frames: Tensor, uniform: Uniform) -> Tensor | None:
        """Draw where the clean frames (b, s, c, h, w) of a window are looked at; None where all is seen alike."""
        return None

    @abstractmethod
    def update_cache(self, cache: Mapping[str, Tensor], context: DenoiserInput) -> Cache:
        """Return the cache with clean frames taken in, whose blocks are those that they were denoised in."""

    @abstractmethod
    def forward_cached(self, cache: Mapping[str, Tensor], noisy: DenoiserInput) -> Tensor:
        """Predict the next frames: (b, f, c, h, w), or with a learned variance (b, f, 2 c, h, w)."""

    @abstractmethod
    def forward_sequence(self, context: DenoiserInput, noisy: DenoiserInput) -> Tensor:
        """Predict every frame of a sequence (b, s, c, h, w) from those before it, to learn from.

        Args:
            context: the sequence as it is presented to later frames; networks with ``per_frame_noise`` do not look at
                it, since noisy frames are their context.
            noisy: the sequence at the noise levels to predict it from.

        Returns:
            Like `forward_cached`. What is predicted of the first frame is not used.
        """

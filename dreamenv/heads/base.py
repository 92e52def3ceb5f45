"""What a world asks of a head that watches its frames: rewards and terminations, from a memory of its own.

A head reads each frame and the action taken there, and predicts before the next frame is made: so the frame on which an
episode ends is never needed, and rewards cost no denoising.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dreamenv.errors import ConfigError
from dreamenv.parts import Part, Training
from dreamenv.world_model import Batch, DataStatistics

__all__ = ["Head", "HeadConfig", "HeadOutput", "HeadTraining", "join_outputs"]


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """What is predicted of steps (...).

    Attributes:
        rewards: (...) float32; where there are ``terminal_rewards``, those of steps that do not end the episode.
        termination: (...) float32 in [0, 1], the probability that the step ends the episode.
        terminal_rewards: (...) float32, the rewards of the same steps if they do; None where it makes no difference.
    """

    rewards: Tensor
    termination: Tensor
    terminal_rewards: Tensor | None = None


def join_outputs(outputs: Sequence[HeadOutput]) -> HeadOutput:
    """Join predictions (b, t) of one head one after another in time."""
    terminal = [output.terminal_rewards for output in outputs if output.terminal_rewards is not None]
    return HeadOutput(
        torch.cat([output.rewards for output in outputs], dim=1),
        torch.cat([output.termination for output in outputs], dim=1),
        torch.cat(terminal, dim=1) if terminal else None,
    )


@dataclass(frozen=True, kw_only=True)
class HeadTraining(Training, kind="head_training"):
    """The stage that learns rewards and terminations.

    Attributes:
        steps: optimiser steps.
        batch_size: windows per step.
        sequence_length: steps per window.
        learning_rate: peak rate.
        bfloat16: compute products in bfloat16, where the hardware does so natively.

    Raises:
        ConfigError: a number that is not positive.
    """

    steps: int = 600
    batch_size: int = 8
    sequence_length: int = 32
    learning_rate: float = 3e-4
    bfloat16: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "sequence_length", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Part, ABC):
    """Settings of a head that watches a world's frames.

    Attributes:
        predicts_rewards: whether it predicts anything; else rewards and terminations are 0 and nothing is trained.
    """

    predicts_rewards: ClassVar[bool] = True

    @property
    def watches(self) -> Literal["frame", "latent"]:
        """What it sees: frames as a user does, or the codec's latents of them."""
        return "frame"

    @property
    def stage(self) -> HeadTraining | None:
        """How it is trained; None for a head that learns nothing."""
        return None

    @abstractmethod
    def build(self, frame_shape: tuple[int, int, int], action_size: int) -> Head:
        """Return the untrained head, for frames (or latents) (c, h, w) and action vectors of a size.

        Raises:
            ConfigError: frames that it cannot see.
        """


class Head(nn.Module, ABC):
    """Rewards and terminations of a world's steps.

    Attributes:
        entries: name -> width of what it keeps in the state, (b, width) each.
        embedding_size: of `embed`.
    """

    entries: Mapping[str, int]
    embedding_size: int

    @abstractmethod
    def embed(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return what is remembered and what is seen in the present frame, (b, embedding_size)."""

    @abstractmethod
    def follow(self, state: MutableMapping[str, Tensor], actions: Tensor, frames: Tensor) -> HeadOutput:
        """Take the vectors of actions (b, t, a) and the frames (b, t, c, h, w) they led to into the state, in place.

        The state's ``frame`` (or ``latent``) (b, c, h, w) is the one before them. Frames are in [0, 1], or all are
        latents.

        Returns:
            Predictions (b, t).
        """

    @abstractmethod
    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the range of rewards and the usual values from the data."""

    @abstractmethod
    def loss(self, actions: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what to minimise and what to log, given the actions' vectors (b, t, a).

        ``batch.features`` holds latents where it watches those.
        """

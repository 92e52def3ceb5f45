"""How the RSSM is trained: its two stages, and what they weigh."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from dreamenv.errors import ConfigError
from dreamenv.parts import Training
from dreamenv.world_model import Batch, Objective, Stage

__all__ = ["RSSMStage", "RSSMTraining"]


@dataclass(frozen=True, kw_only=True)
class RSSMStage(Training, kind="rssm_stage"):
    """One stage.

    Attributes:
        steps: optimiser steps.
        batch_size: windows per step.
        sequence_length: steps per window.
        learning_rate: peak rate.

    Raises:
        ConfigError: a number that is not positive.
    """

    steps: int
    batch_size: int
    sequence_length: int
    learning_rate: float = 6e-4

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "sequence_length", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}.")

    def build(
        self,
        name: str,
        parameters: Iterable[nn.Parameter],
        loss: Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]],
        precompute: Callable[[Tensor], Tensor] | None = None,
    ) -> Stage:
        """Return the stage of one objective; arguments are those of `Objective` and `Stage`."""
        return Stage(
            name=name,
            objectives=[Objective(name, list(parameters), loss)],
            steps=self.steps,
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
            learning_rate=self.learning_rate,
            precompute=precompute,
        )


@dataclass(frozen=True, kw_only=True)
class RSSMTraining(Training, kind="rssm_training"):
    """Both stages and their losses.

    Attributes:
        joint: the first stage: everything, on frames.
        dynamics: the second stage: recurrence, prior and head, on cached latents.
        free_nats: the joint stage's KL is not pushed below this many nats per step (DreamerV3: 1).
        dynamics_weight: of the KL that teaches the prior (DreamerV3 begins at 0.5).
        representation_weight: of the KL that keeps the posterior predictable (DreamerV3: 0.1).
        foreground_weight: a pixel's squared error counts 1 + foreground_weight * |x - mean frame|, so that small moving
            things are not smoothed away against a still background.
        dropout: share of the latents that enter the recurrence, and of what it remembers, hidden from what is learned;
            terminations are few, and without it they are learned by heart.
        bfloat16: compute products in bfloat16, where the hardware does so natively.

    Raises:
        ConfigError: a weight or share that cannot be.
    """

    joint: RSSMStage = RSSMStage(steps=1200, batch_size=12, sequence_length=16)
    dynamics: RSSMStage = RSSMStage(steps=1000, batch_size=32, sequence_length=64)
    free_nats: float = 1.0
    dynamics_weight: float = 0.5
    representation_weight: float = 0.1
    foreground_weight: float = 20.0
    dropout: float = 0.2
    bfloat16: bool = True

    def __post_init__(self) -> None:
        for name in ("free_nats", "dynamics_weight", "representation_weight", "foreground_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), not {self.dropout}.")

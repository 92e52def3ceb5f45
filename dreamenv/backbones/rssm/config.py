"""The RSSM's settings, and its presets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dreamenv.errors import ConfigError
from dreamenv.world_model import WorldModelSpec

if TYPE_CHECKING:
    from dreamenv.backbones.rssm.model import RSSM

__all__ = ["RSSMConfig", "base", "small", "tiny"]


@dataclass(frozen=True, kw_only=True)
class RSSMConfig:
    """Settings of the RSSM.

    Attributes:
        memory: width of the recurrent state h.
        latents: categorical variables that z is made of.
        classes: values of each of them.
        hidden: width of the prior's hidden layer; reward and termination, which see few events, have a quarter.
        channels: of the convolutions, finest stage first.
        uniform_mix: share of the uniform distribution mixed into every categorical (DreamerV3: 1%).
        free_nats: the joint stage's KL is not pushed below this many nats per step (DreamerV3: 1).
        dynamics_weight: of the KL that teaches the prior (DreamerV3 begins at 0.5).
        representation_weight: of the KL that keeps the posterior predictable (DreamerV3: 0.1).
        detail: a pixel's squared error counts 1 + detail * |x - mean frame|, so that small moving things are not
            smoothed away against a still background.
        reward_weight: of the reward's cross-entropy.
        termination_weight: of the ending's cross-entropy, and of that of its reward.
        terminal_reward: a head of its own predicts the reward of a step that ends an episode,
            p(r, end) = p(end) p(r | end). For goals, whose reward comes with the end alone: a dream then cannot pay it
            and go on.
        dropout: share of the latents entering the recurrence, and of the memory its heads read, hidden while training;
            endings are few, and without it their head learns them by heart.
        joint_steps: optimiser steps of the first stage, everything on frames.
        dynamics_steps: optimiser steps of the second stage, recurrence and heads on cached latents.
        joint_batch: windows per step of the first stage.
        joint_length: steps per window of the first stage.
        dynamics_batch: windows per step of the second stage.
        dynamics_length: steps per window of the second stage.
        joint_rate: peak learning rate of the first stage.
        dynamics_rate: peak learning rate of the second stage.
        bfloat16: compute products in bfloat16 while training, where the hardware does so natively.
    """

    memory: int = 512
    latents: int = 32
    classes: int = 16
    hidden: int = 512
    channels: tuple[int, ...] = (32, 64, 96)
    uniform_mix: float = 0.01
    free_nats: float = 1.0
    dynamics_weight: float = 0.5
    representation_weight: float = 0.1
    detail: float = 20.0
    reward_weight: float = 1.0
    termination_weight: float = 5.0
    terminal_reward: bool = field(default=False, metadata={"later": True})
    dropout: float = 0.2
    joint_steps: int = 1200
    dynamics_steps: int = 1000
    joint_batch: int = 12
    joint_length: int = 16
    dynamics_batch: int = 32
    dynamics_length: int = 64
    joint_rate: float = 6e-4
    dynamics_rate: float = 6e-4
    bfloat16: bool = True

    def __post_init__(self) -> None:
        for name in ("memory", "latents", "hidden", "joint_steps", "dynamics_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.classes < 2:
            raise ConfigError(f"classes must be at least 2, not {self.classes}.")
        for name in ("uniform_mix", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), not {getattr(self, name)}.")
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive sizes, finest stage first, not {self.channels}.")

    def build(self, spec: WorldModelSpec) -> RSSM:
        """Make the untrained model."""
        from dreamenv.backbones.rssm.model import RSSM  # here, because the model imports its settings

        return RSSM(self, spec)


def tiny() -> RSSMConfig:
    """For tests: trains in seconds."""
    return RSSMConfig(
        memory=64, latents=8, classes=8, hidden=64, channels=(16, 24, 32), joint_steps=200, dynamics_steps=200,
        joint_batch=8, joint_length=12, dynamics_batch=16, dynamics_length=24, joint_rate=1e-3, dynamics_rate=1e-3,
    )  # fmt: skip


def small() -> RSSMConfig:
    """For two CPU cores: a 64x64 world in minutes."""
    return RSSMConfig()


def base() -> RSSMConfig:
    """For a GPU: four times the width, more steps."""
    return RSSMConfig(
        memory=1024, latents=32, classes=32, hidden=1024, channels=(128, 256, 384), joint_steps=20_000,
        dynamics_steps=20_000, joint_batch=32, joint_length=48, dynamics_batch=128, joint_rate=3e-4, dynamics_rate=3e-4,
    )  # fmt: skip

"""Sizes of the RSSM."""

from __future__ import annotations

import dataclasses

from dreamenv.backbones.rssm.model import RSSMConfig
from dreamenv.backbones.rssm.prompting import PromptConfig
from dreamenv.backbones.rssm.revising import RevisingRSSMConfig
from dreamenv.backbones.rssm.revision import BackwardConfig
from dreamenv.backbones.rssm.training import RSSMStage, RSSMTraining
from dreamenv.heads.reward_termination import RewardTerminationHeadConfig

__all__ = ["PRESETS", "base", "prompted", "revising", "small", "tiny"]


def small() -> RSSMConfig:
    """For two CPU cores: a 64x64 world in minutes."""
    return RSSMConfig()


def tiny() -> RSSMConfig:
    """For tests: trains in seconds."""
    return RSSMConfig(
        deter=64,
        stoch=8,
        classes=8,
        hidden=64,
        channels=(16, 24, 32),
        head=RewardTerminationHeadConfig(hidden_size=16),
        training=RSSMTraining(
            joint=RSSMStage(steps=200, batch_size=8, sequence_length=12, learning_rate=1e-3),
            dynamics=RSSMStage(steps=200, batch_size=16, sequence_length=24, learning_rate=1e-3),
        ),
    )


def revising() -> RevisingRSSMConfig:
    """The small one, which revises what it remembers when later frames come (`SupportsRevise`)."""
    return RevisingRSSMConfig.of(small(), BackwardConfig())


def base() -> RSSMConfig:
    """For a GPU: four times the width, more steps."""
    return RSSMConfig(
        deter=1024,
        stoch=32,
        classes=32,
        hidden=1024,
        channels=(128, 256, 384),
        head=RewardTerminationHeadConfig(hidden_size=256),
        training=RSSMTraining(
            joint=RSSMStage(steps=20_000, batch_size=32, sequence_length=48, learning_rate=3e-4),
            dynamics=RSSMStage(steps=20_000, batch_size=128, sequence_length=64, learning_rate=3e-4),
        ),
    )


def prompted() -> RSSMConfig:
    """As small, for recordings with captions: takes prompts."""
    return dataclasses.replace(small(), prompt=PromptConfig())


PRESETS = {"small": small, "tiny": tiny, "revising": revising, "base": base, "prompted": prompted}

"""Sizes of the grid RSSM."""

from __future__ import annotations

from dreamenv.backbones.grid_rssm.model import GridRSSMConfig
from dreamenv.backbones.grid_rssm.training import GridRSSMTraining
from dreamenv.backbones.rssm.training import RSSMStage
from dreamenv.codecs.fsq import FSQConfig
from dreamenv.heads.reward_termination import RewardTerminationHeadConfig

__all__ = ["PRESETS", "small", "tiny"]


def small() -> GridRSSMConfig:
    """For two CPU cores: a 64x64 world in half an hour."""
    return GridRSSMConfig(training=GridRSSMTraining(rate_weight=0.1))


def tiny() -> GridRSSMConfig:
    """For tests: trains in seconds."""
    return GridRSSMConfig(
        deter=64,
        hidden=64,
        codec=FSQConfig(channels=(16, 24)),
        prior_channels=24,
        prior_blocks=1,
        head=RewardTerminationHeadConfig(hidden_size=16),
        training=GridRSSMTraining(
            codec=RSSMStage(steps=200, batch_size=8, sequence_length=7, learning_rate=2e-3),
            dynamics=RSSMStage(steps=200, batch_size=16, sequence_length=24, learning_rate=1e-3),
            rate_weight=0.1,
        ),
    )


PRESETS = {"small": small, "tiny": tiny}

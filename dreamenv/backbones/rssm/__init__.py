"""A recurrent state-space model with discrete latents, after Dreamer; one that revises what it remembers, too."""

from __future__ import annotations

from dreamenv.backbones.rssm.gradient_revision import GradientRevision
from dreamenv.backbones.rssm.model import RSSM, RSSMConfig
from dreamenv.backbones.rssm.prompting import PromptConfig
from dreamenv.backbones.rssm.revising import RevisingRSSM, RevisingRSSMConfig
from dreamenv.backbones.rssm.revision import BackwardConfig
from dreamenv.backbones.rssm.training import RSSMStage, RSSMTraining

__all__ = [
    "RSSM",
    "BackwardConfig",
    "GradientRevision",
    "PromptConfig",
    "RSSMConfig",
    "RSSMStage",
    "RSSMTraining",
    "RevisingRSSM",
    "RevisingRSSMConfig",
]

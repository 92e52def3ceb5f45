"""A recurrent state-space model with discrete latents, after Dreamer."""

from __future__ import annotations

from dreamenv.backbones.rssm.model import RSSM, RSSMConfig
from dreamenv.backbones.rssm.prompting import PromptConfig
from dreamenv.backbones.rssm.training import RSSMStage, RSSMTraining

__all__ = ["RSSM", "PromptConfig", "RSSMConfig", "RSSMStage", "RSSMTraining"]

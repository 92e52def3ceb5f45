"""A recurrent state-space model with discrete latents, after Dreamer: settings, model, losses."""

from __future__ import annotations

from dreamenv.backbones.rssm.config import RSSMConfig, base, small, tiny
from dreamenv.backbones.rssm.model import RSSM

__all__ = ["RSSM", "RSSMConfig", "base", "small", "tiny"]

"""Transformers over the discrete tokens of frames."""

from __future__ import annotations

from dreamenv.backbones.tokens.model import TokenWorld, TokenWorldConfig
from dreamenv.backbones.tokens.training import TokenWorldTraining

__all__ = ["TokenWorld", "TokenWorldConfig", "TokenWorldTraining"]

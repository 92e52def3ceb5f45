"""A recurrent state-space model over a grid of finite scalars."""

from __future__ import annotations

from dreamenv.backbones.grid_rssm.model import GridRSSM, GridRSSMConfig
from dreamenv.backbones.grid_rssm.training import GridRSSMTraining

__all__ = ["GridRSSM", "GridRSSMConfig", "GridRSSMTraining"]

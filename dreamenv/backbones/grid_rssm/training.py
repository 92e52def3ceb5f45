"""How the grid RSSM is trained: its two stages, and what they weigh."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dreamenv.backbones.rssm.training import RSSMStage
from dreamenv.errors import ConfigError
from dreamenv.parts import Training

__all__ = ["GridRSSMTraining"]


@dataclass(frozen=True, kw_only=True)
class GridRSSMTraining(Training, kind="grid_rssm_training"):
    """Both stages and their losses.

    Attributes:
        codec: the first stage: the autoencoder, on frames.
        dynamics: the second stage: memory, prior and head, on cached codes.
        foreground_weight: a pixel's squared error counts 1 + foreground_weight * |x - mean frame|, so that small moving
            things are not smoothed away against a still background.
        dropout: share of what is remembered that is hidden from what is learned; terminations are few, and without it
            they are learned by heart.
        code_noise: the largest share of the codes that move to a neighbouring level while the codec learns to decode
            them and the dynamics to go on from them; the share is drawn per frame and per window. A dream's own codes
            are not quite those of real frames.
        prior_share: share of a batch's steps whose frames the prior learns; it costs far more than the memory, which
            needs all of them.
        bfloat16: compute products in bfloat16, where the hardware does so natively.

    Raises:
        ConfigError: a weight or share that cannot be.
    """

    codec: RSSMStage = RSSMStage(steps=3000, batch_size=4, sequence_length=15, learning_rate=1e-3)
    dynamics: RSSMStage = RSSMStage(steps=5000, batch_size=8, sequence_length=48, learning_rate=1.5e-3)
    foreground_weight: float = 20.0
    dropout: float = 0.1
    code_noise: float = 0.1
    prior_share: float = 0.5
    bfloat16: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.foreground_weight < math.inf:
            raise ConfigError(f"foreground_weight must be at least 0, not {self.foreground_weight}.")
        for name in ("dropout", "code_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), not {getattr(self, name)}.")
        if not 0 < self.prior_share <= 1:
            raise ConfigError(f"prior_share must be in (0, 1], not {self.prior_share}.")

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
            things are not smoothed away against a still background. 0 where the camera moves, and no frame is usual.
        edge_weight: of the squared error of differences between neighbouring pixels, which keeps edges sharp.
        rate_weight: of the nats that a frame's codes cost given the frame before (`dreamenv.codecs.rate`): less noise
            for the dynamics to learn and to draw, at no cost to the picture as long as it is small. 0, as for worlds
            from before there was a rate, has none; the presets take 0.1.
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

    # Two frames of each of five episodes: many small, varied steps learn several times as fast as fewer of whole clips.
    codec: RSSMStage = RSSMStage(steps=8000, batch_size=5, sequence_length=1, learning_rate=1e-3)
    dynamics: RSSMStage = RSSMStage(steps=7500, batch_size=4, sequence_length=48, learning_rate=1.5e-3)
    foreground_weight: float = 0.0
    edge_weight: float = 5.0
    rate_weight: float = 0.0
    dropout: float = 0.2
    code_noise: float = 0.1
    prior_share: float = 0.5
    bfloat16: bool = True

    def __post_init__(self) -> None:
        for name in ("foreground_weight", "edge_weight", "rate_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}.")
        for name in ("dropout", "code_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), not {getattr(self, name)}.")
        if not 0 < self.prior_share <= 1:
            raise ConfigError(f"prior_share must be in (0, 1], not {self.prior_share}.")

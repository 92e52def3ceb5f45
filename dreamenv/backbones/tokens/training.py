"""How a token world is trained: what its second stage weighs. The first is its tokenizer's own."""

from __future__ import annotations

from dataclasses import dataclass

from dreamenv.backbones.rssm.training import RSSMStage
from dreamenv.errors import ConfigError
from dreamenv.parts import Training

__all__ = ["TokenWorldTraining"]


@dataclass(frozen=True, kw_only=True)
class TokenWorldTraining(Training, kind="token_world_training"):
    """The stage that learns what tokens come next, on cached tokens.

    Attributes:
        dynamics: the stage: order, transformer and head.
        token_noise: the largest share of the tokens of what is shown (not of what is predicted) that are replaced by
            others while learning; the share is drawn per window. A dream's own tokens are not quite those of real
            frames.
        dropout: share of what the head reads that is hidden from it; terminations are few, and without it they are
            learned by heart.
        bfloat16: compute products in bfloat16, where the hardware does so natively.

    Raises:
        ConfigError: a share that cannot be.
    """

    dynamics: RSSMStage = RSSMStage(steps=5000, batch_size=8, sequence_length=24, learning_rate=6e-4)
    token_noise: float = 0.1
    dropout: float = 0.2
    bfloat16: bool = True

    def __post_init__(self) -> None:
        for name in ("token_noise", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), not {getattr(self, name)}.")

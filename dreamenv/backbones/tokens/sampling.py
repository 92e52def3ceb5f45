"""How tokens are drawn from what is predicted: temperature, top-k and top-p."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamenv.errors import ConfigError
from dreamenv.parts import Part
from dreamenv.randomness import TEMPERATURE_FLOOR

__all__ = ["TokenSampling"]


@dataclass(frozen=True, kw_only=True)
class TokenSampling(Part, kind="token_sampling"):
    """Settings.

    Attributes:
        temperature: by which a dream's own temperature is multiplied; 0 always draws the most likely token.
        top_k: as many of the most likely tokens are drawn from (Fan et al. 2018); 0 for all.
        top_p: the most likely tokens are drawn from which together have this probability (Holtzman et al. 2020); 1 for
            all.

    Raises:
        ConfigError: a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature must be at least 0, not {self.temperature}.")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be at least 1, or 0 for all tokens, not {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, which is all tokens, not {self.top_p}.")

        if self.temperature == 0 and (self.top_k > 1 or self.top_p < 1):
            raise ConfigError("at a temperature of 0 the most likely token is drawn: top_k and top_p have no effect.")

    def draw(self, logits: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
        """Draw tokens (b, q) int64 by inverting the distribution's cumulative sum.

        Args:
            logits: (b, q, vocabulary).
            temperature: (b,), of each row.
            uniform: (b, q) in (0, 1), of each row's own numbers.
        """
        scale = (self.temperature * temperature).clamp_min(TEMPERATURE_FLOOR)
        logits = logits / scale[:, None, None]
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        weights = logits.softmax(dim=-1)
        if self.top_p < 1:
            falling = weights.sort(dim=-1, descending=True).values
            kept = falling.cumsum(dim=-1) - falling < self.top_p
            least = falling.masked_fill(~kept, math.inf).amin(dim=-1, keepdim=True)
            weights = weights.masked_fill(weights < least, 0.0)
        sums = weights.cumsum(dim=-1)
        # Scaling by the last sum keeps float rounding from ever choosing past the end.
        threshold = uniform[..., None] * sums[..., -1:]
        return torch.searchsorted(sums, threshold).squeeze(-1)

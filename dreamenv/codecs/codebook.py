"""A codebook: vectors to the nearest code, and codes to the mean of the vectors nearest to them.

Codes are moving averages of what they stand for (van den Oord et al. 2017, appendix A.1), and a code that hardly any
vector comes near is put in the place of a vector of the batch, so that none is wasted. Both are done by
`vector-quantize-pytorch`, of which the public interface alone is used. It is imported when a codebook is built: that
takes seconds, and worlds without codebooks do without it. Letters: ``v`` codes, ``d`` numbers of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.parts import Part

__all__ = ["Codebook", "CodebookConfig", "perplexity", "straight_through", "unit"]


@dataclass(frozen=True, kw_only=True)
class CodebookConfig(Part, kind="codebook"):
    """Settings.

    Attributes:
        vocabulary: codes, v.
        width: numbers of a code, d.
        decay: of the moving averages, per step.
        revive_below: a code whose average use falls below this share of an even use is moved to a vector of the batch.
        commitment: weight of the squared distance of vectors from their codes, summed over a frame.

    Raises:
        ConfigError: a number that cannot be.
    """

    vocabulary: int = 512
    width: int = 32
    decay: float = 0.99
    revive_below: float = 0.1
    commitment: float = 0.25

    def __post_init__(self) -> None:
        if self.vocabulary < 2 or self.width < 1:
            raise ConfigError(
                f"vocabulary must be at least 2 and width at least 1, not {self.vocabulary} and {self.width}."
            )
        if not 0 < self.decay < 1:
            raise ConfigError(f"decay must be between 0 and 1, not {self.decay}.")
        if not 0 <= self.revive_below < 1:
            raise ConfigError(f"revive_below must be in [0, 1), not {self.revive_below}.")
        if not 0 <= self.commitment < math.inf:
            raise ConfigError(f"commitment must be at least 0, not {self.commitment}.")

    def build(self, vectors_per_step: int) -> Codebook:
        """Return a codebook that is given about so many vectors in a step of training."""
        return Codebook(self, vectors_per_step)


class Codebook(nn.Module):
    """The codes. They are no parameters: `learn` moves them.

    Args:
        config: its settings.
        vectors_per_step: that `learn` will be given at a time, about.
    """

    def __init__(self, config: CodebookConfig, vectors_per_step: int) -> None:
        super().__init__()
        from vector_quantize_pytorch import VectorQuantize

        self.config, self._even_use = config, vectors_per_step / config.vocabulary
        least = config.revive_below * self._even_use
        self.quantizer: Any = VectorQuantize(
            dim=config.width,
            codebook_size=config.vocabulary,
            decay=config.decay,
            threshold_ema_dead_code=least,
        )
        # Used so rarely that the first step puts all but a few of them in the place of the vectors that it codes.
        self._begin(torch.randn(config.vocabulary, config.width), least or self._even_use)

    @property
    def codes(self) -> Tensor:
        """(v, d) float32."""
        codes: Tensor = self.quantizer.codebook
        return codes

    @torch.no_grad()
    def load(self, codes: Tensor) -> None:
        """Take codes (v, d) from elsewhere, from which the averages go on.

        Raises:
            ConfigError: of another shape.
        """
        if codes.shape != self.codes.shape:
            raise ConfigError(f"codes must be {tuple(self.codes.shape)}, not {tuple(codes.shape)}.")
        self._begin(codes, self._even_use)

    def _begin(self, codes: Tensor, use: float) -> None:
        """Let codes and averages begin here, as if each had been used so often in every step."""
        state = self.quantizer.state_dict()  # codes (1, v, d), their averages times how often each was used, and a flag
        for name, value in state.items():
            if name.endswith(("embed", "embed_avg")):
                state[name] = (codes if name.endswith("embed") else use * codes)[None]
            else:
                state[name] = torch.full_like(value, use if value.is_floating_point() else True)
        self.quantizer.load_state_dict(state)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Vectors (..., d) -> tokens (...) int64 of the codes nearest to them."""
        with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
            codes = self.codes
            scores = vectors.float() @ codes.t() - codes.square().sum(dim=1) / 2  # the nearer, the larger
            return scores.argmax(dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (...) int64 -> their codes (..., d) float32."""
        vectors: Tensor = self.quantizer.get_codes_from_indices(tokens)
        return vectors

    @torch.no_grad()
    def learn(self, vectors: Tensor, tokens: Tensor, generator: torch.Generator | None) -> None:
        """Move the codes towards vectors (n, d) that were coded as tokens (n,); in training only.

        Args:
            vectors: what was coded.
            tokens: their nearest codes.
            generator: chooses which vectors take the place of codes without use.
        """
        if self.training:
            with _drawn_from(generator, vectors.device):
                self.quantizer.update_indices(vectors.detach().float()[None], tokens[None])


def straight_through(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return the codes; gradients pass to the vectors as if nothing had been rounded (Bengio et al. 2013)."""
    return vectors + (codes - vectors).detach()


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors (..., d) so that their numbers' root mean square is 1, and none can shrink towards a single code.

    Codes of unit length are used more evenly (ViT-VQGAN, Yu et al. 2022).
    """
    return functional.rms_norm(vectors.float(), vectors.shape[-1:], eps=1e-6)


def perplexity(tokens: Tensor, vocabulary: int) -> Tensor:
    """Return how many codes, used equally often, would be as varied as these tokens are; from 1 to ``vocabulary``."""
    share = torch.bincount(tokens.flatten(), minlength=vocabulary).float() / max(1, tokens.numel())
    spread: Tensor = torch.special.entr(share).sum().exp()
    return spread


@contextmanager
def _drawn_from(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Let torch's global random streams begin where a generator says, and go on afterwards as if nothing had been."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield

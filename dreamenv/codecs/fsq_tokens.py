"""Tokens without a codebook: the scalars of a place, each rounded to a few levels, are the digits of its token.

See `dreamenv.codecs.fsq` (FSQ, Mentzer et al. 2023): all tokens mean something from the start, and none is ever unused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from dreamenv.codecs.codebook import perplexity
from dreamenv.codecs.fsq import FSQConfig, from_digits, to_digits
from dreamenv.codecs.fsq_loss import fsq_loss
from dreamenv.codecs.rate import CodeRate
from dreamenv.codecs.tokenizer import FrameContext, Tokenizer, TokenizerConfig, View, check_vocabulary
from dreamenv.errors import ConfigError
from dreamenv.nn.precision import autocast
from dreamenv.world_model import Batch, DataStatistics, Objective

__all__ = ["FSQTokenizer", "FSQTokenizerConfig"]


@dataclass(frozen=True, kw_only=True)
class FSQTokenizerConfig(TokenizerConfig, kind="fsq_tokenizer"):
    """Settings.

    Attributes:
        codec: the autoencoder; the vocabulary is ``levels ** scalars``.
        code_noise: see `dreamenv.codecs.fsq.disturb`: the largest share of the levels that move by one while decoding
            them is learned.
        rate_weight: of the nats that a frame's codes cost given the frame before (`dreamenv.codecs.rate`), so that they
            can be predicted; 0 counts the picture alone.

    Raises:
        ConfigError: more than 65,536 tokens, or a share or weight that cannot be.
    """

    codec: FSQConfig = FSQConfig()
    code_noise: float = 0.0
    rate_weight: float = 0.0

    def __post_init__(self) -> None:
        check_vocabulary(self.codec.scalars, self.codec.levels)
        if not 0 <= self.code_noise < 1:
            raise ConfigError(f"code_noise must be in [0, 1), not {self.code_noise}.")
        if not 0 <= self.rate_weight < math.inf:
            raise ConfigError(f"rate_weight must be at least 0, not {self.rate_weight}.")

    def build(self, frame_shape: tuple[int, int, int], action_size: int = 0) -> FSQTokenizer:
        """See `TokenizerConfig`."""
        return FSQTokenizer(self, frame_shape)


class FSQTokenizer(Tokenizer):
    """The tokenizer. A code vector holds the scalars, from -1 to 1.

    Args:
        config: its settings.
        frame_shape: (c, h, w).

    Raises:
        ConfigError: frames that the autoencoder cannot take.
    """

    config: FSQTokenizerConfig

    def __init__(self, config: FSQTokenizerConfig, frame_shape: tuple[int, int, int]) -> None:
        autoencoder = config.codec.build(frame_shape)
        scalars, *grid = autoencoder.grid
        levels = config.codec.levels
        super().__init__(frame_shape, levels**scalars, scalars, ((grid[0], grid[1]),), config)
        self.autoencoder = autoencoder
        self.rate = CodeRate(scalars, levels) if config.rate_weight > 0 else None

    def codes(self, tokens: Tensor) -> Tensor:
        """See `Tokenizer`."""
        self.check_tokens(tokens, partial=True)
        return self.autoencoder.values(self._levels(tokens))

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the mean frame."""
        self.autoencoder.mean_frame.copy_(statistics.frame_mean)

    def loss(
        self, frames: Tensor, context: FrameContext | None, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Tokenizer`. Also logs how many tokens are in use, as a ``perplexity``. Frames alone have no rate."""
        none = torch.zeros(len(frames), 0, device=frames.device)
        batch = Batch(
            first_frame=frames, frames=frames[:, None][:, :0], actions=none, rewards=none, terminated=none.bool(),
            weight=none, generator=generator,
        )  # fmt: skip
        return self._loss(batch, None)

    def objectives(self, view: View) -> Sequence[Objective]:
        """See `Tokenizer`; with a rate, it is counted between the frames of a window."""
        if self.rate is None:
            return super().objectives(view)
        return (Objective("tokenizer", list(self.parameters()), lambda batch: self._loss(batch, self.rate)),)

    def _loss(self, batch: Batch, rate: CodeRate | None) -> tuple[Tensor, dict[str, Tensor]]:
        training = self.config.training
        with autocast(batch.first_frame.device, training.bfloat16 and self.training):
            loss, terms, values = fsq_loss(
                self.autoencoder,
                rate,
                batch,
                foreground_weight=training.foreground_weight,
                edge_weight=training.edge_weight,
                code_noise=self.config.code_noise if self.training else 0.0,
                rate_weight=self.config.rate_weight,
            )
        half = self.config.codec.levels // 2
        tokens = self._tokens((values.detach() * half).round().long() + half)
        return loss, terms | {"perplexity": perplexity(tokens, self.vocabulary)}

    def _encode(self, frames: Tensor, context: FrameContext | None) -> Tensor:
        return self._tokens(self.autoencoder.encode(frames))

    def _decode(self, tokens: Tensor, context: FrameContext | None) -> Tensor:
        values = self.autoencoder.values(self._levels(tokens))
        return self.autoencoder.decode(rearrange(values, "n (y x) s -> n s y x", y=self.scales[0][0]))

    def _tokens(self, levels: Tensor) -> Tensor:
        """Levels (n, s, y, x) -> tokens (n, l), whose digits they are."""
        return from_digits(rearrange(levels, "n s y x -> n (y x) s"), self.config.codec.levels)

    def _levels(self, tokens: Tensor) -> Tensor:
        """Tokens (n, l) -> levels (n, l, s)."""
        return to_digits(tokens, self.config.codec.levels, self.width)

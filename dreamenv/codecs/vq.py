"""Tokens of a codebook: VQ-VAE (van den Oord et al. 2017), one token per place, as IRIS has them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from dreamenv.codecs.codebook import CodebookConfig, perplexity, straight_through, unit
from dreamenv.codecs.distortion import distortion
from dreamenv.codecs.grid import ConvGridConfig, GridConfig
from dreamenv.codecs.tokenizer import FrameContext, Tokenizer, TokenizerConfig
from dreamenv.nn.precision import autocast
from dreamenv.world_model import DataStatistics

__all__ = ["VQTokenizer", "VQTokenizerConfig"]


@dataclass(frozen=True, kw_only=True)
class VQTokenizerConfig(TokenizerConfig, kind="vq_tokenizer"):
    """Settings.

    Attributes:
        grid: the networks.
        codebook: the tokens' vectors.
        unit: scale vectors to one length before they are coded (ViT-VQGAN, Yu et al. 2022), so that none can shrink
            towards a single code.
    """

    grid: GridConfig = ConvGridConfig()
    codebook: CodebookConfig = CodebookConfig()
    unit: bool = True

    def build(self, frame_shape: tuple[int, int, int], action_size: int = 0) -> VQTokenizer:
        """See `TokenizerConfig`."""
        return VQTokenizer(self, frame_shape)


class VQTokenizer(Tokenizer):
    """The tokenizer.

    Args:
        config: its settings.
        frame_shape: (c, h, w).

    Raises:
        ConfigError: frames that the networks cannot take.
    """

    config: VQTokenizerConfig

    def __init__(self, config: VQTokenizerConfig, frame_shape: tuple[int, int, int]) -> None:
        grid = config.grid.build(frame_shape, config.codebook.width)
        super().__init__(frame_shape, config.codebook.vocabulary, config.codebook.width, (grid.shape,), config)
        self.grid = grid
        self.codebook = config.codebook.build(2 * config.training.batch_size * self.tokens_per_frame)

    def codes(self, tokens: Tensor) -> Tensor:
        """See `Tokenizer`."""
        self.check_tokens(tokens, partial=True)
        return self.codebook(tokens)  # type: ignore[no-any-return]

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the mean frame."""
        self.grid.mean_frame.copy_(statistics.frame_mean)

    def loss(
        self, frames: Tensor, context: FrameContext | None, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Tokenizer`. Also logs ``commitment``, and how many codes are in use, as a ``perplexity``."""
        _, loss, terms = self.reconstruction_loss(frames, generator)
        return loss, terms

    def reconstruction_loss(
        self, frames: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return what the frames (n, c, h, w) are decoded to, not clamped, and `loss`."""
        training = self.config.training
        with autocast(frames.device, training.bfloat16 and self.training):
            vectors = self._vectors(frames)
            tokens = self.codebook.nearest(vectors)
            codes = self.codebook(tokens)
            decoded = self.grid.decode(self._maps(straight_through(vectors, codes)))
        loss, terms = distortion(
            decoded, frames, self.grid.mean_frame, training.foreground_weight, training.edge_weight
        )
        commitment = (vectors - codes).square().flatten(1).sum(dim=1).mean()
        self.codebook.learn(vectors.flatten(0, 1), tokens.flatten(), generator)
        terms |= {"commitment": commitment.detach(), "perplexity": perplexity(tokens, self.vocabulary)}
        return decoded, loss + self.config.codebook.commitment * commitment, terms

    def _encode(self, frames: Tensor, context: FrameContext | None) -> Tensor:
        return self.codebook.nearest(self._vectors(frames))

    def _decode(self, tokens: Tensor, context: FrameContext | None) -> Tensor:
        return self.grid.decode(self._maps(self.codebook(tokens))).clamp(0.0, 1.0)

    def _vectors(self, frames: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, l, d)."""
        vectors = rearrange(self.grid.encode(frames), "n d y x -> n (y x) d")
        return unit(vectors) if self.config.unit else vectors

    def _maps(self, vectors: Tensor) -> Tensor:
        """(n, l, d) -> (n, d, y, x)."""
        maps: Tensor = rearrange(vectors, "n (y x) d -> n d y x", y=self.scales[0][0])
        return maps

"""Tokens of several scales whose codes add up: multi-scale residual VQ (VAR, Tian et al. 2024).

A frame's maps are coded at 1 x 1 place, what that leaves at 2 x 2, and so on to the grid itself, all with one codebook.
Codes of a coarse scale are enlarged to the grid and pass a convolution, phi, before they are added. So the first tokens
say what a frame is about, and a transformer predicts all tokens of a scale at once, given the scales before. Letters as
in `dreamenv.codecs.tokenizer`; ``d`` numbers of a code; ``Y X`` the finest grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.codecs.codebook import CodebookConfig, perplexity, straight_through
from dreamenv.codecs.distortion import distortion
from dreamenv.codecs.grid import ConvGridConfig, GridConfig
from dreamenv.codecs.tokenizer import FrameContext, Tokenizer, TokenizerConfig
from dreamenv.errors import ConfigError
from dreamenv.nn.precision import autocast
from dreamenv.nn.residual import CastConv
from dreamenv.world_model import DataStatistics

__all__ = ["MultiScaleTokenizer", "MultiScaleTokenizerConfig"]


@dataclass(frozen=True, kw_only=True)
class MultiScaleTokenizerConfig(TokenizerConfig, kind="multi_scale_tokenizer"):
    """Settings.

    Attributes:
        grid: the networks.
        codebook: the vectors of all scales' tokens.
        scales: heights of the scales' grids, in places, coarse to fine; the last is the height of the networks' grid,
            and widths follow the shape of a frame.
        phis: convolutions; neighbouring scales share one where there are fewer than scales.
        phi_ratio: phi(m) is (1 - phi_ratio) * m + phi_ratio * convolution(m).

    Raises:
        ConfigError: scales that do not grow, or a number that cannot be.
    """

    grid: GridConfig = ConvGridConfig()
    codebook: CodebookConfig = CodebookConfig()
    scales: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    phis: int = 4
    phi_ratio: float = 0.5

    def __post_init__(self) -> None:
        if not self.scales or self.scales[0] < 1 or any(b <= a for a, b in pairwise(self.scales)):
            raise ConfigError(f"scales must grow from at least 1, such as (1, 2, 4, 8), not {self.scales}.")
        if not 1 <= self.phis <= len(self.scales):
            raise ConfigError(f"phis must be from 1 to the number of scales, {len(self.scales)}, not {self.phis}.")
        if not 0 < self.phi_ratio <= 1:
            raise ConfigError(f"phi_ratio must be in (0, 1], not {self.phi_ratio}.")

    def build(self, frame_shape: tuple[int, int, int], action_size: int = 0) -> MultiScaleTokenizer:
        """See `TokenizerConfig`."""
        return MultiScaleTokenizer(self, frame_shape)


class MultiScaleTokenizer(Tokenizer):
    """The tokenizer.

    Args:
        config: its settings.
        frame_shape: (c, h, w).

    Raises:
        ConfigError: frames that the networks cannot take, or scales that do not end at their grid.
    """

    config: MultiScaleTokenizerConfig

    def __init__(self, config: MultiScaleTokenizerConfig, frame_shape: tuple[int, int, int]) -> None:
        grid, width = config.grid.build(frame_shape, config.codebook.width), config.codebook.width
        height, wide = grid.shape
        if config.scales[-1] != height:
            raise ConfigError(
                f"the last of the scales {config.scales} must be the height of the grid, {height}, for frames of "
                f"{frame_shape[1]}x{frame_shape[2]}."
            )
        scales = tuple((side, max(1, round(side * wide / height))) for side in config.scales)
        super().__init__(frame_shape, config.codebook.vocabulary, width, scales, config)
        self.grid = grid
        self.codebook = config.codebook.build(2 * config.training.batch_size * self.tokens_per_frame)
        self.phi = nn.ModuleList(_Phi(width, config.phi_ratio) for _ in range(config.phis))
        self._phi_of = _shared(len(scales), config.phis)

    def codes(self, tokens: Tensor) -> Tensor:
        """See `Tokenizer`. Those of different scales do not add up as they are: phi and resizing come first."""
        self.check_tokens(tokens, partial=True)
        return self.codebook(tokens)  # type: ignore[no-any-return]

    def next_scale_inputs(self, tokens: Tensor) -> Tensor:
        """See `Tokenizer`."""
        known = self.check_tokens(tokens, partial=True)
        y, x = self.scales[0]
        inputs = [torch.zeros((len(tokens), y * x, self.width), device=tokens.device)]
        for k, total in enumerate(self._sums(tokens)):
            if k + 1 < len(self.scales):
                inputs.append(_places(self._shrunk(total, k + 1)))
        assert len(inputs) == min(known + 1, len(self.scales))
        return torch.cat(inputs, dim=1)

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the mean frame."""
        self.grid.mean_frame.copy_(statistics.frame_mean)

    def loss(
        self, frames: Tensor, context: FrameContext | None, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Tokenizer`. Also logs ``commitment``, and how many codes are in use, as a ``perplexity``."""
        training = self.config.training
        with autocast(frames.device, training.bfloat16 and self.training):
            maps = self.grid.encode(frames)
            with torch.autocast(frames.device.type, enabled=False):
                tokens, vectors = self._quantize(maps.detach())
                totals = torch.stack(list(self._sums(tokens)))  # k n d Y X
            decoded = self.grid.decode(straight_through(maps, totals[-1]))
        loss, terms = distortion(
            decoded, frames, self.grid.mean_frame, training.foreground_weight, training.edge_weight
        )
        # Vectors come near to every partial sum, and phi brings every partial sum near to the vectors.
        commitment = _squared(maps - totals.detach())
        loss = loss + self.config.codebook.commitment * commitment + _squared(maps.detach() - totals)
        self.codebook.learn(vectors.flatten(0, 1), tokens.flatten(), generator)
        terms |= {"commitment": commitment.detach(), "perplexity": perplexity(tokens, self.vocabulary)}
        return loss, terms

    def _encode(self, frames: Tensor, context: FrameContext | None) -> Tensor:
        return self._quantize(self.grid.encode(frames))[0]

    def _decode(self, tokens: Tensor, context: FrameContext | None) -> Tensor:
        *_, total = self._sums(tokens)
        return self.grid.decode(total).clamp(0.0, 1.0)

    @torch.no_grad()
    def _quantize(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (n, d, Y, X) -> tokens (n, l), and the vectors (n, l, d) that they were nearest to."""
        rest, tokens, vectors = maps, [], []
        for k in range(len(self.scales)):
            vectors.append(_places(self._shrunk(rest, k)))
            tokens.append(self.codebook.nearest(vectors[-1]))
            rest = rest - self._enlarged(tokens[-1], k)
        return torch.cat(tokens, dim=1), torch.cat(vectors, dim=1)

    def _sums(self, tokens: Tensor) -> Iterator[Tensor]:
        """Tokens of the first scales -> what they add up to after each of them, (n, d, Y, X)."""
        total, first = torch.zeros((), device=tokens.device), 0
        for k, (y, x) in enumerate(self.scales):
            if first == tokens.shape[1]:
                return
            total = total + self._enlarged(tokens[:, first : first + y * x], k)
            first += y * x
            yield total

    def _enlarged(self, tokens: Tensor, k: int) -> Tensor:
        """Tokens (n, y x) of scale k -> what they add, (n, d, Y, X)."""
        maps = rearrange(self.codebook(tokens), "n (y x) d -> n d y x", y=self.scales[k][0])
        if self.scales[k] != self.scales[-1]:
            maps = functional.interpolate(maps, size=self.scales[-1], mode="bicubic")
        enlarged: Tensor = self.phi[self._phi_of[k]](maps)
        return enlarged

    def _shrunk(self, maps: Tensor, k: int) -> Tensor:
        """Maps (n, d, Y, X) -> their means over the places of scale k, (n, d, y, x)."""
        return maps if self.scales[k] == self.scales[-1] else functional.interpolate(maps, self.scales[k], mode="area")


class _Phi(CastConv):
    """What smooths enlarged codes. At first it changes nothing."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__(width, width, 3)
        self.ratio = ratio
        nn.init.dirac_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> Tensor:
        """(n, d, Y, X) -> the same shape."""
        return (1 - self.ratio) * maps + self.ratio * super().forward(maps)


def _shared(scales: int, phis: int) -> list[int]:
    """Return which phi each scale takes: the one whose middle is nearest, as in the public VAR."""
    edge = 1 / (3 if phis == 4 else 2) / phis
    middles = np.linspace(edge, 1 - edge, phis)
    return [int(np.argmin(np.abs(middles - k / max(1, scales - 1)))) for k in range(scales)]


def _places(maps: Tensor) -> Tensor:
    places: Tensor = rearrange(maps, "n d y x -> n (y x) d")
    return places


def _squared(differences: Tensor) -> Tensor:
    """Return the squared norm (k, n, d, Y, X), summed over a frame, averaged over scales and frames."""
    return differences.square().flatten(2).sum(dim=2).mean()

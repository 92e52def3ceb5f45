"""A small tokenizer of several scales, and one that uses context, to test orders with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.codecs.tokenizer import FrameContext, Tokenizer, TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class PyramidConfig(TokenizerConfig, kind="test_pyramid"):
    vocabulary: int = 16
    width: int = 12
    scales: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (4, 4))
    uses_context: bool = False

    def build(self, frame_shape: tuple[int, int, int], action_size: int = 0) -> Pyramid:
        return Pyramid(self, frame_shape, action_size)


class Pyramid(Tokenizer):
    """Linear layers and a table, whose vectors add up from scale to scale."""

    def __init__(self, config: PyramidConfig, frame_shape: tuple[int, int, int], action_size: int) -> None:
        super().__init__(frame_shape, config.vocabulary, config.width, config.scales, config)
        self.uses_context = config.uses_context
        pixels, values = torch.Size(frame_shape).numel(), self.tokens_per_frame * config.width
        more = pixels + action_size if self.uses_context else 0
        self.table = nn.Parameter(torch.randn(config.vocabulary, config.width))
        self.down, self.up = nn.Linear(pixels + more, values), nn.Linear(values + more, pixels)

    def codes(self, tokens: Tensor) -> Tensor:
        return functional.embedding(tokens, self.table)

    def next_scale_inputs(self, tokens: Tensor) -> Tensor:
        filled, finest = self.check_tokens(tokens, partial=True), self.scales[-1]
        total, at, known = torch.zeros(len(tokens), self.width, *finest), 0, []
        for index, (y, x) in enumerate(self.scales[: filled + 1]):
            known.append(functional.adaptive_avg_pool2d(total, (y, x)).flatten(2).mT)
            if index < filled:
                maps = self.codes(tokens[:, at : at + y * x]).mT.unflatten(2, (y, x))
                total, at = total + functional.interpolate(maps, finest), at + y * x
        return torch.cat(known, dim=1)

    def loss(self, frames, context, generator):
        vectors = self._vectors(frames, context)
        codes = self.codes(self._nearest(vectors))
        error = self._pictures(vectors, context) - frames
        pull = (codes - vectors.detach()).square().mean() + 0.25 * (vectors - codes.detach()).square().mean()
        return error.square().flatten(1).sum(dim=1).mean() + pull, {"psnr_db": error.detach().mean()}

    def _encode(self, frames: Tensor, context: FrameContext | None) -> Tensor:
        return self._nearest(self._vectors(frames, context))

    def _decode(self, tokens: Tensor, context: FrameContext | None) -> Tensor:
        return self._pictures(self.codes(tokens), context)

    def _vectors(self, frames: Tensor, context: FrameContext | None) -> Tensor:
        return self.down(self._with(frames.flatten(1) - 0.5, context)).unflatten(1, (-1, self.width))

    def _pictures(self, vectors: Tensor, context: FrameContext | None) -> Tensor:
        return self.up(self._with(vectors.flatten(1), context)).view(-1, *self.frame_shape).sigmoid()

    def _nearest(self, vectors: Tensor) -> Tensor:
        return torch.cdist(vectors, self.table.expand(len(vectors), -1, -1)).argmin(dim=-1)

    @staticmethod
    def _with(values: Tensor, context: FrameContext | None) -> Tensor:
        return values if context is None else torch.cat((values, context.frames.flatten(1), context.actions), dim=1)

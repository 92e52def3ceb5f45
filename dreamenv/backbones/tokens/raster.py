"""Raster order: one token after another, each predicted from all before it (IRIS, Micheli et al. 2023; MineWorld).

A pass runs one token, the one before that which it predicts; the first takes the frame's last token and the action's
tokens together, so that a step takes as many passes as a frame has tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamenv.backbones.tokens.layout import Layout, Pass
from dreamenv.backbones.tokens.order import Order, OrderConfig, embedding_table
from dreamenv.codecs.tokenizer import Tokenizer

__all__ = ["RasterOrder", "RasterOrderConfig"]


@dataclass(frozen=True, kw_only=True)
class RasterOrderConfig(OrderConfig, kind="raster_order"):
    """Settings: none."""

    def build(self, tokenizer: Tokenizer, width: int, actions: int) -> RasterOrder:
        """See `OrderConfig`."""
        return RasterOrder(tokenizer.vocabulary, tokenizer.tokens_per_frame, width, actions)


class RasterOrder(Order):
    """Row by row; the scales of a tokenizer that has several come one after another.

    Args:
        vocabulary: how many tokens there are.
        tokens: l, of a frame.
        width: w.
        actions: tokens that stand for one action.
    """

    def __init__(self, vocabulary: int, tokens: int, width: int, actions: int) -> None:
        super().__init__()
        self.table = embedding_table(vocabulary, width)
        slots = actions + tokens
        first = Pass(0, 1 + actions, slice(actions, actions + 1), slice(0, 1))
        rest = [Pass(at + actions, at + actions + 1, slice(0, 1), slice(at, at + 1)) for at in range(1, tokens)]
        self.layout = Layout(
            lead=1, actions=actions, body=tokens - 1, kept=slots, ranks=torch.arange(slots),
            predicting=torch.arange(actions, slots), passes=(first, *rest), opens=True,
        )  # fmt: skip

    def lead(self, tokens: Tensor) -> Tensor:
        """See `Order`."""
        embedded: Tensor = self.table(tokens[:, -1:])
        return embedded

    def body(self, tokens: Tensor, round_of: Tensor) -> Tensor:
        """See `Order`."""
        del round_of
        embedded: Tensor = self.table(tokens[:, :-1])
        return embedded

    def step(self, tokens: Tensor, index: int) -> Tensor:
        """See `Order`."""
        embedded: Tensor = self.table(tokens[:, index - 1 : index] if index else tokens[:, :0])
        return embedded

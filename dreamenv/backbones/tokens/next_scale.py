"""Next-scale order: from coarse to fine, all tokens of a scale at once (VAR, Tian et al. 2024), over video.

A place of a scale is predicted from what the coarser scales say of it so far; a pass draws one scale, given all coarser
ones. Past frames are the context: each is taken in whole at its finest scale, when the next step begins, and the places
of all scales attend to it (as InfinityStar, Liu et al. 2025, has it for clips).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamenv.backbones.tokens.layout import Layout, Pass
from dreamenv.backbones.tokens.order import Order, OrderConfig
from dreamenv.codecs.tokenizer import Tokenizer
from dreamenv.errors import ConfigError
from dreamenv.nn.precision import Linear

__all__ = ["NextScaleOrder", "NextScaleOrderConfig"]


@dataclass(frozen=True, kw_only=True)
class NextScaleOrderConfig(OrderConfig, kind="next_scale_order"):
    """Settings: none."""

    def build(self, tokenizer: Tokenizer, width: int, actions: int) -> NextScaleOrder:
        """See `OrderConfig`."""
        if len(tokenizer.scales) < 2:
            raise ConfigError(
                "a next-scale order needs a tokenizer of several scales, and this one has 1; take a multi-scale "
                "tokenizer, or another order."
            )
        return NextScaleOrder(tokenizer, width, actions)


class NextScaleOrder(Order):
    """The order.

    Args:
        tokenizer: of several scales; it is asked what they say, but is no part of this module.
        width: w.
        actions: tokens that stand for one action.
    """

    def __init__(self, tokenizer: Tokenizer, width: int, actions: int) -> None:
        super().__init__()
        self._tokenizer = (tokenizer,)  # in a tuple, so that its weights are not this module's
        sizes = [y * x for y, x in tokenizer.scales]
        self.finest = sizes[-1]
        self.frame_proj = Linear(2 * tokenizer.width, width)
        self.scale_proj = Linear(tokenizer.width, width)
        start, count = self.finest + actions, sum(sizes)
        self.ends = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
        passes, ranks = [], [0] * self.finest + list(range(1, 1 + actions))
        for index, size in enumerate(sizes):
            first, stop = start + self.ends[index], start + self.ends[index + 1]
            begin = first if index else 0
            passes.append(
                Pass(begin, stop, slice(first - begin, stop - begin), slice(self.ends[index], self.ends[index + 1]))
            )
            ranks += [1 + actions + index] * size
        self.layout = Layout(
            lead=self.finest, actions=actions, body=count, kept=start, ranks=torch.tensor(ranks),
            predicting=torch.arange(start, start + count), passes=tuple(passes), opens=False,
        )  # fmt: skip

    def lead(self, tokens: Tensor) -> Tensor:
        """See `Order`."""
        tokenizer = self._tokenizer[0]
        with torch.no_grad():
            coarser = tokenizer.next_scale_inputs(tokens)[:, -self.finest :]
            finest = tokenizer.codes(tokens)[:, -self.finest :]
        projected: Tensor = self.frame_proj(torch.cat((coarser, finest), dim=-1))
        return projected

    def body(self, tokens: Tensor, round_of: Tensor) -> Tensor:
        """See `Order`."""
        del round_of
        with torch.no_grad():
            known = self._tokenizer[0].next_scale_inputs(tokens)
        projected: Tensor = self.scale_proj(known)
        return projected

    def step(self, tokens: Tensor, index: int) -> Tensor:
        """See `Order`."""
        first, stop = self.ends[index], self.ends[index + 1]
        with torch.no_grad():
            known = self._tokenizer[0].next_scale_inputs(tokens[:, :first])
        projected: Tensor = self.scale_proj(known[:, first:stop])
        return projected

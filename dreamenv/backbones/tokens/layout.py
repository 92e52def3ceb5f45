"""Where the tokens of a step stand in the stream, which of them see each other, and in which pass each is made.

A step is a block of ``slots``: first what is taken in of the frame before (``lead``), then the action's tokens, then
what stands for the frame that is predicted (``body``)::

    | lead | actions | body |            one block per step
      known   known    known only pass by pass

A pass runs one stretch of the slots through the transformer, and predicts tokens from what comes out. The first
``kept`` slots stay for later steps, which attend to those of ``context`` blocks before theirs. What is attended to
depends on the distance in the stream alone, so a cache that slides when it is full agrees with one pass over all of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Layout", "Pass", "visible"]


@dataclass(frozen=True)
class Pass:
    """One run through the transformer.

    Attributes:
        start, stop: its slots.
        predicting: slots that predict, counted from ``start``.
        drawn: the tokens of the frame that they predict, in the same order.
    """

    start: int
    stop: int
    predicting: slice | Tensor
    drawn: slice | Tensor


@dataclass(frozen=True)
class Layout:
    """The slots of a step.

    Attributes:
        lead, actions, body: how many slots each has.
        kept: how many, counted from the first, later steps attend to.
        ranks: (slots,) int64: a slot attends to those of its own block whose rank is not above its own.
        predicting: (l,) int64, the slot that predicts each token of the frame.
        passes: in order.
        opens: the body of the first frame of a stream, which nothing leads to, is taken in when the stream begins;
            else the whole frame is when the next step begins.
    """

    lead: int
    actions: int
    body: int
    kept: int
    ranks: Tensor
    predicting: Tensor
    passes: tuple[Pass, ...]
    opens: bool

    @property
    def slots(self) -> int:
        """Return how many there are."""
        return self.lead + self.actions + self.body

    @property
    def acted(self) -> int:
        """Return the slot that has seen the whole action and nothing of the frame it leads to."""
        return self.lead + self.actions - 1


def visible(layout: Layout, context: int, blocks: Tensor, slots: Tensor, of_blocks: Tensor, of_slots: Tensor) -> Tensor:
    """Return the bias of attention (n, m): 0 where a token attends to another, minus infinity where not.

    Args:
        layout: of all blocks.
        context: blocks before its own that a token attends to.
        blocks, slots: (n,) int64, of the tokens that attend.
        of_blocks, of_slots: (m,) int64, of those attended to.
    """
    back = blocks[:, None] - of_blocks
    ranks = layout.ranks.to(slots.device)
    before = (back > 0) & (back <= context) & (of_slots < layout.kept)
    within = (back == 0) & (ranks[of_slots] <= ranks[slots][:, None])
    return torch.zeros(back.shape, device=back.device).masked_fill_(~(before | within), -math.inf)

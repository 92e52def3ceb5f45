"""Diagonal order: all rows of a frame at once, each some tokens behind the one above (Ye et al. 2025, for MineWorld).

Token (y, x) is drawn in pass ``x + delay * y``, given all tokens of earlier passes; a frame takes
``columns + delay * (rows - 1)`` passes. Unlike in the paper, where a model of raster order is decoded so, it is learned
so: what is drawn together is independent given what came before, and likelihoods are exact. A token is predicted from
the one to its left, the first of a row from a learned vector of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamenv.backbones.tokens.layout import Layout, Pass
from dreamenv.backbones.tokens.order import Order, OrderConfig, embedding_table
from dreamenv.codecs.tokenizer import Tokenizer
from dreamenv.errors import ConfigError

__all__ = ["DiagonalOrder", "DiagonalOrderConfig"]


@dataclass(frozen=True, kw_only=True)
class DiagonalOrderConfig(OrderConfig, kind="diagonal_order"):
    """Settings.

    Attributes:
        delay: passes that a row is behind the one above it; as many as there are columns is raster order.

    Raises:
        ConfigError: a delay below 1.
    """

    delay: int = 1

    def __post_init__(self) -> None:
        if self.delay < 1:
            raise ConfigError(f"delay must be at least 1, not {self.delay}.")

    def build(self, tokenizer: Tokenizer, width: int, actions: int) -> DiagonalOrder:
        """See `OrderConfig`."""
        if len(tokenizer.scales) != 1:
            raise ConfigError(
                f"a diagonal order needs tokens on one grid, and this tokenizer has {len(tokenizer.scales)}; take "
                "NextScaleOrderConfig."
            )
        columns = tokenizer.scales[0][1]
        if self.delay > columns:
            raise ConfigError(f"delay must be at most the {columns} columns of a frame, not {self.delay}.")
        return DiagonalOrder(tokenizer.vocabulary, tokenizer.scales[0], self.delay, width, actions)


class DiagonalOrder(Order):
    """The order.

    Args:
        vocabulary: how many tokens there are.
        grid: rows and columns of tokens.
        delay: see the configuration.
        width: w.
        actions: tokens that stand for one action.
    """

    shown: Tensor

    def __init__(self, vocabulary: int, grid: tuple[int, int], delay: int, width: int, actions: int) -> None:
        super().__init__()
        rows, columns = grid
        self.table = embedding_table(vocabulary, width)
        self.row_starts = nn.Parameter(torch.randn(rows, width) * width**-0.5)
        drawn_in = [x + delay * y for y in range(rows) for x in range(columns)]
        # The body pass by pass: tokens of the pass before, as l + y the beginnings of rows, and nothing of pass 0.
        last, tokens = max(drawn_in), rows * columns
        stretches = [[at for at, one in enumerate(drawn_in) if one == index - 1] for index in range(1, last + 1)]
        for y in range(1, rows):
            stretches[delay * y - 1].append(tokens + y)
        shown = [one for stretch in stretches for one in stretch]
        lead = 1 + actions
        slot_of = {one: lead + at for at, one in enumerate(shown)}
        source = {at: tokens + at // columns if at % columns == 0 else at - 1 for at in range(1, tokens)}
        predicting = [actions, *(slot_of[source[at]] for at in range(1, tokens))]
        passes, start = [Pass(0, lead, slice(actions, lead), slice(0, 1))], lead
        ranks = list(range(lead))
        for index, stretch in enumerate(stretches, start=1):
            now = [at for at, one in enumerate(drawn_in) if one == index]
            passes.append(
                Pass(
                    start, start + len(stretch), torch.tensor([predicting[at] - start for at in now]), torch.tensor(now)
                )
            )
            ranks += [lead + index] * len(stretch)
            start += len(stretch)
        self.register_buffer("shown", torch.tensor(shown, dtype=torch.int64), persistent=False)
        self.layout = Layout(
            lead=1, actions=actions, body=len(shown), kept=start, ranks=torch.tensor(ranks),
            predicting=torch.tensor(predicting), passes=tuple(passes), opens=True,
        )  # fmt: skip

    def lead(self, tokens: Tensor) -> Tensor:
        """See `Order`."""
        embedded: Tensor = self.table(tokens[:, -1:])
        return embedded

    def body(self, tokens: Tensor, round_of: Tensor) -> Tensor:
        """See `Order`."""
        del round_of
        return self._embedded(tokens, self.shown)

    def step(self, tokens: Tensor, index: int) -> Tensor:
        """See `Order`."""
        if index == 0:
            return self._embedded(tokens, self.shown[:0])
        lead, one = self.layout.lead + self.layout.actions, self.layout.passes[index]
        return self._embedded(tokens, self.shown[one.start - lead : one.stop - lead])

    def _embedded(self, tokens: Tensor, shown: Tensor) -> Tensor:
        count = tokens.shape[1]
        of_tokens = self.table(tokens[:, shown.clamp_max(count - 1)])
        of_rows = self.row_starts[(shown - count).clamp_min(0)]
        return torch.where((shown < count)[:, None], of_tokens, of_rows)

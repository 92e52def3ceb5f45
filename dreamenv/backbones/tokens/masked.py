"""Masked order: a frame in a few passes, each given the tokens of those before it (MaskGIT, Chang et al. 2022).

All places stand in the body at once and see each other; a place that was not drawn yet shows a mask. The places are
dealt into groups like the squares of a chessboard, so that neighbours are in different ones, and a pass draws one
group: the order is fixed, so likelihoods are exact, unlike MaskGIT's. The frame before is taken in whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamenv.backbones.tokens.layout import Layout, Pass
from dreamenv.backbones.tokens.order import Order, OrderConfig, embedding_table
from dreamenv.codecs.tokenizer import Tokenizer
from dreamenv.errors import ConfigError

__all__ = ["MaskedOrder", "MaskedOrderConfig"]


@dataclass(frozen=True, kw_only=True)
class MaskedOrderConfig(OrderConfig, kind="masked_order"):
    """Settings.

    Attributes:
        groups: passes in which a frame is drawn; 1 draws all tokens independently.

    Raises:
        ConfigError: less than one.
    """

    groups: int = 4

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ConfigError(f"groups must be at least 1, not {self.groups}.")

    def build(self, tokenizer: Tokenizer, width: int, actions: int) -> MaskedOrder:
        """See `OrderConfig`."""
        if len(tokenizer.scales) != 1:
            raise ConfigError(
                f"a masked order needs tokens on one grid, and this tokenizer has {len(tokenizer.scales)}; take "
                "NextScaleOrderConfig."
            )
        return MaskedOrder(tokenizer.vocabulary, tokenizer.scales[0], self.groups, width, actions)


class MaskedOrder(Order):
    """The order.

    Args:
        vocabulary: how many tokens there are.
        grid: rows and columns of tokens.
        groups: see the configuration.
        width: w.
        actions: tokens that stand for one action.

    Raises:
        ConfigError: more groups than the pattern has.
    """

    group: Tensor

    def __init__(self, vocabulary: int, grid: tuple[int, int], groups: int, width: int, actions: int) -> None:
        super().__init__()
        row, column = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
        group = ((column + max(1, groups // 2) * row) % groups).flatten()
        found = len(group.unique())
        if found < groups:
            raise ConfigError(f"groups must be at most {found} on a grid of {grid}, not {groups}.")
        self.rounds, count = groups, len(group)
        self.table = embedding_table(vocabulary, width)
        self.mask = nn.Parameter(torch.randn(width) * width**-0.5)
        self.register_buffer("group", group, persistent=False)
        start, stop = count + actions, 2 * count + actions
        passes = []
        for index in range(groups):
            drawn, first = (group == index).nonzero().flatten(), start if index else 0
            passes.append(Pass(first, stop, drawn + start - first, drawn))
        ranks = [0] * count + list(range(1, 1 + actions)) + [1 + actions] * count
        self.layout = Layout(
            lead=count, actions=actions, body=count, kept=start, ranks=torch.tensor(ranks),
            predicting=torch.arange(start, stop), passes=tuple(passes), opens=False,
        )  # fmt: skip

    def lead(self, tokens: Tensor) -> Tensor:
        """See `Order`."""
        embedded: Tensor = self.table(tokens)
        return embedded

    def body(self, tokens: Tensor, round_of: Tensor) -> Tensor:
        """See `Order`."""
        return torch.where((self.group < round_of[:, None])[..., None], self.table(tokens), self.mask)

    def step(self, tokens: Tensor, index: int) -> Tensor:
        """See `Order`."""
        return torch.where((self.group < index)[:, None], self.table(tokens), self.mask)

    def predicted_in(self, round_of: Tensor) -> Tensor | None:
        """See `Order`."""
        return self.group == round_of[:, None]

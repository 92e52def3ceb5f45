"""What an order of tokens decides: what stands in the slots of a step, and which tokens each pass draws.

An order is a part: a file with a configuration and a module. Letters: ``n`` frames, ``l`` tokens of a frame, ``w``
width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from dreamenv.backbones.tokens.layout import Layout
from dreamenv.codecs.tokenizer import Tokenizer
from dreamenv.parts import Part

__all__ = ["Order", "OrderConfig", "embedding_table"]


@dataclass(frozen=True, kw_only=True)
class OrderConfig(Part, ABC):
    """Settings of an order."""

    @abstractmethod
    def build(self, tokenizer: Tokenizer, width: int, actions: int) -> Order:
        """Return the untrained order.

        Args:
            tokenizer: whose tokens are put in order; its weights are not learned here.
            width: w, of the transformer.
            actions: tokens that stand for one action.

        Raises:
            ConfigError: a tokenizer whose tokens cannot be had in this order.
        """


class Order(nn.Module, ABC):
    """What all of them offer.

    Attributes:
        layout: the slots of a step.
        rounds: how many ways the body of a block can be filled to learn from; a token is predicted in one of them.
    """

    layout: Layout
    rounds: int = 1

    @abstractmethod
    def lead(self, tokens: Tensor) -> Tensor:
        """Return what is taken in of frames (n, l) int64 when the next step begins, (n, lead, w)."""

    @abstractmethod
    def body(self, tokens: Tensor, round_of: Tensor) -> Tensor:
        """Return what stands for frames (n, l) int64 in the body, (n, body, w).

        Args:
            tokens: of the frames, all known, as they are in training; no slot shows what it predicts.
            round_of: (n,) int64 below `rounds`, in which of them each frame is.
        """

    @abstractmethod
    def step(self, tokens: Tensor, index: int) -> Tensor:
        """Return what stands in the body's slots of one pass, (n, slots of the body in it, w).

        Args:
            tokens: (n, l) int64, of which those that earlier passes drew are known.
            index: of the pass.
        """

    def predicted_in(self, round_of: Tensor) -> Tensor | None:
        """Return which tokens (n, l) bool are predicted in each frame's round; None if there is one round only."""
        return None


def embedding_table(vocabulary: int, width: int) -> nn.Embedding:
    """Return a table of a vector per token, each about as long as those that normalised layers make."""
    table = nn.Embedding(vocabulary, width)
    nn.init.normal_(table.weight, std=width**-0.5)
    return table

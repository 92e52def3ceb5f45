"""Categorical variables: their probabilities, and a linear layer for them.

The layer is dense while training and a sum of looked-up rows while dreaming: n one-hot variables of k classes have n
ones among n k entries, so summing n rows of the weight is the same as the product, with k times less work and memory
read. It is five times as fast at 32 variables of 16 classes on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CategoricalLinear", "log_probs", "mixed_probs"]


def log_probs(logits: Tensor, classes: int, unimix: float) -> Tensor:
    """Return log-probabilities (..., n, classes) of n variables, given flat logits (..., n * classes).

    Args:
        logits: float32.
        classes: of each variable.
        unimix: share of the uniform distribution that is mixed in, so that no probability is 0 (DreamerV3).
    """
    return mixed_probs(logits, classes, unimix).log()


def mixed_probs(logits: Tensor, classes: int, unimix: float) -> Tensor:
    """Return the probabilities (..., n, classes) whose logarithms `log_probs` gives."""
    probabilities: Tensor = logits.unflatten(-1, (-1, classes)).softmax(dim=-1)
    return (1 - unimix) * probabilities + unimix / classes


class CategoricalLinear(nn.Module):
    """``y = x W + b`` for x of ``variables`` one-hot vectors.

    Args:
        variables: n.
        classes: k, of each.
        outputs: width of y.
    """

    offsets: Tensor

    def __init__(self, variables: int, classes: int, outputs: int) -> None:
        super().__init__()
        width = variables * classes
        self.weight = nn.Parameter(torch.empty(width, outputs))  # a row per class, to be looked up
        self.bias = nn.Parameter(torch.empty(outputs))
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)  # as torch's own linear layer
        self.register_buffer("offsets", torch.arange(variables) * classes, persistent=False)

    def forward(self, one_hot: Tensor) -> Tensor:
        """(..., n, k), also soft, -> (..., outputs)."""
        return functional.linear(one_hot.flatten(-2), self.weight.t(), self.bias)

    def look_up(self, index: Tensor) -> Tensor:
        """Class numbers (b, n) int64 -> (b, outputs) float32."""
        return self.sum_rows(index) + self.bias

    def sum_rows(self, index: Tensor) -> Tensor:
        """Look up without the bias: class numbers (b, n) int64 -> (b, outputs) float32."""
        # Of a weight that may need a gradient, torch also writes down what the gradient would need.
        weight = self.weight if torch.is_grad_enabled() else self.weight.detach()
        return functional.embedding_bag(index + self.offsets, weight, mode="sum").float()

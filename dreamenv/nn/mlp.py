"""A multi-layer perceptron with one hidden layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.nn.precision import Linear

__all__ = ["mlp"]


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return an MLP (..., inputs) -> (..., outputs) with ``hidden`` normalised units."""
    return _MLP(Linear(inputs, hidden), nn.LayerNorm(hidden), nn.SiLU(), Linear(hidden, outputs))


class _MLP(nn.Sequential):
    """The layers one after another; those that cost a single row more to call than to compute are called directly."""

    def forward(self, inputs: Tensor) -> Tensor:
        first, norm, _, last = self
        assert isinstance(norm, nn.LayerNorm)
        normal = functional.layer_norm(first(inputs), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        outputs: Tensor = last(functional.silu(normal, inplace=not torch.is_grad_enabled()))
        return outputs

"""A multi-layer perceptron with one hidden layer."""

from __future__ import annotations

from torch import nn

from dreamenv.nn.precision import Linear

__all__ = ["mlp"]


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return an MLP (..., inputs) -> (..., outputs) with ``hidden`` normalised units."""
    return nn.Sequential(Linear(inputs, hidden), nn.LayerNorm(hidden), nn.SiLU(), Linear(hidden, outputs))

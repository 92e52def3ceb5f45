"""A gated recurrent unit (Cho et al. 2014, as `torch.nn.GRU`) with one code path for steps and sequences.

A step of `torch.nn.GRU` takes no bfloat16 weights on a CPU; here a step and a sequence run the same lines, in the
precision of the weights or of autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamenv.nn.precision import Linear

__all__ = ["GRU", "MOST_HIDDEN"]

MOST_HIDDEN = 1.001
"""The largest magnitude of a hidden state: it is a mean of hyperbolic tangents, and rounded."""


class GRU(nn.Module):
    """One GRU layer: ``h' = update * h + (1 - update) * tanh(candidate)``.

    Inputs are already projected to reset gate, update gate and candidate, (..., 3 size).

    Args:
        size: width of the hidden state h.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.hidden_proj = Linear(size, 3 * size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(size**-0.5), size**-0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Run from a zero hidden state: inputs (b, t, 3 size) -> hidden states (b, t, size) float32."""
        hidden = torch.zeros(inputs.shape[0], self.size, device=inputs.device)
        states = []
        for projected in inputs.float().unbind(dim=1):
            hidden = self.step(projected, hidden)
            states.append(hidden)
        return torch.stack(states, dim=1)

    def step(self, projected: Tensor, hidden: Tensor) -> Tensor:
        """Return the next hidden state (b, size), given a projected input (b, 3 size) float32 and the last one."""
        gates, candidate = projected.split((2 * self.size, self.size), dim=-1)
        hidden_gates, hidden_candidate = self.hidden_proj(hidden).float().split((2 * self.size, self.size), dim=-1)
        reset, update = (gates + hidden_gates).sigmoid().chunk(2, dim=-1)
        return torch.lerp(torch.addcmul(candidate, reset, hidden_candidate).tanh(), hidden, update)

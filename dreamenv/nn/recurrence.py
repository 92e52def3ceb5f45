"""A gated recurrent unit (Cho et al. 2014, in the form of `torch.nn.GRU`) that steps and runs through one code path.

The steps of `torch.nn.GRU` take no bfloat16 weights on a CPU; here a dream's step and a sequence's pass are the same
lines, and follow the precision of the weights or of autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamenv.nn.precision import Linear

__all__ = ["GRU"]


class GRU(nn.Module):
    """One layer. ``h' = keep * h + (1 - keep) * tanh(candidate)``.

    What comes in has been projected already to reset gate, keep gate and candidate, (..., 3 size).

    Args:
        size: width of the memory h.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.old = Linear(size, 3 * size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(size**-0.5), size**-0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Run from an empty memory: inputs (b, t, 3 size) to memories (b, t, size) float32."""
        memory = torch.zeros(inputs.shape[0], self.size, device=inputs.device)
        memories = []
        for new in inputs.float().unbind(dim=1):
            memory = self.step(new, memory)
            memories.append(memory)
        return torch.stack(memories, dim=1)

    def step(self, new: Tensor, memory: Tensor) -> Tensor:
        """Take one input (b, 3 size) float32 into a memory (b, size)."""
        old = self.old(memory).float()
        gates, candidate = new.split((2 * self.size, self.size), dim=-1)
        old_gates, old_candidate = old.split((2 * self.size, self.size), dim=-1)
        reset, keep = (gates + old_gates).sigmoid().chunk(2, dim=-1)
        return torch.lerp((candidate + reset * old_candidate).tanh(), memory, keep)

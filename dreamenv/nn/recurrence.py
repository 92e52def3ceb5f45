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

    Args:
        inputs: width of an input.
        size: width of the memory h.
    """

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.new = Linear(inputs, 3 * size)  # reset gate, keep gate, candidate
        self.old = Linear(size, 3 * size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(size**-0.5), size**-0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Run from an empty memory: inputs (b, t, inputs) to memories (b, t, size) float32."""
        memory = torch.zeros(inputs.shape[0], self.size, device=inputs.device)
        memories = []
        for new in self.new(inputs).unbind(dim=1):
            memory = self._blend(new.float(), memory)
            memories.append(memory)
        return torch.stack(memories, dim=1)

    def step(self, inputs: Tensor, memory: Tensor) -> Tensor:
        """Take one input (b, inputs) into a memory (b, size)."""
        return self._blend(self.new(inputs), memory)

    def _blend(self, new: Tensor, memory: Tensor) -> Tensor:
        old = self.old(memory).float()
        gates, candidate = new.split((2 * self.size, self.size), dim=-1)
        old_gates, old_candidate = old.split((2 * self.size, self.size), dim=-1)
        reset, keep = (gates + old_gates).sigmoid().chunk(2, dim=-1)
        return torch.lerp((candidate + reset * old_candidate).tanh(), memory, keep)

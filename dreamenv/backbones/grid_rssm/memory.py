"""What is remembered: ``h_t = f(h_{t-1}, z_{t-1}, a_t)``.

Letters: ``s`` scalars per place, ``y x`` places, ``d`` width of h, ``a`` width of an action's vector.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dreamenv.nn.mlp import mlp
from dreamenv.nn.recurrence import GRU

__all__ = ["GridMemory"]


class GridMemory(nn.Module):
    """The recurrence, which reads all values of a frame at once.

    Args:
        grid: (s, y, x).
        action_size: a.
        deter: d.
        hidden: width of the layer through which a frame and an action enter.
    """

    def __init__(self, grid: tuple[int, int, int], action_size: int, deter: int, hidden: int) -> None:
        super().__init__()
        self.inputs = mlp(math.prod(grid) + action_size, hidden, 3 * deter)
        self.gru = GRU(deter)

    def forward(self, values: Tensor, actions: Tensor) -> Tensor:
        """Run from an empty memory.

        Args:
            values: (b, t, s, y, x), of the frames before.
            actions: (b, t, a), taken there.

        Returns:
            (b, t, d). Entry i has seen actions[:, i], but not what it led to.
        """
        path: Tensor = self.gru(self._read(values, actions))
        return path

    def step(self, deter: Tensor, values: Tensor, actions: Tensor) -> Tensor:
        """Take values (b, s, y, x) and the vector of an action (b, a) into what is remembered, (b, d)."""
        return self.gru.step(self._read(values, actions), deter)

    def _read(self, values: Tensor, actions: Tensor) -> Tensor:
        inputs: Tensor = self.inputs(torch.cat((values.flatten(-3), actions), dim=-1))
        return inputs

"""Keyboard and mouse put into a transformer, each in its own way (GameFactory, Yu et al. 2025).

What is chosen (keys) is attended to: a frame asks which keys were pressed. What is a quantity (the mouse) joins every
token's channels, because by how much the view turns is not a matter of choice. Both see the actions of a few frames
back, since some take a while to show: a jump lasts longer than its key.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ActionInjection", "windows"]


class ActionInjection(nn.Module):
    """Add what actions do to the tokens of each frame. Before it has learned anything, it adds nothing.

    Args:
        width: of tokens.
        chosen: (a,) for each entry of an action's vector, whether it is a choice or, else, a quantity.
        steps: actions that a frame sees: those of its own, and of frames before.
        heads: of the attention to choices; they divide the width.
    """

    choices: Tensor
    quantities: Tensor

    def __init__(self, width: int, chosen: Sequence[bool], steps: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        flags = torch.tensor(chosen, dtype=torch.bool)
        self.register_buffer("choices", flags.nonzero()[:, 0], persistent=False)
        self.register_buffer("quantities", (~flags).nonzero()[:, 0], persistent=False)
        if len(self.choices):
            self.key = nn.Linear(len(self.choices), width)
            self.order = nn.Parameter(torch.randn(steps, width) * 0.02)
            self.ask, self.keep = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
            self.answer = _nothing(width, width)
        if len(self.quantities):
            self.join = nn.Linear(width + steps * len(self.quantities), width)
            self.add = _nothing(width, width)

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Tokens (b, f, n, width) and the vectors of the actions that each frame sees, (b, f, steps, a) -> tokens."""
        if len(self.quantities):
            amounts = actions[..., self.quantities].flatten(2)[:, :, None].expand(-1, -1, tokens.shape[2], -1)
            joined = torch.cat((_normal(tokens), amounts), dim=-1)
            tokens = tokens + self.add(functional.silu(self.join(joined)))
        if len(self.choices):
            pressed = self.key(actions[..., self.choices]) + self.order
            query = self.ask(_normal(tokens)).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            key, value = self.keep(pressed).unflatten(-1, (2, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
            attended = functional.scaled_dot_product_attention(query, key, value)
            tokens = tokens + self.answer(attended.transpose(-3, -2).flatten(-2))
        return tokens


def windows(before: Tensor, actions: Tensor) -> Tensor:
    """Give each frame the actions that it sees.

    Args:
        before: (b, w, g, a), vectors of the g actions of each of the w frames before.
        actions: (b, f, g, a), of these frames.

    Returns:
        (b, f, (w + 1) * g, a), the oldest first.
    """
    w = before.shape[1]
    return torch.cat((before, actions), dim=1).unfold(1, w + 1, 1).movedim(-1, 2).flatten(2, 3)


def _nothing(width: int, out: int) -> nn.Linear:
    layer = nn.Linear(width, out)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _normal(tokens: Tensor) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)

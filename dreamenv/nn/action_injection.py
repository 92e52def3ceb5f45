"""Condition a transformer on actions, keyboard and mouse each in its own way (GameFactory, Yu et al. 2025).

Discrete actions (keys) enter by cross-attention, continuous ones (the mouse) by concatenation to every token's
channels. Each frame sees the actions of a few frames back, since some effects are delayed: a jump outlasts its key.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ActionInjection", "action_windows"]


class ActionInjection(nn.Module):
    """Add the effect of actions to the tokens of each frame; initialised to the identity.

    Args:
        width: of tokens.
        discrete: (a,) for each entry of an action's vector, whether it is discrete; else it is continuous.
        steps: actions that a frame sees: its own, and those of frames before.
        heads: of the cross-attention; they divide the width.
    """

    discrete: Tensor
    continuous: Tensor

    def __init__(self, width: int, discrete: Sequence[bool], steps: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        flags = torch.tensor(discrete, dtype=torch.bool)
        self.register_buffer("discrete", flags.nonzero()[:, 0], persistent=False)
        self.register_buffer("continuous", (~flags).nonzero()[:, 0], persistent=False)
        if len(self.discrete):
            self.key = nn.Linear(len(self.discrete), width)
            self.order = nn.Parameter(torch.randn(steps, width) * 0.02)
            self.q_proj, self.kv_proj = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
            self.out_proj = _zero_linear(width, width)
        if len(self.continuous):
            self.fc1 = nn.Linear(width + steps * len(self.continuous), width)
            self.fc2 = _zero_linear(width, width)

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Tokens (b, f, n, width) and the vectors of the actions that each frame sees, (b, f, steps, a) -> tokens."""
        if len(self.continuous):
            amounts = actions[..., self.continuous].flatten(2)[:, :, None].expand(-1, -1, tokens.shape[2], -1)
            joined = torch.cat((_normalize(tokens), amounts), dim=-1)
            tokens = tokens + self.fc2(functional.silu(self.fc1(joined)))
        if len(self.discrete):
            pressed = self.key(actions[..., self.discrete]) + self.order
            query = self.q_proj(_normalize(tokens)).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            key, value = self.kv_proj(pressed).unflatten(-1, (2, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
            attended = functional.scaled_dot_product_attention(query, key, value)
            tokens = tokens + self.out_proj(attended.transpose(-3, -2).flatten(-2))
        return tokens


def action_windows(before: Tensor, actions: Tensor) -> Tensor:
    """Gather the actions that each frame sees.

    Args:
        before: (b, w, g, a), vectors of the g actions of each of the w frames before.
        actions: (b, f, g, a), of these frames.

    Returns:
        (b, f, (w + 1) * g, a), the oldest first.
    """
    w = before.shape[1]
    return torch.cat((before, actions), dim=1).unfold(1, w + 1, 1).movedim(-1, 2).flatten(2, 3)


def _zero_linear(width: int, out: int) -> nn.Linear:
    layer = nn.Linear(width, out)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _normalize(tokens: Tensor) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)

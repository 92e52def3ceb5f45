"""A diffusion transformer over space and time whose frames each have their own noise level.

After DiT (Peebles and Xie 2023), with Oasis's order of attentions. Every block attends within each frame, then along
time, and listens to a condition per frame twice (adaLN-Zero). Time is causal, so what is known of clean past frames is
kept as keys and values and never computed again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.attention import Cache, SpaceAttention, TimeAttention

__all__ = ["DiT"]


class _Half(nn.Module):
    """One attention and one feed-forward network, both modulated by the condition."""

    def __init__(self, attention: nn.Module, width: int) -> None:
        super().__init__()
        self.attention = attention
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, condition: Tensor, *past: Cache | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tokens (b, f, n, width) and condition (b, f, width) -> tokens, and what the attention returns besides."""
        parts = self.modulation(condition)[:, :, None].chunk(6, dim=-1)
        attended = self.attention(_modulated(tokens, *parts[:2]), *past)
        attended, *rest = attended if isinstance(attended, tuple) else (attended,)
        tokens = tokens + parts[2] * attended
        inner = functional.gelu(self.expand(_modulated(tokens, *parts[3:5])), approximate="tanh")
        return tokens + parts[5] * self.contract(inner), tuple(rest)


class DiT(nn.Module):
    """Noisy frames to the network's output, shaped alike.

    Args:
        frame_shape: (c, h, w).
        width: of tokens and of the condition.
        depth: blocks, of two attentions each.
        heads: of attention.
        patch: pixels per side of a token.
        reach: frames back that a frame attends to.

    Raises:
        ConfigError: a patch that does not divide the frame, or a width that the heads do not.
    """

    def __init__(
        self, frame_shape: tuple[int, int, int], width: int, depth: int, heads: int, patch: int, reach: int
    ) -> None:
        super().__init__()
        c, h, w = frame_shape
        if patch < 1 or h % patch or w % patch:
            raise ConfigError(f"a patch of {patch} does not divide frames of {h} x {w}.")
        self.patch, self.rows, self.columns, self.reach = patch, h // patch, w // patch, reach
        self.heads, self.head_width = heads, width // heads
        self.enter = nn.Linear(c * patch**2, width)
        self.space = nn.ModuleList(
            _Half(SpaceAttention(width, heads, self.rows, self.columns), width) for _ in range(depth)
        )
        self.time = nn.ModuleList(_Half(TimeAttention(width, heads, reach), width) for _ in range(depth))
        self.last_modulation, self.leave = nn.Linear(width, 2 * width), nn.Linear(width, c * patch**2)
        for layer in (self.last_modulation, self.leave):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, frames: Tensor, condition: Tensor, past: Sequence[Cache] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run.

        Args:
            frames: (b, f, c, h, w).
            condition: (b, f, width).
            past: a cache per block; None if these are the first frames.

        Returns:
            The output, shaped like the frames, and their keys and values, (b, depth, n, heads, f, d) each.
        """
        tokens = self.enter(rearrange(frames, "b f c (y p) (x q) -> b f (y x) (c p q)", p=self.patch, q=self.patch))
        condition = functional.silu(condition)
        keys, values = [], []
        for index, (space, time) in enumerate(zip(self.space, self.time, strict=True)):
            tokens, _ = space(tokens, condition)
            tokens, (key, value) = time(tokens, condition, past[index] if past else None)
            keys.append(key)
            values.append(value)
        shift, scale = self.last_modulation(condition)[:, :, None].chunk(2, dim=-1)
        output = self.leave(_modulated(tokens, shift, scale))
        output = rearrange(output, "b f (y x) (c p q) -> b f c (y p) (x q)", y=self.rows, p=self.patch, q=self.patch)
        return output, torch.stack(keys, dim=1), torch.stack(values, dim=1)


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift

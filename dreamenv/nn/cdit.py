"""Attention within each frame, then across to tokens of past frames that no layer changes.

So the cost of a past frame is that of its keys and values (CDiT of Navigation World Models, Bar et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.nn.attention import CrossAttention, SpaceAttention, Turns, turns_of_all
from dreamenv.nn.transformer import Enter, Half, Leave

__all__ = ["CDiT"]


class CDiT(nn.Module):
    """Attention in space, and across to past frames.

    Args:
        frame_shape: (c, h, w).
        width: of tokens and of the condition.
        depth: blocks, of two attentions each.
        heads: of attention.
        patch: pixels per side of a token.

    Raises:
        ConfigError: a patch that does not divide the frame, or a width that the heads do not.
    """

    def __init__(self, frame_shape: tuple[int, int, int], width: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.enter, self.enter_past = Enter(frame_shape, width, patch), Enter(frame_shape, width, patch)
        self.leave = Leave(frame_shape, width, patch)
        rows, columns = self.enter.rows, self.enter.columns
        self.cache_shape = (depth, heads, rows * columns, width // heads)
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("where", _waves(rows, columns, width), persistent=False)
        self.space = nn.ModuleList(Half(SpaceAttention(width, heads, rows, columns), width) for _ in range(depth))
        self.across = nn.ModuleList(Half(CrossAttention(width, heads), width) for _ in range(depth))

    places: Tensor
    where: Tensor

    def nothing(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return what is attended to where nothing is remembered: keys and values (b, depth, heads, 1, d) each."""
        learned = torch.stack([attention.nothing for attention in self._attentions()], dim=1)
        keys, values = learned.expand(rows, -1, -1, -1, -1, -1).unbind(1)
        return keys, values

    def remember(self, frames: Tensor, described: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Make the keys and values, (b, depth, heads, f n, d) each, of clean frames (b, f, c, h, w).

        Args:
            frames: to remember.
            described: (b, f, width), added to all tokens of a frame.
            time: (b, f), when they were seen, in steps.
        """
        tokens = self.enter_past(frames) + described[:, :, None] + self.where
        tokens = functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        turns = self._turns(time)
        keys, values = zip(*(attention.remember(tokens, turns) for attention in self._attentions()), strict=True)
        return torch.stack(keys, dim=1), torch.stack(values, dim=1)

    def forward(
        self, frames: Tensor, condition: Tensor, past: tuple[Tensor, Tensor], time: Tensor, mask: Tensor
    ) -> Tensor:
        """Run.

        Args:
            frames: (b, f, c, h, w), which do not see each other.
            condition: (b, f, width).
            past: keys and values of nothing, and of w frames after it: (b, depth, heads, 1 + w n, d) each.
            time: (b, f) of the frames.
            mask: (b, f, w) bool, which past frame each may see.

        Returns:
            The output, shaped like the frames.
        """
        tokens, turns = self.enter(frames) + self.where, self._turns(time)
        condition, n = functional.silu(condition), tokens.shape[2]
        seen = torch.cat((mask.new_ones(*mask.shape[:2], 1), mask.repeat_interleave(n, dim=2)), dim=2)
        seen = seen.repeat_interleave(n, dim=1)[:, None]
        for index, (space, across) in enumerate(zip(self.space, self.across, strict=True)):
            tokens, _ = space(tokens, condition)
            tokens, _ = across(tokens, condition, past[0][:, index], past[1][:, index], turns, seen)
        output: Tensor = self.leave(tokens, condition)
        return output

    def _attentions(self) -> Iterator[CrossAttention]:
        for half in self.across:
            attention = half.get_submodule("attention")
            assert isinstance(attention, CrossAttention)
            yield attention

    def _turns(self, time: Tensor) -> Turns:
        """Of all tokens of frames at times (b, f)."""
        row, column = self.places.unbind(-1)
        return turns_of_all(time[..., None, None], row, column, self.cache_shape[-1])


def _waves(rows: int, columns: int, width: int) -> Tensor:
    """Say by sines and cosines where a token lies, (rows * columns, width): what it looks for lies about there too."""
    quarter = -(-width // 4)
    speeds = 100 ** (-torch.arange(quarter) / quarter)
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    angles = (grid[:, :, None] * speeds).flatten(1)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[:, :width]

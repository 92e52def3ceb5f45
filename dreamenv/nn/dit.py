"""Attention within each frame, then along time, causally, each frame at a noise level of its own.

The keys and values of clean past frames are kept and never computed again. The order of attentions is Oasis's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.nn.attention import Cache, SpaceAttention, TimeAttention, in_time
from dreamenv.nn.injection import ActionInjection
from dreamenv.nn.transformer import Enter, Half, Leave

__all__ = ["DiT"]


class DiT(nn.Module):
    """Attention in space and in time.

    Args:
        frame_shape: (c, h, w).
        width: of tokens and of the condition.
        depth: blocks, of two attentions each.
        heads: of attention.
        patch: pixels per side of a token.
        reach: frames back that a frame attends to.
        injections: modules that put actions in after each block; empty if the condition says all.

    Raises:
        ConfigError: a patch that does not divide the frame, or a width that the heads do not.
    """

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        width: int,
        depth: int,
        heads: int,
        patch: int,
        reach: int,
        injections: Sequence[ActionInjection] = (),
    ) -> None:
        super().__init__()
        self.enter, self.leave = Enter(frame_shape, width, patch), Leave(frame_shape, width, patch)
        rows, columns = self.enter.rows, self.enter.columns
        self.reach, self.head = reach, width // heads
        self.cache_shape = (depth, rows * columns, heads, reach, self.head)
        self.space = nn.ModuleList(Half(SpaceAttention(width, heads, rows, columns), width) for _ in range(depth))
        self.time = nn.ModuleList(Half(TimeAttention(width, heads), width) for _ in range(depth))
        self.injections = nn.ModuleList(injections)

    def forward(
        self,
        frames: Tensor,
        condition: Tensor,
        groups: Tensor,
        past: Sequence[Cache] | None = None,
        actions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run.

        Args:
            frames: (b, f, c, h, w).
            condition: (b, f, width).
            groups: (f,) int64; frames of one group see each other both ways, see `in_time`.
            past: a cache per block; None if these are the first frames.
            actions: what the injections take, if there are any.

        Returns:
            The output, shaped like the frames, and their keys and values, (b, depth, n, heads, f, d) each.
        """
        tokens = self.enter(frames)
        condition = functional.silu(condition)
        times = in_time(groups, past[0] if past else None, len(frames), self.reach, self.head)
        keys, values = [], []
        for index, (space, time) in enumerate(zip(self.space, self.time, strict=True)):
            tokens, _ = space(tokens, condition)
            tokens, (key, value) = time(tokens, condition, past[index] if past else None, times)
            if self.injections:
                tokens = self.injections[index](tokens, actions)
            keys.append(key)
            values.append(value)
        return self.leave(tokens, condition), torch.stack(keys, dim=1), torch.stack(values, dim=1)

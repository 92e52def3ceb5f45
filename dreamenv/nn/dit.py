"""Diffusion transformers: frames as tokens, and blocks that listen to a condition per frame (adaLN-Zero).

After DiT (Peebles and Xie 2023). A block is a row of halves, each an attention and a feed-forward network of its own.
What the attentions look at makes the kinds:

- `DiT`: within each frame, then along time, causally, each frame at a noise level of its own. The keys and values of
  clean past frames are kept and never computed again (Oasis's order of attentions).
- `CDiT`: within each frame, then across to tokens of past frames that no layer changes: the cost of a past frame is
  that of its keys and values (NWM, Bar et al. 2024).
- `PackedDiT`: among all tokens of the frames drawn and a fixed number of tokens that stand for the whole past, fewer
  for what is longer ago (FramePack, Zhang and Agrawala 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.attention import (
    Cache,
    CrossAttention,
    JointAttention,
    PackedCache,
    SpaceAttention,
    TimeAttention,
    Turns,
    in_time,
    turns_of_all,
)
from dreamenv.nn.injection import ActionInjection

__all__ = ["CDiT", "DiT", "PackedDiT"]


class _Half(nn.Module):
    """One attention and one feed-forward network, both modulated by the condition."""

    def __init__(self, attention: nn.Module, width: int) -> None:
        super().__init__()
        self.attention = attention
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, condition: Tensor, *others: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tokens (b, f, n, width) and condition (b, f, width) -> tokens, and what the attention returns besides.

        ``others`` are what the attention is given besides the tokens.
        """
        parts = self.modulation(condition)[:, :, None].chunk(6, dim=-1)
        attended = self.attention(_modulated(tokens, *parts[:2]), *others)
        attended, *rest = attended if isinstance(attended, tuple) else (attended,)
        tokens = tokens + parts[2] * attended
        inner = functional.gelu(self.expand(_modulated(tokens, *parts[3:5])), approximate="tanh")
        return tokens + parts[5] * self.contract(inner), tuple(rest)


class _Enter(nn.Module):
    """Frames (b, f, c, h, w) to tokens (b, f, n, width), of ``patch`` pixels per side.

    Raises:
        ConfigError: a patch that does not divide the frame.
    """

    def __init__(self, frame_shape: tuple[int, int, int], width: int, patch: int) -> None:
        super().__init__()
        self.patch, (self.rows, self.columns) = patch, _check_patch(frame_shape, patch)
        self.enter = nn.Linear(frame_shape[0] * patch**2, width)

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        p = self.patch
        tokens: Tensor = self.enter(rearrange(frames, "b f c (y p) (x q) -> b f (y x) (c p q)", p=p, q=p))
        return tokens


class _Leave(nn.Module):
    """Tokens back to what a network says of frames; before it has learned anything, that is 0."""

    def __init__(self, frame_shape: tuple[int, int, int], width: int, patch: int) -> None:
        super().__init__()
        self.patch, (self.rows, _) = patch, _check_patch(frame_shape, patch)
        self.modulation, self.leave = nn.Linear(width, 2 * width), nn.Linear(width, frame_shape[0] * patch**2)
        for layer in (self.modulation, self.leave):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Tokens (b, f, n, width), and the condition (b, f, width) after its activation -> (b, f, c, h, w)."""
        shift, scale = self.modulation(condition)[:, :, None].chunk(2, dim=-1)
        output = self.leave(_modulated(tokens, shift, scale))
        p = self.patch
        frames: Tensor = rearrange(output, "b f (y x) (c p q) -> b f c (y p) (x q)", y=self.rows, p=p, q=p)
        return frames


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
        self.enter, self.leave = _Enter(frame_shape, width, patch), _Leave(frame_shape, width, patch)
        rows, columns = self.enter.rows, self.enter.columns
        self.reach, self.head = reach, width // heads
        self.cache_shape = (depth, rows * columns, heads, reach, self.head)
        self.space = nn.ModuleList(_Half(SpaceAttention(width, heads, rows, columns), width) for _ in range(depth))
        self.time = nn.ModuleList(_Half(TimeAttention(width, heads), width) for _ in range(depth))
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
        self.enter, self.enter_past = _Enter(frame_shape, width, patch), _Enter(frame_shape, width, patch)
        self.leave = _Leave(frame_shape, width, patch)
        rows, columns = self.enter.rows, self.enter.columns
        self.cache_shape = (depth, heads, rows * columns, width // heads)
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("where", _waves(rows, columns, width), persistent=False)
        self.space = nn.ModuleList(_Half(SpaceAttention(width, heads, rows, columns), width) for _ in range(depth))
        self.across = nn.ModuleList(_Half(CrossAttention(width, heads), width) for _ in range(depth))

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


class PackedDiT(nn.Module):
    """Attention among all tokens of the frames drawn and of the packed past.

    The past's tokens attend to each other only, so that their keys and values hold for all passes over what is drawn.

    Args:
        frame_shape: (c, h, w).
        width: of tokens and of the condition.
        depth: blocks.
        heads: of attention.
        patch: pixels per side of a token.
        packing: (frames, factor) from the newest to the oldest: so many past frames are packed by cuboids of
            ``factor`` frames and ``factor * patch`` pixels per side. A factor of 1 keeps a frame as it is.

    Raises:
        ConfigError: a cuboid that does not divide the frame, or frames that are no multiple of their factor.
    """

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        width: int,
        depth: int,
        heads: int,
        patch: int,
        packing: Sequence[tuple[int, int]],
    ) -> None:
        super().__init__()
        self.enter, self.leave = _Enter(frame_shape, width, patch), _Leave(frame_shape, width, patch)
        self.packing = tuple(packing)
        self.packers, places, spans, newest = nn.ModuleList(), [], [], 0
        for frames, factor in self.packing:
            if frames < 1 or factor < 1 or frames % factor:
                raise ConfigError(f"{frames} frames cannot be packed by {factor}: it must divide them.")
            side = patch * factor
            rows, columns = _check_patch(frame_shape, side)
            self.packers.append(nn.Linear(frame_shape[0] * factor * side**2, width))
            for group in range(frames // factor):
                middle = -newest - group * factor - (factor + 1) / 2  # the newest past frame lies at -1
                places.append(_places(rows, columns, factor, middle))
                spans += [(newest + group * factor, rows * columns)]
            newest += frames
        self.frames = newest
        where = torch.cat(places)
        self.tokens = len(where)
        self.cache_shape = (depth, heads, self.tokens, width // heads)
        self.register_buffer("places", where, persistent=False)
        # How many past frames there must be before a token stands for one: the newest of its cuboid.
        needs = torch.cat([torch.full((count,), first + 1) for first, count in spans])
        self.register_buffer("needs", needs, persistent=False)
        rows, columns = self.enter.rows, self.enter.columns
        self.register_buffer("grid", _places(rows, columns, 1, 0.0), persistent=False)
        self.blocks = nn.ModuleList(_Half(JointAttention(width, heads), width) for _ in range(depth))

    places: Tensor
    needs: Tensor
    grid: Tensor

    def pack(self, frames: Tensor, described: Tensor) -> Tensor:
        """Pack past frames (b, s, c, h, w), newest last, and what is known of each, (b, s, width): (b, m, width)."""
        tokens, end = [], frames.shape[1]
        for (count, factor), packer in zip(self.packing, self.packers, strict=True):
            some, known = frames[:, end - count : end], described[:, end - count : end]
            side = self.enter.patch * factor
            cuboids = rearrange(some, "b (g t) c (y p) (x q) -> b g (y x) (t c p q)", t=factor, p=side, q=side).flip(
                1
            )  # the newest group first, as the places are
            mean = known.unflatten(1, (-1, factor)).mean(2).flip(1)
            tokens.append((packer(cuboids) + mean[:, :, None]).flatten(1, 2))
            end -= count
        return torch.cat(tokens, dim=1)

    def remember(self, packed: Tensor, condition: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """Make the keys and values, (b, depth, heads, m, d) each, of packed tokens (b, m, width).

        Args:
            packed: from `pack`.
            condition: (b, width) of clean frames.
            held: (b,) int64, how many past frames there are.
        """
        there = self.there(held)
        # Somebody must be attended to, even where there is nothing yet: nobody will attend to the result.
        seen = there | (held == 0)[:, None]
        tokens, condition = packed[:, None], functional.silu(condition)[:, None]
        turns, keys, values = self._turns(self.places), [], []
        for block in self.blocks:
            tokens, (key, value) = block(tokens, condition, turns, seen, None)
            keys.append(key)
            values.append(value)
        return torch.stack(keys, dim=1), torch.stack(values, dim=1)

    def there(self, held: Tensor) -> Tensor:
        """Say which packed tokens stand for a frame that was seen, (b, m) bool, where so many were, (b,)."""
        return held[:, None] >= self.needs

    def forward(self, frames: Tensor, condition: Tensor, past: tuple[Tensor, Tensor], there: Tensor) -> Tensor:
        """Run.

        Args:
            frames: (b, f, c, h, w), which all see each other.
            condition: (b, f, width).
            past: what `remember` made.
            there: (b, m) bool, which of it may be seen.

        Returns:
            The output, shaped like the frames.
        """
        tokens, condition = self.enter(frames), functional.silu(condition)
        f, n = tokens.shape[1:3]
        time = torch.arange(f, device=frames.device)[:, None, None].expand(-1, n, 1)
        places = torch.cat((time, self.grid[None, :, 1:].expand(f, -1, -1)), dim=-1)
        own, turns = there.new_ones(len(frames), f * n), self._turns(places.flatten(0, 1))
        for index, block in enumerate(self.blocks):
            tokens, _ = block(tokens, condition, turns, own, PackedCache(past[0][:, index], past[1][:, index], there))
        output: Tensor = self.leave(tokens, condition)
        return output

    def _turns(self, places: Tensor) -> Turns:
        """Of tokens at times, rows and columns (m, 3)."""
        time, row, column = places.unbind(-1)
        return turns_of_all(time, row, column, self.cache_shape[-1])


def _check_patch(frame_shape: tuple[int, int, int], patch: int) -> tuple[int, int]:
    """Return the rows and columns of patches.

    Raises:
        ConfigError: the patch does not divide the frame.
    """
    _, h, w = frame_shape
    if patch < 1 or h % patch or w % patch:
        raise ConfigError(f"a patch of {patch} does not divide frames of {h} x {w}.")
    return h // patch, w // patch


def _waves(rows: int, columns: int, width: int) -> Tensor:
    """Say by sines and cosines where a token lies, (rows * columns, width): what it looks for lies about there too."""
    quarter = -(-width // 4)
    speeds = 100 ** (-torch.arange(quarter) / quarter)
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    angles = (grid[:, :, None] * speeds).flatten(1)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[:, :width]


def _places(rows: int, columns: int, factor: int, time: float) -> Tensor:
    """Time, row and column (rows * columns, 3) of tokens, counted in patches: the middles of larger ones."""
    y, x = ((torch.arange(n) * factor + (factor - 1) / 2) for n in (rows, columns))
    grid = torch.cartesian_prod(y, x)
    return torch.cat((torch.full((len(grid), 1), time), grid), dim=-1)


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift

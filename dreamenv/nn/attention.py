"""Attention over space and over time, with rotary positions and a cache of past keys and values.

Positions (`dreamenv.nn.rotary`) and masks are the same in all layers of a network, which computes them once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.batching import linear_2d
from dreamenv.nn.rotary import Rotary, place_rotary, time_rotary

__all__ = [
    "CrossAttention",
    "JointAttention",
    "KeyValueCache",
    "PackedCache",
    "SpaceAttention",
    "SpaceTimeAttention",
    "TemporalContext",
    "TimeAttention",
    "attend",
    "attend_cached",
    "block_causal_mask",
    "check_heads",
    "past_mask",
    "temporal_context",
]

_FEW_SCORES = 1 << 24  # query-key pairs; with four times as many, explicit products are slower and need much memory


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of past frames for one layer, newest last.

    Attributes:
        keys, values: (b, n, heads, w, d): of n places, in w frames.
        length: (b,) int64, how many of the w frames are valid; the newest ones.
        position: (b,) int64, of the next frame: the number of frames so far.
    """

    keys: Tensor
    values: Tensor
    length: Tensor
    position: Tensor


@dataclass(frozen=True)
class TemporalContext:
    """Temporal positions of frames, and which frames they attend to.

    Attributes:
        rotary: of their queries and keys.
        mask: (b, f, w + f) bool, which of the w frames before and of these f frames each of them attends to.
    """

    rotary: Rotary
    mask: Tensor


def temporal_context(
    block_ids: Tensor, cache: KeyValueCache | None, rows: int, reach: int, channels: int
) -> TemporalContext:
    """Return positions and mask of frames that attend to their own block and to earlier ones.

    Args:
        block_ids: (f,) int64, non-decreasing: the block of each frame. Attention within a block is bidirectional.
        cache: of the frames before them, in any layer; None if there were none.
        rows: batch size b.
        reach: how many frames back attention goes, at most.
        channels: of a head.
    """
    order = torch.arange(len(block_ids), device=block_ids.device)
    position = cache.position if cache else torch.zeros(rows, dtype=torch.int64, device=block_ids.device)
    mask = block_causal_mask(block_ids, reach).expand(rows, -1, -1)
    if cache is not None:
        past = past_mask(len(block_ids), cache.length, cache.keys.shape[-2], reach)
        mask = torch.cat((past, mask), dim=-1)
    return TemporalContext(time_rotary((position[:, None] + order)[:, None, None], channels), mask)


def block_causal_mask(block_ids: Tensor, reach: int) -> Tensor:
    """Return which frames (f, f) bool each frame attends to: its own block and those before, ``reach`` back at most."""
    order = torch.arange(len(block_ids), device=block_ids.device)
    back = order[:, None] - order  # f f: how many frames a key lies behind a query
    return (block_ids[:, None] >= block_ids) & (back <= reach)


def past_mask(frames: int, length: Tensor, w: int, reach: int) -> Tensor:
    """Return which of the w cached frames, newest last, each of the frames after them attends to: (b, frames, w) bool.

    Args:
        frames: how many there are.
        length: (b,) int64, how many of the cached ones are valid; the newest ones.
        w: how many are cached.
        reach: how many frames back attention goes, at most.
    """
    order = torch.arange(frames, device=length.device)
    age = w - torch.arange(w, device=length.device)  # the newest is 1 behind the first of these frames
    return ((age + order[:, None]) <= reach) & (age <= length[:, None])[:, None]


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads, 4)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width)

    def _split(self, tokens: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """(..., s, width) -> three of (..., heads, s, d): queries and keys, rotated, and values."""
        parts = linear_2d(self.qkv, tokens).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        query, key = rotary(parts[:2])
        return query, key, parts[2]

    def _join(self, attended: Tensor) -> Tensor:
        return linear_2d(self.out_proj, attended.transpose(-3, -2).flatten(-2))


class SpaceAttention(_Attention):
    """Attention among all places of a frame.

    Args:
        width: of tokens.
        heads: of attention; each is a multiple of 4 wide.
        rows, columns: places of a frame.
    """

    angles: Tensor

    def __init__(self, width: int, heads: int, rows: int, columns: int) -> None:
        super().__init__(width, heads)
        parts = place_rotary(rows, columns, width // heads).parts
        self.register_buffer("angles", torch.stack([torch.stack(part) for part in parts]), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, f, n, width) -> the same shape."""
        row, column = ((cosine, sine) for cosine, sine in self.angles)
        query, key, value = self._split(tokens, Rotary((row, column)))
        return self._join(attend(query, key, value))


class TimeAttention(_Attention):
    """Attention of each place to itself in other frames."""

    def forward(
        self, tokens: Tensor, cache: KeyValueCache | None, context: TemporalContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend.

        Args:
            tokens: (b, f, n, width) of frames in order.
            cache: of the frames before them; None if there were none.
            context: of these frames, see `temporal_context`.

        Returns:
            Tokens of the same shape, and the keys and values of these frames, (b, n, heads, f, d), for the next cache.
        """
        query, key, value = self._split(tokens.transpose(1, 2), context.rotary)  # b n heads f d
        mask = context.mask[:, None, None]
        if cache is None:
            attended = attend(query, key, value, mask)
        else:
            attended = attend_cached(query, (cache.keys, key), (cache.values, value), mask)
        return self._join(attended).transpose(1, 2), key, value


class SpaceTimeAttention(_Attention):
    """Attention of tokens to all of their own frame and of earlier ones, wherever those lie.

    Args:
        width: of tokens.
        heads: of attention; each is a multiple of 8 wide: half encodes the time, a quarter each row and column.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        check_heads(width, heads, 8)

    def forward(
        self, tokens: Tensor, rotary: Rotary, mask: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend.

        Args:
            tokens: (b, f, n, width).
            rotary: of all of them, in order.
            mask: bool, to (b, 1, f n, m), which key each token attends to, cached ones first.
            past: cached keys and values, (b, heads, w n, d) each; None if there are none.

        Returns:
            Tokens of the same shape, their keys and their values, (b, heads, f n, d) each.
        """
        query, key, value = self._split(tokens.flatten(1, 2), rotary)
        if past is None:
            attended = attend(query, key, value, mask)
        else:
            attended = attend_cached(query, (past[0], key), (past[1], value), mask)
        return self._join(attended).unflatten(1, tokens.shape[1:3]), key, value


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend, (..., f, d), from queries (..., f, d) to keys and values (..., m, d), under a bool mask (..., f, m).

    In bfloat16 on a CPU this is two matrix products: torch's own kernel is there as slow as in float32, up to twice as
    slow as the products, as long as the scores fit the caches.
    """
    rounded = query.dtype == torch.bfloat16 or torch.is_autocast_enabled(query.device.type)
    few = query.shape[:-1].numel() * key.shape[-2] <= _FEW_SCORES
    if rounded and few and query.device.type == "cpu" and not query.requires_grad:
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        attended: Tensor = scores.softmax(-1) @ value
        return attended
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attend_cached(query: Tensor, keys: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """Attend to cached and new keys without concatenating them.

    Concatenation would copy the whole cache in every evaluation: with 64 dreams of 16 frames it is three to six times
    slower.

    Args:
        query: (b, ..., f, d).
        keys, values: (b, ..., w, d) cached, and (b, ..., m, d) new.
        mask: bool, to (b, ..., f, w + m), which key each query attends to.

    Returns:
        (b, ..., f, d).
    """
    # Matrix products copy the caches of several rows, which does not pay off for a single query.
    single = query.shape[-2] == 1 and len(query) > 1

    def scores(among: Tensor) -> Tensor:
        return (query * among).sum(-1)[..., None, :] if single else query @ among.mT

    def weighted_sum(weights: Tensor, of: Tensor) -> Tensor:
        return (weights.mT * of).sum(-2, keepdim=True) if single else weights @ of

    logits = torch.cat([scores(one) for one in keys], dim=-1) * query.shape[-1] ** -0.5
    weights = logits.masked_fill(~mask, -math.inf).softmax(-1)
    cached, new = weights.tensor_split([keys[0].shape[-2]], dim=-1)
    return weighted_sum(cached, values[0]) + weighted_sum(new, values[1])


class CrossAttention(nn.Module):
    """Cross-attention to tokens whose keys and values are computed once and cached.

    One learned key and value is always attended to as well; where the cache is empty, it is the only one.

    Args:
        width: of tokens.
        heads: of attention; each is a multiple of 8 wide: half encodes the time, a quarter each row and column.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads, 8)
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.kv_proj = nn.Linear(width, 2 * width, bias=False)
        self.out_proj = nn.Linear(width, width)
        self.nothing = nn.Parameter(torch.zeros(2, heads, 1, width // heads))

    def keys_and_values(self, tokens: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Make keys and values (b, heads, f n, d) of tokens (b, f, n, width) of frames."""
        key, value = self.kv_proj(tokens).unflatten(-1, (2, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        return self._merge_frames(rotary(key)), self._merge_frames(value)

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor, rotary: Rotary, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            tokens: (b, f, n, width).
            keys, values: (b, heads, m, d), of ``nothing`` and of the m - 1 cached tokens.
            rotary: of the tokens.
            mask: (b, 1, f n, m) bool, which key each token attends to.

        Returns:
            (b, f, n, width).
        """
        query = rotary(self.q_proj(tokens).unflatten(-1, (self.heads, -1)).transpose(-3, -2))
        attended = attend(self._merge_frames(query), keys, values, mask)
        return linear_2d(self.out_proj, attended.transpose(1, 2).flatten(-2).reshape(tokens.shape))

    @staticmethod
    def _merge_frames(tokens: Tensor) -> Tensor:
        """Tokens (b, f, heads, n, d) -> (b, heads, f n, d)."""
        return tokens.transpose(1, 2).flatten(2, 3)


@dataclass(frozen=True)
class PackedCache:
    """Keys and values of packed frames for one layer.

    Attributes:
        keys, values: (b, heads, m, d).
        valid: (b, m) bool, which of them represent an observed frame.
    """

    keys: Tensor
    values: Tensor
    valid: Tensor


class JointAttention(_Attention):
    """Attention among all tokens of all frames and the cached ones, across space and time.

    Args:
        width: of tokens.
        heads: of attention; each is a multiple of 8 wide: half encodes the time, a quarter each row and column.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        check_heads(width, heads, 8)

    def forward(self, tokens: Tensor, rotary: Rotary, valid: Tensor, past: PackedCache | None) -> tuple[Tensor, ...]:
        """Attend.

        Args:
            tokens: (b, f, n, width).
            rotary: of all of them, in order.
            valid: (b, f * n) bool: the others are masked out.
            past: the cache; None if there is none.

        Returns:
            Tokens of the same shape, their keys and their values, (b, heads, f * n, d) each.
        """
        f, n = tokens.shape[1:3]
        query, key, value = self._split(tokens.flatten(1, 2), rotary)
        keys, values, mask = key, value, valid
        if past is not None:
            keys, values = torch.cat((past.keys, key), dim=-2), torch.cat((past.values, value), dim=-2)
            mask = torch.cat((past.valid, valid), dim=-1)
        attended = attend(query, keys, values, mask[:, None, None])
        return self._join(attended).unflatten(1, (f, n)), key, value


def check_heads(width: int, heads: int, multiple: int) -> None:
    """Raise ConfigError unless a width is so many heads, each a multiple of channels wide."""
    if heads < 1 or width < 1 or width % heads or (width // heads) % multiple:
        raise ConfigError(
            f"a width of {width} cannot be {heads} heads, each a multiple of {multiple} wide; take a multiple of "
            f"{multiple * max(1, heads)}."
        )

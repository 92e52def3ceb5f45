"""Attention over space and over time, with rotary positions and a cache of what came before.

Positions turn pairs of channels by angles (RoPE, Su et al. 2021), so that a product of query and key knows how far
apart two tokens are, and nothing else of where they are. Hence keys can be kept as they are while a window slides. The
angles, and who may look at whom, are the same in all layers of a network: it makes them once for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.pieces import by_row

__all__ = [
    "Cache",
    "CrossAttention",
    "JointAttention",
    "PackedCache",
    "SpaceAttention",
    "TimeAttention",
    "Times",
    "Turns",
    "attend",
    "attend_where_it_lies",
    "in_time",
    "turns_in_time",
    "turns_of_all",
]

_BASE = 10_000.0  # of the rotations' wavelengths in time
_NEAR = 100.0  # in space, where frames have some ten rows of tokens
_FEW_SCORES = 1 << 24  # of queries with keys; four times as many take longer as products, and much memory


@dataclass(frozen=True)
class Turns:
    """How far pairs of channels are turned, as cosines and sines.

    Attributes:
        parts: (..., d / 2) of each, for channels (..., d) that one coordinate turns; those of the next follow.
    """

    parts: tuple[tuple[Tensor, Tensor], ...]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Turn channels (..., d), of all parts together."""
        turned = []
        pieces = tokens.split([2 * cosine.shape[-1] for cosine, _ in self.parts], dim=-1)
        for piece, (cosine, sine) in zip(pieces, self.parts, strict=True):
            first, second = piece.chunk(2, dim=-1)
            turned.append(torch.addcmul(first * cosine, second, sine, value=-1))
            turned.append(torch.addcmul(second * cosine, first, sine))
        return torch.cat(turned, dim=-1)


def _turns(positions: Tensor, channels: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of angles that grow with positions (...), (..., channels / 2) each.

    The slowest pair turns almost ``base`` times as slowly as the fastest, which turns by 1 radian per position.
    """
    half = channels // 2
    speeds = base ** (-torch.arange(half, device=positions.device) / half)
    angles = positions[..., None] * speeds
    return angles.cos(), angles.sin()


def turns_in_time(time: Tensor, channels: int) -> Turns:
    """All channels know the time (...)."""
    return Turns((_turns(time, channels, _BASE),))


def turns_of_all(time: Tensor, row: Tensor, column: Tensor, channels: int) -> Turns:
    """Half of the channels know the time, and a quarter each row and column, (...) each."""
    of_time = _turns(time, channels // 2, _BASE)
    return Turns((of_time, *(_turns(one, channels // 4, _NEAR) for one in (row, column))))


@dataclass(frozen=True)
class Cache:
    """Keys and values of past frames for one layer, newest last.

    Attributes:
        keys, values: (b, n, heads, w, d): of n places, in w frames.
        held: (b,) int64, how many of the w frames are there; the newest ones.
        seen: (b,) int64, how many frames there have been in all.
    """

    keys: Tensor
    values: Tensor
    held: Tensor
    seen: Tensor


@dataclass(frozen=True)
class Times:
    """When frames are, and which they see.

    Attributes:
        turns: of their queries and keys.
        mask: (b, f, w + f) bool, which of the w frames before and of themselves each of f frames sees.
    """

    turns: Turns
    mask: Tensor


def in_time(groups: Tensor, cache: Cache | None, rows: int, reach: int, channels: int) -> Times:
    """Say when frames are, and which they see: their own group and those before, at most ``reach`` frames back.

    Args:
        groups: (f,) int64, never falling: the group of each frame. Frames of a group see each other both ways.
        cache: of the frames before them, in any layer; None if there were none.
        rows: dreams, b.
        reach: frames back.
        channels: of a head.
    """
    order = torch.arange(len(groups), device=groups.device)
    seen = cache.seen if cache else torch.zeros(rows, dtype=torch.int64, device=groups.device)
    back = order[:, None] - order  # f f: how many frames a key lies behind a query
    mask = ((groups[:, None] >= groups) & (back <= reach)).expand(rows, -1, -1)
    if cache is not None:
        w = cache.keys.shape[-2]
        age = w - torch.arange(w, device=groups.device)  # the newest is 1 behind the first of these frames
        near = (age + order[:, None]) <= reach
        there = age <= cache.held[:, None]
        mask = torch.cat((near & there[:, None], mask), dim=-1)
    return Times(turns_in_time((seen[:, None] + order)[:, None, None], channels), mask)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        _check_heads(width, heads, 4)
        self.heads = heads
        self.enter = nn.Linear(width, 3 * width, bias=False)
        self.leave = nn.Linear(width, width)

    def _split(self, tokens: Tensor, turns: Turns) -> tuple[Tensor, Tensor, Tensor]:
        """(..., s, width) -> three of (..., heads, s, d): queries and keys, turned, and values."""
        parts = by_row(self.enter, tokens).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        query, key = turns(parts[:2])
        return query, key, parts[2]

    def _join(self, attended: Tensor) -> Tensor:
        return by_row(self.leave, attended.transpose(-3, -2).flatten(-2))


class SpaceAttention(_Attention):
    """All places of a frame attend to each other.

    Args:
        width: of tokens.
        heads: of attention; each is a multiple of 4 wide.
        rows, columns: places of a frame.
    """

    turned: Tensor

    def __init__(self, width: int, heads: int, rows: int, columns: int) -> None:
        super().__init__(width, heads)
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
        # Half of the channels know the row, half the column.
        turned = [torch.stack(_turns(one, width // heads // 2, _NEAR)) for one in places.unbind(-1)]
        self.register_buffer("turned", torch.stack(turned), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, f, n, width) -> the same shape."""
        row, column = ((cosine, sine) for cosine, sine in self.turned)
        query, key, value = self._split(tokens, Turns((row, column)))
        return self._join(attend(query, key, value))


class TimeAttention(_Attention):
    """Each place attends to itself in other frames."""

    def forward(self, tokens: Tensor, cache: Cache | None, times: Times) -> tuple[Tensor, Tensor, Tensor]:
        """Attend.

        Args:
            tokens: (b, f, n, width) of frames in order.
            cache: of the frames before them; None if there were none.
            times: of these frames, see `in_time`.

        Returns:
            Tokens of the same shape, and the keys and values of these frames, (b, n, heads, f, d), for the next cache.
        """
        query, key, value = self._split(tokens.transpose(1, 2), times.turns)  # b n heads f d
        mask = times.mask[:, None, None]
        if cache is None:
            attended = attend(query, key, value, mask)
        else:
            attended = attend_where_it_lies(query, (cache.keys, key), (cache.values, value), mask)
        return self._join(attended).transpose(1, 2), key, value


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend, (..., f, d), from queries (..., f, d) to keys and values (..., m, d), as bool (..., f, m) allows.

    In bfloat16 on a processor these are two products of matrices: there torch's own kernel takes as long as in float32,
    and up to twice as long as the products, while what lies between them fits its caches.
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


def attend_where_it_lies(
    query: Tensor, keys: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor], mask: Tensor
) -> Tensor:
    """Attend to what is remembered and to what is new, without putting the one before the other.

    That would copy all that is remembered in every pass: of 64 dreams of 16 frames it takes three to six times as long.

    Args:
        query: (b, ..., f, d).
        keys, values: (b, ..., w, d) remembered, and (b, ..., m, d) new.
        mask: bool, to (b, ..., f, w + m), what is seen by which.

    Returns:
        (b, ..., f, d).
    """
    # Products of matrices lay out anew what several rows remember, which does not pay for a single query.
    alone = query.shape[-2] == 1 and len(query) > 1

    def scores(among: Tensor) -> Tensor:
        return (query * among).sum(-1)[..., None, :] if alone else query @ among.mT

    def mixed(weights: Tensor, of: Tensor) -> Tensor:
        return (weights.mT * of).sum(-2, keepdim=True) if alone else weights @ of

    said = torch.cat([scores(one) for one in keys], dim=-1) * query.shape[-1] ** -0.5
    weights = said.masked_fill(~mask, -math.inf).softmax(-1)
    old, new = weights.tensor_split([keys[0].shape[-2]], dim=-1)
    return mixed(old, values[0]) + mixed(new, values[1])


class CrossAttention(nn.Module):
    """Tokens attend to others, whose keys and values are made once and kept.

    There is always one more thing to attend to, which is learned: where nothing is remembered yet, it is all there is.

    Args:
        width: of tokens.
        heads: of attention; each is a multiple of 8 wide: half of it knows the time, a quarter each row and column.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        _check_heads(width, heads, 8)
        self.heads = heads
        self.ask = nn.Linear(width, width, bias=False)
        self.keep = nn.Linear(width, 2 * width, bias=False)
        self.leave = nn.Linear(width, width)
        self.nothing = nn.Parameter(torch.zeros(2, heads, 1, width // heads))

    def remember(self, tokens: Tensor, turns: Turns) -> tuple[Tensor, Tensor]:
        """Make keys and values (b, heads, f n, d) of tokens (b, f, n, width) of frames."""
        key, value = self.keep(tokens).unflatten(-1, (2, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        return self._in_a_row(turns(key)), self._in_a_row(value)

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor, turns: Turns, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            tokens: (b, f, n, width).
            keys, values: (b, heads, m, d), of ``nothing`` and of the m - 1 tokens that are remembered.
            turns: of the tokens.
            mask: (b, 1, f n, m) bool, what may be seen from which.

        Returns:
            (b, f, n, width).
        """
        query = turns(self.ask(tokens).unflatten(-1, (self.heads, -1)).transpose(-3, -2))
        attended = attend(self._in_a_row(query), keys, values, mask)
        return by_row(self.leave, attended.transpose(1, 2).flatten(-2).reshape(tokens.shape))

    @staticmethod
    def _in_a_row(tokens: Tensor) -> Tensor:
        """Tokens (b, f, heads, n, d) -> (b, heads, f n, d)."""
        return tokens.transpose(1, 2).flatten(2, 3)


@dataclass(frozen=True)
class PackedCache:
    """Keys and values of packed frames for one layer.

    Attributes:
        keys, values: (b, heads, m, d).
        there: (b, m) bool, which of them stand for a frame that was seen.
    """

    keys: Tensor
    values: Tensor
    there: Tensor


class JointAttention(_Attention):
    """All tokens of all frames attend to each other, and to what is remembered, wherever in space and time they lie.

    Args:
        width: of tokens.
        heads: of attention; each is a multiple of 8 wide: half of it knows the time, a quarter each row and column.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        _check_heads(width, heads, 8)

    def forward(self, tokens: Tensor, turns: Turns, there: Tensor, past: PackedCache | None) -> tuple[Tensor, ...]:
        """Attend.

        Args:
            tokens: (b, f, n, width).
            turns: of all of them, in order.
            there: (b, f * n) bool: the others are attended to by nobody.
            past: what is remembered; None if nothing is.

        Returns:
            Tokens of the same shape, their keys and their values, (b, heads, f * n, d) each.
        """
        f, n = tokens.shape[1:3]
        query, key, value = self._split(tokens.flatten(1, 2), turns)
        keys, values, seen = key, value, there
        if past is not None:
            keys, values = torch.cat((past.keys, key), dim=-2), torch.cat((past.values, value), dim=-2)
            seen = torch.cat((past.there, there), dim=-1)
        attended = attend(query, keys, values, seen[:, None, None])
        return self._join(attended).unflatten(1, (f, n)), key, value


def _check_heads(width: int, heads: int, multiple: int) -> None:
    if heads < 1 or width % heads or (width // heads) % multiple:
        raise ConfigError(f"a width of {width} must be {heads} heads times a multiple of {multiple}.")

"""Attention over space and over time, with rotary positions and a cache of what came before.

Positions turn pairs of channels by angles (RoPE, Su et al. 2021), so that a product of query and key knows how far
apart two tokens are, and nothing else of where they are. Hence keys can be kept as they are while a window slides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.pieces import by_row

__all__ = ["Cache", "CrossAttention", "JointAttention", "PackedCache", "SpaceAttention", "TimeAttention", "rotate"]

_BASE = 10_000.0  # of the rotations' wavelengths in time
_NEAR = 100.0  # in space, where frames have some ten rows of tokens


def rotate(tokens: Tensor, positions: Tensor, base: float = _BASE) -> Tensor:
    """Turn pairs of channels (..., d) by angles that grow with positions (...); d is even.

    The slowest pair turns almost ``base`` times as slowly as the fastest, which turns by 1 radian per position.
    """
    half = tokens.shape[-1] // 2
    speeds = base ** (-torch.arange(half, device=tokens.device) / half)
    angles = positions[..., None] * speeds
    cosine, sine = angles.cos(), angles.sin()
    first, second = tokens[..., :half], tokens[..., half:]
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


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


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        _check_heads(width, heads, 4)
        self.heads = heads
        self.enter = nn.Linear(width, 3 * width, bias=False)
        self.leave = nn.Linear(width, width)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., s, width) -> three of (..., heads, s, d)."""
        query, key, value = by_row(self.enter, tokens).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        return query.transpose(-3, -2), key.transpose(-3, -2), value.transpose(-3, -2)

    def _join(self, attended: Tensor) -> Tensor:
        return by_row(self.leave, attended.transpose(-3, -2).flatten(-2))


class SpaceAttention(_Attention):
    """All places of a frame attend to each other.

    Args:
        width: of tokens.
        heads: of attention; each is a multiple of 4 wide.
        rows, columns: places of a frame.
    """

    places: Tensor

    def __init__(self, width: int, heads: int, rows: int, columns: int) -> None:
        super().__init__(width, heads)
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
        self.register_buffer("places", places, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, f, n, width) -> the same shape."""
        query, key, value = self._split(tokens)
        return self._join(functional.scaled_dot_product_attention(self._placed(query), self._placed(key), value))

    def _placed(self, tokens: Tensor) -> Tensor:
        """Half of the channels know the row, half the column."""
        by_row, by_column = tokens.chunk(2, dim=-1)
        turned = (rotate(by_row, self.places[:, 0], _NEAR), rotate(by_column, self.places[:, 1], _NEAR))
        return torch.cat(turned, dim=-1)


class TimeAttention(_Attention):
    """Each place attends to itself in its own group of frames and in those before, at most ``reach`` frames back.

    Args:
        width: of tokens.
        heads: of attention; each is a multiple of 4 wide.
        reach: frames back.
    """

    def __init__(self, width: int, heads: int, reach: int) -> None:
        super().__init__(width, heads)
        self.reach = reach

    def forward(self, tokens: Tensor, cache: Cache | None, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attend.

        Args:
            tokens: (b, f, n, width) of frames in order.
            cache: of the frames before them; None if there were none.
            groups: (f,) int64, never falling: the group of each frame. Frames of a group see each other both ways.

        Returns:
            Tokens of the same shape, and the keys and values of these frames, (b, n, heads, f, d), for the next cache.
        """
        b, f = tokens.shape[:2]
        query, key, value = self._split(tokens.transpose(1, 2))  # b n heads f d
        order = torch.arange(f, device=tokens.device)
        seen = cache.seen if cache else torch.zeros(b, dtype=torch.int64, device=tokens.device)
        position = (seen[:, None] + order)[:, None, None]
        query, key = rotate(query, position), rotate(key, position)
        back = order[:, None] - order  # f f: how many frames a key lies behind a query
        mask = ((groups[:, None] >= groups) & (back <= self.reach)).expand(b, -1, -1)
        keys, values = key, value
        if cache is not None:
            w = cache.keys.shape[-2]
            age = w - torch.arange(w, device=tokens.device)  # the newest is 1 behind the first of these frames
            near = (age + order[:, None]) <= self.reach
            there = age <= cache.held[:, None]
            mask = torch.cat((near & there[:, None], mask), dim=-1)
            keys, values = torch.cat((cache.keys, key), dim=-2), torch.cat((cache.values, value), dim=-2)
        attended = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask[:, None, None])
        return self._join(attended).transpose(1, 2), key, value


class CrossAttention(nn.Module):
    """Tokens attend to others, whose keys and values are made once and kept.

    There is always one more thing to attend to, which is learned: where nothing is remembered yet, it is all there is.

    Args:
        width: of tokens.
        heads: of attention; each is a multiple of 8 wide: half of it knows the time, a quarter each row and column.
        rows, columns: places of a frame.
    """

    places: Tensor

    def __init__(self, width: int, heads: int, rows: int, columns: int) -> None:
        super().__init__()
        _check_heads(width, heads, 8)
        self.heads = heads
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
        self.register_buffer("places", places, persistent=False)
        self.ask = nn.Linear(width, width, bias=False)
        self.keep = nn.Linear(width, 2 * width, bias=False)
        self.leave = nn.Linear(width, width)
        self.nothing = nn.Parameter(torch.zeros(2, heads, 1, width // heads))

    def remember(self, tokens: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Make keys and values (b, f, heads, n, d) of tokens (b, f, n, width) of frames at times (b, f)."""
        key, value = self.keep(tokens).unflatten(-1, (2, self.heads, -1)).movedim(-3, 0)
        return self._placed(key.transpose(-3, -2), time), value.transpose(-3, -2)

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor, time: Tensor, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            tokens: (b, f, n, width).
            keys, values: (b, w, heads, m, d), of m tokens in each of w frames.
            time: (b, f) of the tokens' frames.
            mask: (b, f, w) bool, which frame may be seen from which.

        Returns:
            (b, f, n, width).
        """
        b, f, n, _ = tokens.shape
        query = self.ask(tokens).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
        query = self._placed(query, time).transpose(1, 2).flatten(2, 3)  # b heads (f n) d
        nothing = self.nothing.expand(b, -1, -1, -1, -1).unbind(1)
        key, value = (
            torch.cat((other, kept.transpose(1, 2).flatten(2, 3)), dim=-2)
            for other, kept in zip(nothing, (keys, values), strict=True)
        )
        seen = mask.repeat_interleave(keys.shape[-2], dim=-1)
        seen = torch.cat((seen.new_ones(b, f, 1), seen), dim=-1).repeat_interleave(n, dim=1)[:, None]
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return by_row(self.leave, attended.transpose(1, 2).flatten(-2).reshape(b, f, n, -1))

    def _placed(self, tokens: Tensor, time: Tensor) -> Tensor:
        """Turn (b, f, heads, n, d) by the times (b, f) and the places."""
        return _turned(tokens, time[..., None, None], self.places[:, 0], self.places[:, 1])


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

    def forward(self, tokens: Tensor, places: Tensor, there: Tensor, past: PackedCache | None) -> tuple[Tensor, ...]:
        """Attend.

        Args:
            tokens: (b, f, n, width).
            places: (f, n, 3) time, row and column of each.
            there: (b, f * n) bool: the others are attended to by nobody.
            past: what is remembered; None if nothing is.

        Returns:
            Tokens of the same shape, their keys and their values, (b, heads, f * n, d) each.
        """
        f, n = tokens.shape[1:3]
        query, key, value = self._split(tokens.flatten(1, 2))
        where = places.flatten(0, 1)
        query, key = self._placed(query, where), self._placed(key, where)
        keys, values, seen = key, value, there
        if past is not None:
            keys, values = torch.cat((past.keys, key), dim=-2), torch.cat((past.values, value), dim=-2)
            seen = torch.cat((past.there, there), dim=-1)
        attended = functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen[:, None, None])
        return self._join(attended).unflatten(1, (f, n)), key, value

    @staticmethod
    def _placed(tokens: Tensor, places: Tensor) -> Tensor:
        return _turned(tokens, *places.unbind(-1))


def _turned(tokens: Tensor, time: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Turn half of the channels (..., d) by the time, and a quarter each by row and column, (...) each."""
    d = tokens.shape[-1]
    by_time, by_row, by_column = tokens.split((d // 2, d // 4, d // 4), dim=-1)
    turned = (rotate(by_time, time), rotate(by_row, row, _NEAR), rotate(by_column, column, _NEAR))
    return torch.cat(turned, dim=-1)


def _check_heads(width: int, heads: int, multiple: int) -> None:
    if heads < 1 or width % heads or (width // heads) % multiple:
        raise ConfigError(f"a width of {width} must be {heads} heads times a multiple of {multiple}.")

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

__all__ = ["Cache", "SpaceAttention", "TimeAttention", "rotate"]

_BASE = 10_000.0  # of the rotations' wavelengths


def rotate(tokens: Tensor, positions: Tensor) -> Tensor:
    """Turn pairs of channels (..., d) by angles that grow with positions (...); d is even."""
    half = tokens.shape[-1] // 2
    speeds = _BASE ** (-torch.arange(half, device=tokens.device) / half)
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
        if heads < 1 or width % heads or (width // heads) % 4:
            raise ConfigError(f"a width of {width} must be {heads} heads times a multiple of 4.")
        self.heads = heads
        self.enter = nn.Linear(width, 3 * width, bias=False)
        self.leave = nn.Linear(width, width)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., s, width) -> three of (..., heads, s, d)."""
        query, key, value = self.enter(tokens).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        return query.transpose(-3, -2), key.transpose(-3, -2), value.transpose(-3, -2)

    def _join(self, attended: Tensor) -> Tensor:
        joined: Tensor = self.leave(attended.transpose(-3, -2).flatten(-2))
        return joined


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
        return torch.cat((rotate(by_row, self.places[:, 0]), rotate(by_column, self.places[:, 1])), dim=-1)


class TimeAttention(_Attention):
    """Each place attends to itself in this frame and in at most ``reach`` frames before.

    Args:
        width: of tokens.
        heads: of attention; each is a multiple of 4 wide.
        reach: frames back.
    """

    def __init__(self, width: int, heads: int, reach: int) -> None:
        super().__init__(width, heads)
        self.reach = reach

    def forward(self, tokens: Tensor, cache: Cache | None) -> tuple[Tensor, Tensor, Tensor]:
        """Attend.

        Args:
            tokens: (b, f, n, width) of frames in order.
            cache: of the frames before them; None if there were none.

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
        mask = ((back >= 0) & (back <= self.reach)).expand(b, -1, -1)
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

"""Attention among all tokens of the frames drawn and a fixed number of tokens that stand for the whole past.

There are fewer tokens for what is longer ago (FramePack, Zhang and Agrawala 2025).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.attention import JointAttention, PackedCache, Turns, turns_of_all
from dreamenv.nn.transformer import Enter, Half, Leave, check_patch

__all__ = ["PackedDiT"]


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
        self.enter, self.leave = Enter(frame_shape, width, patch), Leave(frame_shape, width, patch)
        self.packing = tuple(packing)
        self.packers, places, spans, newest = nn.ModuleList(), [], [], 0
        for frames, factor in self.packing:
            if frames < 1 or factor < 1 or frames % factor:
                raise ConfigError(f"{frames} frames cannot be packed by {factor}: it must divide them.")
            side = patch * factor
            rows, columns = check_patch(frame_shape, side)
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
        self.blocks = nn.ModuleList(Half(JointAttention(width, heads), width) for _ in range(depth))

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


def _places(rows: int, columns: int, factor: int, time: float) -> Tensor:
    """Time, row and column (rows * columns, 3) of tokens, counted in patches: the middles of larger ones."""
    y, x = ((torch.arange(n) * factor + (factor - 1) / 2) for n in (rows, columns))
    grid = torch.cartesian_prod(y, x)
    return torch.cat((torch.full((len(grid), 1), time), grid), dim=-1)

"""Foveated patches: a frame in fine patches round the gaze, and in ones 2, 4, ... times as wide further out.

A gaze is (row, column) in [0, 1] of the frame. It falls into one of a few cells, and every cell has a fixed table of
patches that tile the frame: nested squares of patches of one scale each, pushed inwards at the frame's border, so that
all gazes have as many patches. As Foveated Diffusion (2026, arXiv 2603.23491) has tokens of mixed resolution.

Letters: ``s`` scales, ``n`` patches of a frame, ``m`` cells. A scale's patches are 1, 2, 4, ... fine ones wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError, GazeError
from dreamenv.nn.transformer import check_patch

__all__ = ["Fovea", "check_gaze", "check_sides"]


class Fovea(nn.Module):
    """The tables of all gazes. It has no parameters.

    Args:
        frame_shape: (c, h, w).
        patch: pixels (or latents) per side of a fine patch.
        sides: of the squares within which patches are fine, twice as wide, ..., counted in fine patches; none makes all
            of them fine.

    Attributes:
        counts: patches of each scale.
        sizes: values of a patch of each scale.

    Raises:
        ConfigError: squares that the frame has no room for, or that leave nothing coarse.
    """

    middles: Tensor  # (m, n, 2) rows and columns, counted in fine patches
    foveas: Tensor  # (m, rows * columns) 1 where patches are fine

    def __init__(self, frame_shape: tuple[int, int, int], patch: int, sides: Sequence[int]) -> None:
        super().__init__()
        self.patch, self.sides, self.grid = patch, tuple(sides), check_patch(frame_shape, patch)
        check_sides(self.sides)
        widest = 2 ** len(sides)
        if any(n % widest for n in self.grid):
            raise ConfigError(
                f"a fovea of {self.sides} needs patches {widest} fine ones wide, which do not tile a frame of "
                f"{self.grid[0]} x {self.grid[1]} fine patches; make the patch smaller, or name fewer squares."
            )
        if sides and (sides[-1] > min(self.grid) or sides[-1] >= max(self.grid)):
            raise ConfigError(
                f"a square of {sides[-1]} fine patches leaves nothing coarse in a frame of {self.grid[0]} x "
                f"{self.grid[1]}; make the fovea or the patch smaller."
            )
        starts = [_window_starts(n, self.sides) for n in self.grid]
        self.cells = len(starts[0]), len(starts[1])
        tables = [_tiles(self.grid, self.sides, (top, left)) for top in starts[0] for left in starts[1]]
        for scale, places in enumerate(zip(*tables, strict=True)):
            self.register_buffer(f"places{scale}", torch.stack(places), persistent=False)
        self.counts = [len(places) for places in tables[0]]
        self.sizes = [frame_shape[0] * (patch * 2**scale) ** 2 for scale in range(len(self.counts))]
        self.register_buffer("middles", torch.stack([self._middles(table) for table in tables]), persistent=False)
        fine = functional.one_hot(self._places(0), self.grid[0] * self.grid[1]).sum(1)
        self.register_buffer("foveas", fine.float(), persistent=False)

    def cell(self, gaze: Tensor) -> Tensor:
        """Return the cells (...) int64 of gazes (..., 2)."""
        if not self.sides:
            return torch.zeros_like(gaze[..., 0], dtype=torch.int64)
        (rows, columns), half = self.cells, self.sides[0] / 2
        row = ((gaze[..., 0] * self.grid[0] - half) / 2).round().clamp(0, rows - 1)
        column = ((gaze[..., 1] * self.grid[1] - half) / 2).round().clamp(0, columns - 1)
        return (row * columns + column).long()

    def best_gaze(self, maps: Tensor) -> Tensor:
        """Return the gazes (..., 2) whose foveas hold most of maps (..., h, w) of what matters, at least 0.

        Where there is nothing in a map it is the frame's centre.
        """
        pooled = functional.avg_pool2d(maps.flatten(0, -3)[:, None].float(), self.patch).flatten(1)
        held = pooled @ self.foveas.mT
        best, cell = held.max(-1)
        half, columns = self.sides[0] / 2, self.cells[1]
        row = (2 * (cell // columns) + half) / self.grid[0]
        column = (2 * (cell % columns) + half) / self.grid[1]
        gaze = torch.stack((row, column), dim=-1)
        found = torch.where(best[:, None] > 0, gaze, torch.full_like(gaze, 0.5))
        return found.reshape(*maps.shape[:-2], 2)

    def fine_pixels(self, gaze: Tensor, scale: int = 1) -> Tensor:
        """Return where a frame is seen in fine patches, (..., h, w) bool, from gazes (..., 2).

        ``scale`` is how many pixels of the result there are per pixel (or latent) and side.
        """
        fine: Tensor = self.foveas[self.cell(gaze)].unflatten(-1, self.grid) > 0
        side = self.patch * scale
        return fine.repeat_interleave(side, -2).repeat_interleave(side, -1)

    def split(self, frames: Tensor, cell: Tensor) -> list[Tensor]:
        """Cut frames (b, f, c, h, w) as their cells (b, f) say: (b, f, n, values) for each scale, finest first."""
        parts = []
        for scale in range(len(self.counts)):
            p = self.patch * 2**scale
            every = rearrange(frames, "b f c (y p) (x q) -> b f (y x) (c p q)", p=p, q=p)
            parts.append(every.gather(2, self._places(scale)[cell][..., None].expand(-1, -1, -1, every.shape[-1])))
        return parts

    def join(self, parts: Sequence[Tensor], cell: Tensor) -> Tensor:
        """Put frames (b, f, c, h, w) together again; see `split`."""
        frames: Tensor | None = None
        for scale, part in enumerate(parts):
            y, x = (n // 2**scale for n in self.grid)
            places = self._places(scale)[cell][..., None].expand_as(part)
            every = part.new_zeros(*part.shape[:2], y * x, part.shape[-1]).scatter(2, places, part)
            p = self.patch * 2**scale
            tiled = rearrange(every, "b f (y x) (c p q) -> b f c (y p) (x q)", y=y, p=p, q=p)
            frames = tiled if frames is None else frames + tiled
        assert frames is not None
        return frames

    def _places(self, scale: int) -> Tensor:
        """Return the places (m, n) int64 of a scale's patches in the grid of all patches of that width."""
        places: Tensor = getattr(self, f"places{scale}")
        return places

    def _middles(self, table: Sequence[Tensor]) -> Tensor:
        middles = []
        for scale, places in enumerate(table):
            columns = self.grid[1] // 2**scale
            corner = torch.stack((places // columns, places % columns), dim=-1) * 2**scale
            middles.append(corner + (2**scale - 1) / 2)
        return torch.cat(middles)


def check_sides(sides: Sequence[int]) -> None:
    """Raise ConfigError unless nested squares of so many fine patches a side can be tiled whatever their place is."""
    for scale, side in enumerate(sides):
        step = 2 ** (scale + 1)
        if side < 1 or side % step:
            raise ConfigError(f"square {scale} of a fovea must be a positive multiple of {step} patches, not {side}.")
        if scale and side < sides[scale - 1] + step:
            raise ConfigError(
                f"square {scale} of a fovea, {side} patches wide, must be {step} wider than the one in it, "
                f"{sides[scale - 1]}."
            )


def check_gaze(gaze: Tensor, rows: int) -> None:
    """Raise GazeError unless gazes are (rows, 2) float32, each in [0, 1], or NaN in both for none."""
    if not isinstance(gaze, Tensor) or tuple(gaze.shape) != (rows, 2) or gaze.dtype != torch.float32:
        found = f"{tuple(gaze.shape)} {gaze.dtype}" if isinstance(gaze, Tensor) else repr(gaze)
        raise GazeError(
            f"a gaze must be ({rows}, 2) float32, a row and a column in [0, 1] for each dream, not {found}."
        )
    wrong = ~(((gaze >= 0) & (gaze <= 1)).all(1) | gaze.isnan().all(1))
    if bool(wrong.any()):
        row = int(wrong.to(torch.uint8).argmax())
        raise GazeError(
            f"the gaze {gaze[row].tolist()} of row {row} lies outside the frame; give its row and column in [0, 1]."
        )


def _window_starts(size: int, sides: Sequence[int]) -> list[list[int]]:
    """Return, for each cell along an axis of so many fine patches, where its squares begin."""
    if not sides:
        return [[]]
    cells = []
    for first in range(0, size - sides[0] + 1, 2):
        starts = [first]
        for scale, (inner, outer) in enumerate(pairwise(sides), 1):
            step = 2 ** (scale + 1)
            middle = step * round((starts[-1] + (inner - outer) / 2) / step)
            starts.append(min(max(middle, 0), size - outer))
        cells.append(starts)
    return cells


def _tiles(grid: tuple[int, int], sides: Sequence[int], starts: tuple[list[int], list[int]]) -> list[Tensor]:
    """Return the places (n,) of each scale's patches among all of that width: those in its square and in none within.

    Squares begin at rows and columns ``starts``; that of the last scale is the frame.
    """
    left = torch.ones(grid, dtype=torch.bool)
    tiles = []
    for scale in range(len(sides) + 1):
        square = torch.ones(grid, dtype=torch.bool)
        if scale < len(sides):
            square = torch.zeros(grid, dtype=torch.bool)
            y, x = starts[0][scale], starts[1][scale]
            square[y : y + sides[scale], x : x + sides[scale]] = True
        step = 2**scale
        tiles.append((square & left)[::step, ::step].flatten().nonzero()[:, 0])
        left &= ~square
    return tiles

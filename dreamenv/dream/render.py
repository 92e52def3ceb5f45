"""Pictures of dreams: enlarged, next to their real start, tiled, and in a window."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from einops import rearrange, repeat
from numpy.typing import NDArray

from dreamenv.checks import check_whole
from dreamenv.extras import require

__all__ = ["Renderer", "Window", "check_scale", "enlarge", "side_by_side", "tile"]

Frames = NDArray[np.uint8]

_GAP = 2  # pixels between two pictures, before enlarging
_MOST_SCALE = 64
_WINDOW = 512  # pixels, about the height of a window on the screen


def check_scale(scale: int | None) -> int | None:
    """Return how many pixels show one, in 1 ... 64, or None.

    Raises:
        ConfigError: it is neither.
    """
    return None if scale is None else check_whole("render_scale", scale, most=_MOST_SCALE)


class Renderer:
    """Makes pictures, or shows them.

    Args:
        human: show in a window instead of returning.
        scale: pixels per pixel; None for 1, or what fits a window.
        frame_height: of one frame, in pixels.
        rate: frames per second, in hertz.
    """

    def __init__(self, *, human: bool, scale: int | None, frame_height: int, rate: float) -> None:
        self.scale = scale or (max(1, _WINDOW // frame_height) if human else 1)
        self._window = Window("dreamenv", rate) if human else None

    def __call__(self, frames: Frames, start: Frames | None = None) -> tuple[Frames, ...] | None:
        """Render frames (b, h, w, c), with the real frames they started with to their left if given."""
        pictures = enlarge(frames if start is None else side_by_side(start, frames), self.scale)
        if self._window is None:
            return tuple(pictures)
        self._window.show(tile(pictures))
        return None

    def close(self) -> None:
        """Close the window, if any."""
        if self._window is not None:
            self._window.close()


def side_by_side(left: Frames, right: Frames) -> Frames:
    """Put two batches of frames (b, h, w, c) side by side, with a grey gap."""
    gap = np.full((*left.shape[:2], _GAP, left.shape[3]), 128, dtype=np.uint8)
    return np.concatenate((left, gap, right), axis=2)


def enlarge(frames: Frames, scale: int) -> Frames:
    """Show every pixel of (b, h, w, c) as scale x scale pixels; one channel becomes three equal ones."""
    if frames.shape[-1] == 1:
        frames = repeat(frames, "b h w 1 -> b h w c", c=3)
    return repeat(frames, "b h w c -> b (h i) (w j) c", i=scale, j=scale).copy()


def tile(frames: Frames) -> Frames:
    """Lay (b, h, w, c) out as one picture (rows * h, columns * w, c), as square as can be."""
    columns = math.ceil(math.sqrt(len(frames)))
    rows = math.ceil(len(frames) / columns)
    empty = np.zeros((rows * columns - len(frames), *frames.shape[1:]), dtype=np.uint8)
    return rearrange(np.concatenate((frames, empty)), "(r q) h w c -> (r h) (q w) c", r=rows)


class Window:
    """A window on the screen, opened when the first picture is shown.

    Args:
        title: of the window.
        rate: pictures per second, in hertz; `show` waits to keep to it.

    Raises:
        MissingDependencyError: there is no pygame.
    """

    def __init__(self, title: str, rate: float) -> None:
        require("pygame", extra="play")
        import pygame

        self._pygame, self._title, self._rate = pygame, title, rate
        self._surface: Any = None
        self._clock: Any = None

    def show(self, picture: Frames) -> None:
        """Show a picture (h, w, 3)."""
        pygame = self._pygame
        if self._surface is None:
            pygame.display.init()
            self._surface = pygame.display.set_mode((picture.shape[1], picture.shape[0]))
            pygame.display.set_caption(self._title)
            self._clock = pygame.time.Clock()
        pygame.event.pump()
        pygame.surfarray.blit_array(self._surface, rearrange(picture, "h w c -> w h c"))
        pygame.display.flip()
        self._clock.tick(self._rate)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what makes it: a copy opens a window of its own."""
        return Window, (self._title, self._rate)

    def close(self) -> None:
        """Close the window, if it is open."""
        if self._surface is not None:
            self._pygame.display.quit()
            self._surface = None

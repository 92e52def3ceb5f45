"""Sizes of frames, and the one way in which native pictures become frames of them: area averaging."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamenv.errors import ConfigError

__all__ = ["SMALLEST", "height_and_width", "resize"]

SMALLEST, LARGEST = 8, 480  # pixels
WIDEST = 640  # MineRL's own width


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of frames of a size: one number for square ones, or a pair.

    Raises:
        ConfigError: a height outside 8 to 480 pixels, or a width outside 8 to 640.
    """
    square = isinstance(size, Integral)
    sides: Any = (size, size) if square else size
    if not isinstance(sides, Sequence) or len(sides) != 2 or not all(isinstance(side, Integral) for side in sides):
        raise ConfigError(f"size must be a whole number of pixels, or a pair (height, width), not {size!r}.")
    height, width = int(sides[0]), int(sides[1])
    if not (SMALLEST <= height <= LARGEST and SMALLEST <= width <= (LARGEST if square else WIDEST)):
        raise ConfigError(
            f"size must be from {SMALLEST} to {LARGEST} pixels, or such a height and a width of up to {WIDEST}, not "
            f"{size}."
        )
    return height, width


def resize(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Turn a picture (h, w, 1 or 3) uint8 into one of another size; what is enlarged becomes squares."""
    if picture.shape[:2] == (height, width):
        return picture
    grey = picture.shape[2] == 1
    image = Image.fromarray(picture[..., 0] if grey else picture).resize((width, height), Image.Resampling.BOX)
    resized: NDArray[np.uint8] = np.asarray(image)
    return resized[..., None] if grey else resized

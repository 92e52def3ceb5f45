"""Pictures of a private X display, read from the framebuffer that Xvfb maps into memory.

The screen is as wide as the picture and two strips higher: one above it, one below, in which the engine paints the
number of the step that it shows. The display copies a finished picture from top to bottom, so a picture is whole if the
lower strip showed the number before it was copied, and the upper one still did after.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["MARKERS", "STRIP", "Screen"]

STRIP = 8
"""Height of a strip, in pixels."""

MARKERS = 64
"""How many numbers a strip can show."""


class Screen:
    """The framebuffer of an Xvfb that runs with ``-fbdir``.

    Args:
        path: the file, in XWD format (big-endian header, 32 bits a pixel, blue first).
        side: height and width of the picture, in pixels.
    """

    def __init__(self, path: Path, side: int) -> None:
        with path.open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        header = struct.unpack(">25I", self._memory[:100])
        offset, stride = header[0] + header[19] * 12, header[12]
        pixels = np.frombuffer(self._memory, np.uint8, stride * (side + 2 * STRIP), offset)
        self._pixels = pixels.reshape(-1, stride // 4, 4)[:, :side]
        self._upper, self._lower = self._pixels[STRIP // 2, side // 2], self._pixels[-STRIP // 2, side // 2]

    def picture(self) -> NDArray[np.uint8]:
        """Copy what is on the screen now: (side, side, 3) uint8 RGB."""
        return self._pixels[STRIP:-STRIP, :, 2::-1].copy()

    def shows(self, number: int) -> bool:
        """Say whether the picture of this number is there: both strips show it."""
        colour = _colour(number)
        return bool((self._lower[:3] == colour).all() and (self._upper[:3] == colour).all())

    def is_past(self, number: int) -> bool:
        """Say whether the picture of this number was there and is no more: the upper strip has gone on by half."""
        later = _colour((number + MARKERS // 2) % MARKERS)
        return bool((self._lower[:3] == _colour(number)).all() and (self._upper[:3] == later).all())


def _colour(number: int) -> list[int]:
    """Blue, green, red."""
    return [85 * (number >> 4 & 3), 85 * (number >> 2 & 3), 85 * (number & 3)]

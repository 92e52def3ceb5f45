"""Read frames of a private X display from the framebuffer that Xvfb maps into memory.

The screen is as wide as the frame and two strips higher: the engine paints the number of the step into a strip above
the frame and one below it. The display copies a finished frame from top to bottom, so a frame is complete if the lower
strip showed the number before it was read, and the upper strip still showed it after.
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
"""The numbers that a strip can show: 0 to MARKERS - 1."""


class Screen:
    """The framebuffer of an Xvfb that runs with ``-fbdir``.

    Args:
        path: the file, in XWD format (big-endian header, 32 bits a pixel, blue first).
        size: height and width of the frame, in pixels.
    """

    def __init__(self, path: Path, size: int) -> None:
        with path.open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        header = struct.unpack(">25I", self._memory[:100])
        offset, stride = header[0] + header[19] * 12, header[12]
        pixels = np.frombuffer(self._memory, np.uint8, stride * (size + 2 * STRIP), offset)
        self._pixels = pixels.reshape(-1, stride // 4, 4)[:, :size]
        self._upper, self._lower = self._pixels[STRIP // 2, size // 2], self._pixels[-STRIP // 2, size // 2]

    def frame(self) -> NDArray[np.uint8]:
        """Copy the frame on the screen, (size, size, 3) uint8 RGB."""
        return self._pixels[STRIP:-STRIP, :, 2::-1].copy()

    def shows(self, number: int) -> bool:
        """Return whether both strips show a number, so that its frame is on the screen."""
        colour = _colour(number)
        return bool((self._lower[:3] == colour).all() and (self._upper[:3] == colour).all())

    def is_past(self, number: int) -> bool:
        """Return whether the frame of a number has been replaced: the upper strip shows half of `MARKERS` more."""
        later = _colour((number + MARKERS // 2) % MARKERS)
        return bool((self._lower[:3] == _colour(number)).all() and (self._upper[:3] == later).all())


def _colour(number: int) -> list[int]:
    """Return the blue, green and red of a number's strip."""
    return [85 * (number >> 4 & 3), 85 * (number >> 2 & 3), 85 * (number & 3)]

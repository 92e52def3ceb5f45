"""Detectors: find the objects of a task in single frames, by colour or by template.

A detector looks at frames of one size; larger ones are shrunk to it by area averaging. What it finds in a frame is an
array (k, 4) float64: row and column of the middle and area, all in pixels of that size, and the object's kind.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from dreamenv.errors import ConfigError, FrameError
from dreamenv.frames import frames_to_model, frames_to_numpy

__all__ = ["ColourDetector", "Detections", "Detector", "GridDetector", "match"]

Detections = npt.NDArray[np.float64]
"""(k, 4): row, column, area in pixels, and the index of the kind."""

Mask = npt.NDArray[np.bool_]
Channel = npt.NDArray[np.int64]

_NONE = np.zeros((0, 4))
_TOUCHING = np.ones((3, 3))  # diagonal neighbours touch
_BLOCK = 256  # frames shrunk at a time


@dataclass(frozen=True, kw_only=True)
class Detector(ABC):
    """Finds objects in frames; subclasses implement `find`.

    Attributes:
        kinds: names of the kinds of objects, in the plural.
        tolerance: pixels by which the middle of an object may be off and still be at the right place. For an object of
            a larger radius, that radius.
        size: height and width of the frames it looks at, in pixels.

    Raises:
        ConfigError: no kind, or a tolerance or size that is not positive.
    """

    kinds: tuple[str, ...]
    tolerance: float = 4.0
    size: int = 64

    def __post_init__(self) -> None:
        if not self.kinds or self.tolerance <= 0 or self.size < 1:
            raise ConfigError(
                f"a detector needs a kind, a positive tolerance and a positive size, not {self.kinds}, "
                f"{self.tolerance} and {self.size}."
            )

    def __call__(self, frames: npt.NDArray[np.uint8]) -> list[Detections]:
        """Return what is in each of the frames (n, h, w, 3) uint8.

        Raises:
            FrameError: frames of another shape, or smaller than ``size``.
        """
        return [self.find(frame) for frame in self.shrink(frames).astype(np.int64)]

    def shrink(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return frames (n, h, w, 3) as (n, size, size, 3), see `__call__`."""
        if frames.ndim != 4 or frames.shape[-1] != 3 or min(frames.shape[1:3]) < self.size:
            raise FrameError(
                f"this detector of {' and '.join(self.kinds)} needs frames (n, h, w, 3) of at least {self.size} x "
                f"{self.size} pixels, not {tuple(frames.shape)}. Record with size={self.size} or larger."
            )
        if frames.shape[1:3] == (self.size, self.size):
            return frames
        blocks = [
            frames_to_numpy(
                torch.nn.functional.interpolate(
                    frames_to_model(frames[first : first + _BLOCK]), (self.size, self.size), mode="area"
                )
            )
            for first in range(0, len(frames), _BLOCK)
        ]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.size, self.size, 3), np.uint8)

    @abstractmethod
    def find(self, frame: npt.NDArray[np.int64]) -> Detections:
        """Return what is in one frame, (size, size, 3), 0 to 255 (signed, so that channels can be subtracted)."""


@dataclass(frozen=True, kw_only=True)
class ColourDetector(Detector):
    """Finds connected pixels of an object's colours.

    Attributes:
        colours: each a function from red, green and blue, (size, size) int64, to a mask of the same shape. Pixels of
            any of them belong to an object, which needs at least one pixel of each.
        least, most: area of an object, in pixels.
        top: the first row in which an object may begin; things on the floor never reach above the horizon.
        elongation: the most that height and width may differ by, as a ratio.
        single: there is one such object: all its pixels belong to it, whether they touch or not.
    """

    colours: tuple[Callable[[Channel, Channel, Channel], Mask], ...]
    least: int = 2
    most: float = math.inf
    top: int = 0
    elongation: float = math.inf
    single: bool = False

    def find(self, frame: npt.NDArray[np.int64]) -> Detections:
        """Return the objects in one frame; see `Detector.find`."""
        red, green, blue = np.moveaxis(frame, -1, 0)
        masks = [colour(red, green, blue) for colour in self.colours]
        coloured = np.logical_or.reduce(masks)
        if not coloured.any():
            return _NONE
        labels = coloured.astype(np.int64) if self.single else ndimage.label(coloured, _TOUCHING)[0]
        found = []
        for number, place in enumerate(ndimage.find_objects(labels), 1):
            pixels = labels[place] == number
            area, (height, width) = int(pixels.sum()), pixels.shape
            if (
                self.least <= area <= self.most
                and place[0].start >= self.top
                and max(height / width, width / height) <= self.elongation
                and all((mask[place] & pixels).any() for mask in masks)
            ):
                rows, columns = np.nonzero(pixels)
                found.append((rows.mean() + place[0].start, columns.mean() + place[1].start, area, 0))
        return np.asarray(found, np.float64).reshape(-1, 4)


@dataclass(frozen=True, kw_only=True)
class GridDetector(Detector):
    """Finds objects that fill one cell of a grid, by correlation with their templates, so in any light.

    Attributes:
        templates: by kind, (cell, cell, 4) uint8 RGBA; pixels that are less than half opaque do not count.
        rows, columns: of the grid, from the frame's first pixel on.
        threshold: the correlation, at most 1, from which it is the object.
    """

    templates: Mapping[str, npt.NDArray[np.uint8]]
    rows: int
    columns: int
    threshold: float

    def find(self, frame: npt.NDArray[np.int64]) -> Detections:
        """Return the objects in one frame; see `Detector.find`."""
        side = len(self.templates[self.kinds[0]])
        cells = frame[: self.rows * side, : self.columns * side].reshape(self.rows, side, self.columns, side, 3)
        cells = cells.swapaxes(1, 2)
        scores = np.stack([_correlate(cells, self.templates[kind]) for kind in self.kinds])  # kinds rows columns
        kind, middle = scores.argmax(0), (side - 1) / 2
        found = [
            (row * side + middle, column * side + middle, side * side, kind[row, column])
            for row, column in zip(*np.nonzero(scores.max(0) > self.threshold), strict=True)
        ]
        return np.asarray(found, np.float64).reshape(-1, 4)


def match(truth: Detections, found: Detections, tolerance: float) -> int:
    """Count the objects that were found at their places: pairs of one kind, nearest first, each object once.

    Args:
        truth, found: see `Detections`.
        tolerance: pixels between the middles; for a true object of a larger radius, that radius.
    """
    if not len(truth) or not len(found):
        return 0
    apart = np.hypot(truth[:, None, 0] - found[None, :, 0], truth[:, None, 1] - found[None, :, 1])
    apart[truth[:, None, 3] != found[None, :, 3]] = np.inf
    reach = np.maximum(tolerance, np.sqrt(truth[:, 2] / np.pi))
    apart[apart > reach[:, None]] = np.inf
    count = 0
    while np.isfinite(nearest := apart.min()):
        row, column = np.argwhere(apart == nearest)[0]
        apart[row], apart[:, column] = np.inf, np.inf
        count += 1
    return count


def _correlate(cells: npt.NDArray[np.int64], template: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the correlation of cells (..., side, side, 3) with a template's opaque pixels, channel means removed."""
    opaque = template[..., 3] >= 128
    values = cells[..., opaque, :].astype(np.float64)  # ... pixels 3
    values -= values.mean(axis=-2, keepdims=True)
    wanted = template[opaque, :3].astype(np.float64)
    wanted -= wanted.mean(axis=0)
    norms = np.sqrt(np.square(values).sum((-2, -1)) * np.square(wanted).sum())
    scores: npt.NDArray[np.float64] = (values * wanted).sum((-2, -1)) / np.maximum(norms, 1e-9)
    return scores

"""A video as a stream of small frames: never more than one at a time in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray
from PIL import Image

from dreamenv.data.readers.source import Piece
from dreamenv.errors import RecordingError

__all__ = ["Video", "shrink", "strips"]

_AGAIN = "Download or copy it again, or leave it out."


class Video:
    """The first video stream of a file.

    Args:
        path: the file.

    Attributes:
        path: the file.
        frames: how many frames it holds, counted, not believed.

    Raises:
        RecordingError: missing, no video, or cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise RecordingError(f"there is no video {path}; the two files of a recording must lie side by side.")
        try:
            with av.open(str(path)) as container:
                stream = _stream(container, path)
                promised = stream.frames
                self.frames = sum(1 for packet in container.demux(stream) if packet.size)
        except FFmpegError as error:
            raise RecordingError(
                f"the video {path} cannot be read ({error.strerror}): it is cut short or no video. {_AGAIN}"
            ) from error
        if self.frames < promised:
            raise RecordingError(
                f"the video {path} is cut short: it should hold {promised} frames and has {self.frames}. {_AGAIN}"
            )
        if not self.frames:
            raise RecordingError(f"the video {path} holds no frame. {_AGAIN}")

    def read(self, first: int, last: int, shape: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
        """Yield frames ``first`` to ``last``, that one included, as (h, w, 3) uint8, shrunk by area averaging.

        Args:
            first, last: numbers of frames.
            shape: (h, w).

        Raises:
            RecordingError: a frame cannot be decoded.
        """
        number = -1
        try:
            with av.open(str(self.path)) as container:
                stream = _stream(container, self.path)
                for number, frame in enumerate(container.decode(stream)):
                    if number < first:
                        continue
                    picture: Any = frame.to_ndarray(format="rgb24")
                    yield shrink(picture, shape)
                    if number == last:
                        return
        except FFmpegError as error:
            raise RecordingError(
                f"the video {self.path} is damaged: its frame {number + 1} cannot be decoded ({error.strerror}). "
                f"{_AGAIN}"
            ) from error
        raise RecordingError(
            f"the video {self.path} is damaged: it ends after {number + 1} of {self.frames} frames. {_AGAIN}"
        )


def strips(
    frames: Iterator[NDArray[np.uint8]], pieces: Sequence[Piece], last: int | None = None
) -> Iterator[tuple[Piece, NDArray[np.uint8]]]:
    """Cut a stream of frames into the frames of pieces, (t + 1, h, w, 3) each, one after another.

    Args:
        frames: a stream that begins with the first frame of the first piece.
        pieces: rising; a piece may begin on the frame that the one before ended on.
        last: the last frame there is; it is repeated for what is beyond it. None if all are there.
    """
    number, seen = pieces[0][0], next(frames)
    for first, end in pieces:
        strip = np.empty((end - first + 1, *seen.shape), np.uint8)
        for row, wanted in enumerate(range(first, end + 1)):
            while number < (wanted if last is None else min(wanted, last)):
                number, seen = number + 1, next(frames)
            strip[row] = seen
        yield (first, end), strip


def _stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    if not container.streams.video:
        raise RecordingError(f"{path} holds no video. {_AGAIN}")
    return container.streams.video[0]


def shrink(frame: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring a frame (h, w, 3) or (h, w) to another (h, w) by area averaging."""
    if frame.shape[:2] == shape:
        return frame
    height, width = shape
    small: NDArray[np.uint8] = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))
    return small

"""Read a video as a stream of small frames, with one frame at a time in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray
from PIL import Image

from dreamenv.data.readers.source import Segment
from dreamenv.errors import RecordingError

__all__ = ["Video", "resize", "split_frames"]

_REMEDY = "Download or copy it again, or leave it out."


class Video:
    """The first video stream of a file.

    Args:
        path: the file.

    Attributes:
        path: the file.
        frames: the number of frames, counted, since headers can be wrong.
        shape: (h, w) of a frame, as its header says.

    Raises:
        RecordingError: the file is missing, is no video, or is cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise RecordingError(f"there is no video {path}; both files of a recording must be in one folder.")
        try:
            with av.open(str(path)) as container:
                stream = _stream(container, path)
                promised, self.shape = stream.frames, (int(stream.height), int(stream.width))
                self.frames = sum(1 for packet in container.demux(stream) if packet.size)
        except FFmpegError as error:
            raise RecordingError(
                f"the video {path} cannot be read ({error.strerror}): it is cut short or no video. {_REMEDY}"
            ) from error
        if self.frames < promised:
            raise RecordingError(
                f"the video {path} is cut short: it should hold {promised} frames and has {self.frames}. {_REMEDY}"
            )
        if not self.frames:
            raise RecordingError(f"the video {path} holds no frame. {_REMEDY}")

    def read(self, first: int, last: int, shape: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
        """Yield frames ``first`` to ``last``, inclusive, as (h, w, 3) uint8, resized by area averaging.

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
                    native: Any = frame.to_ndarray(format="rgb24")
                    yield resize(native, shape)
                    if number == last:
                        return
        except FFmpegError as error:
            raise RecordingError(
                f"the video {self.path} is damaged: its frame {number + 1} cannot be decoded ({error.strerror}). "
                f"{_REMEDY}"
            ) from error
        raise RecordingError(
            f"the video {self.path} is damaged: it ends after {number + 1} of {self.frames} frames. {_REMEDY}"
        )


def split_frames(
    frames: Iterator[NDArray[np.uint8]], segments: Sequence[Segment], last: int | None = None
) -> Iterator[tuple[Segment, NDArray[np.uint8]]]:
    """Split a stream of frames into segments; yield each with its frames, (t + 1, h, w, 3).

    Args:
        frames: a stream that starts with the first frame of the first segment.
        segments: in order; a segment may start with the last frame of the one before.
        last: the last frame of the stream, which is repeated beyond it; None if the stream has all frames.
    """
    number, seen = segments[0][0], next(frames)
    for first, end in segments:
        clip = np.empty((end - first + 1, *seen.shape), np.uint8)
        for row, wanted in enumerate(range(first, end + 1)):
            while number < (wanted if last is None else min(wanted, last)):
                number, seen = number + 1, next(frames)
            clip[row] = seen
        yield (first, end), clip


def _stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    if not container.streams.video:
        raise RecordingError(f"{path} holds no video. {_REMEDY}")
    return container.streams.video[0]


def resize(frame: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a frame (h, w, 3) or (h, w) to another (h, w) by area averaging."""
    if frame.shape[:2] == shape:
        return frame
    height, width = shape
    small: NDArray[np.uint8] = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))
    return small

"""TensorBoard: scalars, images and videos of a run.

Events are written at once, in the calling thread: TensorBoard's own writer has a thread, which on a full disk dies with
a traceback, and whose errors surface later, somewhere else.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dreamenv.storage import storage_errors
from dreamenv.training.video import gif_bytes

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger:
    """Log to the event file of one run, or to nothing: processes other than the main one log nowhere.

    Args:
        folder: where event files are written; None logs nowhere.
        resumed_at: what an interrupted run logged from this step on is hidden; None for a fresh run.

    Raises:
        StorageError: the disk refused, here or in any method.
    """

    def __init__(self, folder: Path | None, resumed_at: int | None = None) -> None:
        self._folder, self._file, self._records = folder, None, None
        if folder is None:
            return
        # Imported here because it is slow and only a training run needs it.
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        name = (
            f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        )
        with storage_errors(self._action()):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if resumed_at is not None:
            self._write(step=resumed_at, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log name -> value; names with a slash are grouped."""
        if self._file is not None:
            from tensorboard.compat.proto.summary_pb2 import Summary

            scalars = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
            self._write(step=step, summary=Summary(value=scalars))

    def image(self, name: str, image: npt.NDArray[np.uint8], step: int) -> None:
        """Log an image (h, w, c)."""
        if self._file is not None:
            from torch.utils.tensorboard.summary import image as image_summary

            self._write(step=step, summary=image_summary(name, image, dataformats="HWC"))

    def video(self, name: str, frames: npt.NDArray[np.uint8], frame_rate: float, step: int) -> None:
        """Log a video (t, h, w, c) as an animated GIF, which TensorBoard shows among the images."""
        if self._file is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(
            height=frames.shape[1],
            width=frames.shape[2],
            colorspace=frames.shape[3],
            encoded_image_string=gif_bytes(frames, frame_rate),
        )
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with storage_errors(self._action()):
                file.close()

    _file: IO[bytes] | None
    _records: Any

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        with storage_errors(self._action()):
            try:
                self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
                self._records.flush()
            except OSError:
                file, self._file = self._file, None
                if file is not None:
                    with suppress(OSError):  # what could not be written
                        file.close()
                raise

    def _action(self) -> str:
        return f"write TensorBoard's events to {self._folder}"

"""TensorBoard: scalars, images and videos of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dreamenv.errors import StorageError
from dreamenv.training.video import gif_bytes

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger:
    """Log to the event file of one run, or to nothing: processes other than the main one log nowhere.

    Args:
        folder: where event files are written; None logs nowhere.
        resumed_at: what an interrupted run logged from this step on is hidden; None for a fresh run.
    """

    def __init__(self, folder: Path | None, resumed_at: int | None = None) -> None:
        self._writer: Any = None
        if folder is not None:
            # Imported here because it is slow and only a training run needs it.
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=resumed_at)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log name -> value; names with a slash are grouped."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def image(self, name: str, image: npt.NDArray[np.uint8], step: int) -> None:
        """Log an image (h, w, c)."""
        if self._writer is not None:
            self._writer.add_image(name, image, step, dataformats="HWC")

    def video(self, name: str, frames: npt.NDArray[np.uint8], frame_rate: float, step: int) -> None:
        """Log a video (t, h, w, c) as an animated GIF, which TensorBoard shows among the images."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(
            height=frames.shape[1],
            width=frames.shape[2],
            colorspace=frames.shape[3],
            encoded_image_string=gif_bytes(frames, frame_rate),
        )
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def flush(self) -> None:
        """Write out what is buffered.

        Raises:
            StorageError: the disk refused.
        """
        if self._writer is not None:
            try:
                self._writer.flush()
            except OSError as error:
                raise StorageError(f"could not write TensorBoard events: {error}. Free some space.") from error

    def close(self) -> None:
        """Write out what is buffered and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

"""The trainer: stages and objectives of any backbone, interrupted and resumed without a trace.

Names are imported on first use, so that reading a configuration does not wait for the trainer's libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamenv.lazy import on_first_use

if TYPE_CHECKING:
    from dreamenv.training.config import TrainConfig
    from dreamenv.training.films import gif_bytes, write_mp4
    from dreamenv.training.trainer import train

__all__ = ["TrainConfig", "gif_bytes", "train", "write_mp4"]

__getattr__, __dir__ = on_first_use(
    __name__,
    {"TrainConfig": "config", "gif_bytes": "films", "train": "trainer", "write_mp4": "films"},
)

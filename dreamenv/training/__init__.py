"""Train world models: the stages and objectives of any backbone, resumed exactly after an interruption.

Names are imported on first use, so that reading a configuration does not wait for the trainer's libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamenv.lazy import on_first_use

if TYPE_CHECKING:
    from dreamenv.training.config import OptimizerConfig, TrainConfig
    from dreamenv.training.trainer import train
    from dreamenv.training.video import gif_bytes, write_mp4

__all__ = ["OptimizerConfig", "TrainConfig", "gif_bytes", "train", "write_mp4"]

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "OptimizerConfig": "config",
        "TrainConfig": "config",
        "gif_bytes": "video",
        "train": "trainer",
        "write_mp4": "video",
    },
)

"""Train world models: the stages and objectives of any backbone, resumed exactly after an interruption.

Names are imported on first use, so that reading a configuration does not wait for the trainer's libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamenv.lazy import on_first_use

if TYPE_CHECKING:
    from dreamenv.training.adapt_config import AdaptConfig, OnlineConfig
    from dreamenv.training.adaptation import adapt
    from dreamenv.training.config import OptimizerConfig, TrainConfig
    from dreamenv.training.online import OnlineWorld
    from dreamenv.training.trainer import train
    from dreamenv.training.video import gif_bytes, write_mp4

__all__ = [
    "AdaptConfig",
    "OnlineConfig",
    "OnlineWorld",
    "OptimizerConfig",
    "TrainConfig",
    "adapt",
    "gif_bytes",
    "train",
    "write_mp4",
]

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "AdaptConfig": "adapt_config",
        "OnlineConfig": "adapt_config",
        "OnlineWorld": "online",
        "OptimizerConfig": "config",
        "TrainConfig": "config",
        "adapt": "adaptation",
        "gif_bytes": "video",
        "train": "trainer",
        "write_mp4": "video",
    },
)

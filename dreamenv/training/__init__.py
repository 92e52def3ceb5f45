"""The trainer: stages and objectives of any backbone, interrupted and resumed without a trace.

Names are imported on first use, so that reading a configuration does not wait for the trainer's libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamenv.training.config import TrainConfig
    from dreamenv.training.films import gif_bytes, write_mp4
    from dreamenv.training.trainer import train

__all__ = ["TrainConfig", "gif_bytes", "train", "write_mp4"]

_WHERE = {"TrainConfig": "config", "gif_bytes": "films", "train": "trainer", "write_mp4": "films"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'dreamenv.training' has no attribute {name!r}. It offers: {', '.join(__all__)}.")
    return getattr(importlib.import_module(f"dreamenv.training.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

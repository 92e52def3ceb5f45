"""Worlds as Gymnasium environments.

Names are imported on first use, so that registering the ids does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamenv.dream.env import DreamEnv
    from dreamenv.dream.latents import LatentFilter, LatentObservation
    from dreamenv.dream.registration import register
    from dreamenv.dream.states import load_state, save_state
    from dreamenv.dream.vector_env import DreamVectorEnv

__all__ = [
    "DreamEnv",
    "DreamVectorEnv",
    "LatentFilter",
    "LatentObservation",
    "load_state",
    "register",
    "save_state",
]

_WHERE = {
    "DreamEnv": "env",
    "DreamVectorEnv": "vector_env",
    "LatentFilter": "latents",
    "LatentObservation": "latents",
    "load_state": "states",
    "register": "registration",
    "save_state": "states",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'dreamenv.dream' has no attribute {name!r}. It offers: {', '.join(__all__)}.")
    value = globals()[name] = getattr(importlib.import_module(f"dreamenv.dream.{_WHERE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

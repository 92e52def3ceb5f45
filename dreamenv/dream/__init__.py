"""Worlds as Gymnasium environments.

Names are imported on first use, so that registering the ids does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamenv.lazy import on_first_use

if TYPE_CHECKING:
    from dreamenv.dream.config import DreamConfig
    from dreamenv.dream.env import DreamEnv
    from dreamenv.dream.gaze import GazeAction
    from dreamenv.dream.latents import LatentFilter, LatentObservation
    from dreamenv.dream.registration import register
    from dreamenv.dream.states import load_state, save_state
    from dreamenv.dream.vector_env import DreamVectorEnv

__all__ = [
    "DreamConfig",
    "DreamEnv",
    "DreamVectorEnv",
    "GazeAction",
    "LatentFilter",
    "LatentObservation",
    "load_state",
    "register",
    "save_state",
]

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "DreamConfig": "config",
        "DreamEnv": "env",
        "DreamVectorEnv": "vector_env",
        "GazeAction": "gaze",
        "LatentFilter": "latents",
        "LatentObservation": "latents",
        "load_state": "states",
        "register": "registration",
        "save_state": "states",
    },
)

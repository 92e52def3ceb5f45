"""dreamenv: learned worlds that behave like Gymnasium environments.

``import dreamenv`` registers the environment ids and little else: torch, stable-baselines3 and ViZDoom are imported
when something needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamenv.lazy import on_first_use

if TYPE_CHECKING:
    from dreamenv.data.dataset import EpisodeDataset
    from dreamenv.dream.config import DreamConfig
    from dreamenv.dream.env import DreamEnv
    from dreamenv.dream.vector_env import DreamVectorEnv
    from dreamenv.envs.make import make_real
    from dreamenv.version import __version__
    from dreamenv.world import World

__all__ = [
    "DreamConfig",
    "DreamEnv",
    "DreamVectorEnv",
    "EpisodeDataset",
    "World",
    "__version__",
    "make_real",
]

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "DreamConfig": "dream.config",
        "DreamEnv": "dream.env",
        "DreamVectorEnv": "dream.vector_env",
        "EpisodeDataset": "data.dataset",
        "World": "world",
        "__version__": "version",
        "make_real": "envs.make",
    },
)


def _register() -> None:
    from dreamenv.dream.registration import register as register_dreams
    from dreamenv.envs.registration import register as register_real

    register_dreams()
    register_real()


_register()

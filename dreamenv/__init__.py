"""dreamenv: learned worlds that behave like Gymnasium environments.

``import dreamenv`` registers the environment ids and little else: torch, stable-baselines3 and ViZDoom are imported when
something needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamenv.data.dataset import EpisodeDataset
    from dreamenv.dream.env import DreamEnv
    from dreamenv.dream.vector_env import DreamVectorEnv
    from dreamenv.envs.make import make_real
    from dreamenv.world import World

    __version__: str

__all__ = ["DreamEnv", "DreamVectorEnv", "EpisodeDataset", "World", "__version__", "make_real"]

_WHERE = {
    "DreamEnv": "dreamenv.dream",
    "DreamVectorEnv": "dreamenv.dream",
    "EpisodeDataset": "dreamenv.data",
    "World": "dreamenv.world",
    "make_real": "dreamenv.envs",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import dreamenv`` stays fast."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("dreamenv")
    elif name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    else:
        raise AttributeError(f"module 'dreamenv' has no attribute {name!r}. It offers: {', '.join(__all__)}.")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    """Register the environment ids; idempotent."""
    for module in ("dreamenv.dream.registration", "dreamenv.envs.registration"):
        importlib.import_module(module).register()


import contextlib  # noqa: E402

with contextlib.suppress(ModuleNotFoundError):
    _register()

"""The environment ids of dreams. Importing this imports neither torch nor any model."""

from __future__ import annotations

import gymnasium as gym

from dreamenv.shipped import shipped_worlds

__all__ = ["DREAM_ID", "dream_id", "register"]

DREAM_ID = "dreamenv/Dream-v0"


def dream_id(name: str) -> str:
    """Return the id of dreams of a world in the package: that of ``take_cover`` is ``dreamenv/DreamTakeCover-v0``."""
    return f"dreamenv/Dream{name.title().replace('_', '')}-v0"


def register() -> None:
    """Register the ids, unless they are."""
    if DREAM_ID in gym.registry:
        return
    # No max_episode_steps: a scalar TimeLimit around a batch would end all rows together. The horizon is inside.
    for name, kwargs in {DREAM_ID: {}, **{dream_id(name): {"world": name} for name in shipped_worlds()}}.items():
        gym.register(
            id=name,
            entry_point="dreamenv.dream.env:DreamEnv",
            vector_entry_point="dreamenv.dream.vector_env:DreamVectorEnv",
            kwargs=kwargs,
        )

"""The environment ids of dreams. Importing this imports neither torch nor any model."""

from __future__ import annotations

import gymnasium as gym

__all__ = ["DREAM_ID", "register"]

DREAM_ID = "dreamenv/Dream-v0"


def register() -> None:
    """Register the ids, unless they are."""
    if DREAM_ID in gym.registry:
        return
    # No max_episode_steps: a scalar TimeLimit around a batch would end all rows together. The horizon is inside.
    gym.register(
        id=DREAM_ID,
        entry_point="dreamenv.dream.env:DreamEnv",
        vector_entry_point="dreamenv.dream.vector_env:DreamVectorEnv",
    )

"""Register the real environments with Gymnasium. Cheap: imports no simulator and no torch."""

from __future__ import annotations

import gymnasium as gym

from dreamenv.envs.families import FAMILIES

__all__ = ["register"]


def register() -> None:
    """Register the id of every real task; calling it again changes nothing."""
    for family in FAMILIES:
        for task in family.tasks.values():
            if task.id not in gym.registry:
                # No max_episode_steps: the limit depends on the frame skip, so the environment truncates itself.
                gym.register(
                    task.id,
                    entry_point="dreamenv.envs.make:build",
                    kwargs={"task": task.name},
                    disable_env_checker=True,
                )

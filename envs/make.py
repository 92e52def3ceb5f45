"""One way to make any real environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from dreamenv.envs.registration import register
from dreamenv.envs.tasks import full_id

__all__ = ["make_real"]


def make_real(
    id: str,
    *,
    size: int = 64,
    frame_skip: int = 4,
    reward: str | None = None,
    render_mode: str | None = None,
    **kwargs: Any,
) -> gym.Env[Any, Any]:
    """Make a real environment.

    Args:
        id: short name ("take_cover") or gymnasium id ("dreamenv/VizdoomTakeCover-v0").
        size: height and width of the frames, in pixels.
        frame_skip: native steps per action; rewards are summed over them.
        reward: a reward setting of the task; None for its default (see `dreamenv.envs.tasks`).
        render_mode: "rgb_array", "human" or None.
        kwargs: further arguments of the environment.

    Returns:
        An environment with (size, size, 3) uint8 RGB observations, Discrete actions with the no-op at 0, and a
        ``provenance`` attribute (``env.get_wrapper_attr("provenance")``).

    Raises:
        UnknownNameError: no such environment or reward; near names are suggested.
        ConfigError: a setting that cannot work.
    """
    register()
    settings = {"size": size, "frame_skip": frame_skip, "reward": reward, "render_mode": render_mode, **kwargs}
    return gym.make(full_id(id), **settings)

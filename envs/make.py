"""One way to make any real environment."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import gymnasium as gym
from gymnasium.utils.seeding import np_random

from dreamenv.envs.families import family_of, find_task
from dreamenv.envs.registration import register
from dreamenv.errors import ConfigError, UnavailableError

__all__ = ["build", "make_real"]


def make_real(
    id: str,
    *,
    size: int = 64,
    frame_skip: int | None = None,
    reward: str | None = None,
    seed: int | None = None,
    render_mode: str | None = None,
    **kwargs: Any,
) -> gym.Env[Any, Any]:
    """Make a real environment.

    Args:
        id: short name ("take_cover") or gymnasium id ("dreamenv/VizdoomTakeCover-v0").
        size: height and width of the frames, in pixels.
        frame_skip: native steps per action, over which rewards are summed; None for the task's own.
        reward: a reward setting of the task; None for its default.
        seed: of the first episode, for programs that never seed `reset` (a seed given there has the last word).
        render_mode: "rgb_array", "human" where there is a window, or None.
        kwargs: further arguments of the environment.

    Returns:
        An environment with (size, size, 3) uint8 RGB observations, Discrete actions with the no-op at 0, and a
        ``provenance`` attribute (``env.get_wrapper_attr("provenance")``).

    Raises:
        UnknownNameError: no such environment or reward; near names are suggested.
        UnavailableError: it cannot run on this machine; the message says which command makes it run.
        ConfigError: a setting that cannot work.
    """
    register()
    settings = {"size": size, "frame_skip": frame_skip, "reward": reward, "render_mode": render_mode, **kwargs}
    env = gym.make(find_task(id).id, **settings)
    if seed is not None:
        env.unwrapped.np_random = np_random(seed)[0]
    return env


def build(task: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make the environment of a task's short name; what the registered ids call.

    Raises:
        UnavailableError: its simulator is not here.
        ConfigError: an argument that it does not take.
    """
    family = family_of(find_task(task))
    missing = family.missing_for(task, kwargs)
    if missing is not None:
        raise UnavailableError(task, missing.what, missing.remedy)
    module, name = family.entry_point.split(":")
    make = getattr(importlib.import_module(module), name)
    unknown = sorted(kwargs.keys() - _arguments(make))
    if unknown:
        known = ", ".join(sorted(_arguments(make) - {"self", "task"}))
        raise ConfigError(f"{task} takes no argument {' nor '.join(unknown)}; it takes {known}.")
    env: gym.Env[Any, Any] = make(task, **kwargs)
    return env


def _arguments(make: type) -> set[str]:
    """Return the names of what a class and those it stands on take by name."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {
        name
        for base in make.__mro__
        if "__init__" in vars(base)
        for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items()
        if parameter.kind in kinds
    }

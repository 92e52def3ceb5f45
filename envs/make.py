"""Make any real environment by its id."""

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
        seed: of the first episode, for programs that never pass a seed to `reset` (a seed passed there overrides it).
        render_mode: "rgb_array", "human" where the simulator has a window, or None.
        kwargs: further arguments of the environment.

    Returns:
        An environment with (size, size, 3) uint8 RGB observations, Discrete actions with the no-op at 0, and a
        ``provenance`` attribute (``env.get_wrapper_attr("provenance")``).

    Raises:
        UnknownNameError: there is no such environment or reward; the message suggests similar names.
        UnavailableError: it cannot run on this machine; the message gives the command that installs what is missing.
        ConfigError: an argument is not valid.
    """
    register()
    settings = {"size": size, "frame_skip": frame_skip, "reward": reward, "render_mode": render_mode, **kwargs}
    env = gym.make(find_task(id).id, **settings)
    if seed is not None:
        env.unwrapped.np_random = np_random(seed)[0]
    return env


def build(task: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make the environment of a task's short name; the entry point of the registered ids.

    Raises:
        UnavailableError: its simulator is not installed.
        ConfigError: the environment has no such argument.
    """
    family = family_of(find_task(task))
    missing = family.missing_for(task, kwargs)
    if missing is not None:
        raise UnavailableError(task, missing.what, missing.remedy)
    module, name = family.entry_point.split(":")
    cls = getattr(importlib.import_module(module), name)
    unknown = sorted(kwargs.keys() - _keyword_names(cls))
    if unknown:
        known = ", ".join(sorted(_keyword_names(cls) - {"self", "task"}))
        raise ConfigError(f"{task} takes no argument {' nor '.join(unknown)}; it takes {known}.")
    env: gym.Env[Any, Any] = cls(task, **kwargs)
    return env


def _keyword_names(cls: type) -> set[str]:
    """Return the keyword arguments of a class and of its base classes."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {
        name
        for base in cls.__mro__
        if "__init__" in vars(base)
        for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items()
        if parameter.kind in kinds
    }

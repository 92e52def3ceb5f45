"""Make any real environment: the one door through which recordings, agents and the command line take them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.utils.seeding import np_random

from dreamenv.action_layout import ActionLayout
from dreamenv.checks import check_instance, check_whole, show
from dreamenv.data.provenance import Provenance
from dreamenv.envs.families import family_of, find_task, is_task
from dreamenv.envs.lookup import Maker, check_arguments, find_maker, is_registered, name_of
from dreamenv.envs.registration import register
from dreamenv.envs.wrapper import RENDER, RealWrapper, find_frames
from dreamenv.errors import ConfigError, UnavailableError

__all__ = ["EnvironmentMaker", "build", "full_id", "make_real"]

EnvironmentMaker: TypeAlias = "str | Callable[..., gym.Env[Any, Any]]"
"""A name (of a task, a gymnasium id, "package:id", "package:Class"), or a class or function that makes one."""


def make_real(
    environment: EnvironmentMaker,
    *,
    size: int | tuple[int, int] | None = None,
    frame_skip: int | None = None,
    frames: str | None = None,
    max_episode_steps: int | None = None,
    reward: str | None = None,
    seed: int | None = None,
    render_mode: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> gym.Env[Any, Any]:
    """Make a real environment.

    Args:
        environment: short name ("take_cover") or gymnasium id ("dreamenv/VizdoomTakeCover-v0") of a task; or any
            environment with images (uint8, (h, w, 3) or (h, w, 1)) or "rgb_array" rendering: a registered id
            ("CartPole-v1", "my_package:MyEnv-v0"), "package:Class", or a class or function that makes it. What such a
            function makes is taken as it is if it is a real environment already.
        size: height and width of the frames, in pixels; None for 64.
        frame_skip: native steps per action, over which rewards are summed; None for the task's own, else 1.
        frames: of other than the tasks: "render", or the entry of a Dict of observations; None for its image, else
            rendering.
        max_episode_steps: of other than the tasks: native steps until an episode is truncated; None for its own limit.
        reward: a reward setting of the task; None for its default.
        seed: of the first episode, for programs that never pass a seed to `reset` (a seed passed there overrides it).
        render_mode: "rgb_array", "human" where the simulator has a window, or None.
        env_kwargs: further arguments of the environment, for those whose names are taken here, such as ``size``.
        kwargs: further arguments of the environment.

    Returns:
        An environment with frames (size, size, 3 or 1) uint8 and a ``provenance`` attribute
        (``env.get_wrapper_attr("provenance")``). Tasks have RGB frames and Discrete actions with the no-op at 0.

    Raises:
        UnknownNameError: there is no such environment or reward; the message suggests similar names.
        UnavailableError: it cannot run on this machine; the message gives the command that installs what is missing.
        ConfigError: an argument is not valid, or the environment has no image or no actions that can be recorded.
    """
    register()
    _check_maker(environment)
    if seed is not None:
        seed = check_whole("seed", seed, least=0, most=2**63 - 1, also=", or None")
    if max_episode_steps is not None:
        max_episode_steps = check_whole("max_episode_steps", max_episode_steps, also=", or None")
    for name, value, kind in (("frames", frames, str), ("reward", reward, str), ("render_mode", render_mode, str)):
        if value is not None:
            check_instance(name, value, kind)
    if env_kwargs is not None:
        check_instance("env_kwargs", env_kwargs, Mapping)
    arguments = {**kwargs, **({} if env_kwargs is None else env_kwargs)}
    if reward is not None:
        arguments["reward"] = reward
    settings: dict[str, Any] = {
        name: value
        for name, value in (
            ("size", size),
            ("frame_skip", frame_skip),
            ("frames", frames),
            ("max_episode_steps", max_episode_steps),
        )
        if value is not None
    }
    if isinstance(environment, str) and is_task(environment):
        env = gym.make(find_task(environment).id, render_mode=render_mode, **settings, **arguments)
        if seed is not None:
            env.unwrapped.np_random = np_random(seed)[0]
        return env
    name, maker, arguments = _read(environment, arguments)
    if max_episode_steps is not None and is_registered(maker):
        maker = partial(maker, max_episode_steps=max_episode_steps)  # in place of the registered limit
    env = _open(name, maker, arguments, frames, render_mode)
    try:
        if _is_real(env):
            _check_real(env, name, settings)
            if seed is not None:
                env.unwrapped.np_random = np_random(seed)[0]
            return env
        if not isinstance(environment, str) and env.spec is not None:
            name = env.spec.id
        return RealWrapper(env, environment_id=name, env_kwargs=arguments, seed=seed, **settings)
    except BaseException:
        env.close()
        raise


def full_id(environment: EnvironmentMaker) -> str:
    """Return the id by which recordings know an environment.

    Raises:
        UnknownNameError, ConfigError: there is no such environment.
    """
    _check_maker(environment)
    if not isinstance(environment, str):
        return name_of(environment)
    if is_task(environment):
        return find_task(environment).id
    find_maker(environment)
    return environment


def _check_maker(environment: Any) -> None:
    if not isinstance(environment, str) and not callable(environment):
        what = "a name, or a class or function that makes one"
        raise ConfigError(f"a real environment must be given as {what}, not {show(environment)}.")


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


def _read(environment: Any, arguments: dict[str, Any]) -> tuple[str, Maker, dict[str, Any]]:
    """Return an environment's name, what makes it, and with which arguments."""
    if isinstance(environment, str):
        return environment, find_maker(environment), arguments
    if not callable(environment):
        raise ConfigError(
            f"a real environment is made by a name, a class or a function, since several copies are needed; this is "
            f"{environment!r}. Give its class, as in make_real(MyEnv, level=3), or a function: make_real(lambda: ...)."
        )
    if isinstance(environment, partial) and not environment.args:  # so that its arguments are known, too
        return name_of(environment), environment.func, {**environment.keywords, **arguments}
    return name_of(environment), environment, arguments


def _open(
    name: str, maker: Maker, arguments: Mapping[str, Any], frames: str | None, render_mode: str | None
) -> gym.Env[Any, Any]:
    """Make an environment; one whose frames are rendered is made for rendering."""
    mode = {} if render_mode is None else {"render_mode": render_mode}
    check_arguments(maker, {**arguments, **mode}, name)
    env = _call(name, maker, {**arguments, **mode})
    if _is_real(env) or env.render_mode == "rgb_array":
        return env
    try:
        rendered = find_frames(env.observation_space, frames, name) == RENDER
    except ConfigError:
        env.close()
        raise
    if not rendered:
        return env
    env.close()
    if "rgb_array" not in env.metadata.get("render_modes", ()):
        raise ConfigError(
            f"{name} has no image to record: it observes {env.observation_space} and does not render 'rgb_array'. Give "
            "it observations uint8 (height, width, 3), or a render() that returns such arrays, with 'rgb_array' among "
            "metadata['render_modes'] and an argument render_mode."
        )
    if render_mode is not None:
        raise ConfigError(f"{name}'s frames are rendered: render_mode must be 'rgb_array', not {render_mode!r}.")
    rendering = {**arguments, "render_mode": "rgb_array"}
    check_arguments(maker, rendering, name)
    return _call(name, maker, rendering)


def _call(name: str, maker: Maker, arguments: Mapping[str, Any]) -> gym.Env[Any, Any]:
    env = maker(**arguments)
    if not isinstance(env, gym.Env):
        raise ConfigError(f"{name} made a {type(env).__name__}, which is no gymnasium.Env.")
    return env


def _is_real(env: gym.Env[Any, Any]) -> bool:
    return env.has_wrapper_attr("provenance") and isinstance(env.get_wrapper_attr("provenance"), Provenance)


def _check_real(env: gym.Env[Any, Any], name: str, settings: Mapping[str, Any]) -> None:
    """Refuse an environment with a provenance of its own whose observations are no frames, and settings for it."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        raise ConfigError(f"{name} has a provenance, and observes {space}; frames are uint8 (height, width, channels).")
    ActionLayout(env.action_space)  # refuses what cannot be recorded
    if settings:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise ConfigError(f"{name} is a real environment already; give {given} to the function that makes it.")

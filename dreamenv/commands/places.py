"""Where a policy acts: a real environment by its name, or a world by its folder. Paths are looked at without torch."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from dreamenv.data.provenance import Provenance
from dreamenv.envs import full_id, make_real, task_names
from dreamenv.errors import ConfigError, WorldNotFoundError
from dreamenv.folders import check_world, is_world_name

if TYPE_CHECKING:
    from dreamenv.world import World

__all__ = ["RealSettings", "check_place", "find_place", "load_world", "real_maker"]


@dataclass(frozen=True, kw_only=True)
class RealSettings:
    """How a real environment is set up; None for the settings of the world or policy, or else the default.

    Attributes:
        size: height and width of the frames, in pixels (64 by default).
        frame_skip: native steps per action (4 by default).
        reward: a reward setting of the task, such as "medkit" of health_gathering; None for the task's first.
        config: of the task "vizdoom": a .cfg file, or the name of one of ViZDoom's own scenarios.
        env_kwargs: further arguments of the environment, a dictionary in JSON: '{"level": 3}'.
        frames: of an environment of your own: "render", or the entry of its Dict observations that is the image.
        max_episode_steps: of an environment of your own: its steps until an episode is truncated.
    """

    size: int | None = None
    frame_skip: int | None = None
    reward: str | None = None
    config: str | None = None
    env_kwargs: str | None = None
    frames: str | None = None
    max_episode_steps: int | None = None

    def given(self) -> dict[str, Any]:
        """Return the settings that are not None; a file by its absolute path, since workers have other folders."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if self.config is not None and Path(self.config).is_file():
            given["config"] = str(Path(self.config).resolve())
        if self.env_kwargs is not None:
            given["env_kwargs"] = _read_json(self.env_kwargs)
        return given


def real_maker(
    name: str, settings: RealSettings, provenance: Provenance | None = None
) -> Callable[[], gym.Env[Any, Any]]:
    """Return a picklable function that makes a real environment.

    Args:
        name: short name, gymnasium id, "package:id" or "package:Class"; a package may lie in the current folder.
        settings: those that were given.
        provenance: of the recording; its settings are the defaults, if it is the same environment.
    """
    if ":" in name and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does; worker processes take the path over
    identity = full_id(name)
    recorded = provenance.environment_kwargs if provenance and provenance.environment_id == identity else {}
    return functools.partial(make_real, identity, **{**recorded, **settings.given()})


def load_world(name: str | None, device: str = "cpu") -> World:
    """Load a world by what `World.load` takes; None is the one in the package."""
    from dreamenv.world import World

    return World.load("default" if name is None else name, device=device)


def check_place(name: str, settings: RealSettings) -> None:
    """Raise unless `find_place` will find what was named, as far as can be told without loading it.

    Raises:
        UnknownNameError, WorldNotFoundError, WorldDamagedError, ConfigError: see `find_place`.
    """
    if is_world_name(name):
        if settings.given():
            raise ConfigError(f"{', '.join(settings.given())} belong to real environments, and {name} is a world.")
        check_world(name)
    elif "/" in name and not name.startswith("dreamenv/") and ":" not in name and name not in gym.registry:
        raise WorldNotFoundError(f"no world at {name}. Real environments: {', '.join(task_names())}.")
    elif ":" not in name:  # a package may lie in a folder that is added to the path when it is made
        full_id(name)


def find_place(
    name: str, settings: RealSettings, provenance: Provenance | None = None, device: str = "cpu"
) -> World | Callable[[], gym.Env[Any, Any]]:
    """Return the world, or a function that makes the real environment, of this name.

    Raises:
        UnknownNameError: neither a real environment's name nor a path.
        WorldNotFoundError: a path without a world.
        ConfigError: settings of real environments for a dream.
    """
    check_place(name, settings)
    return load_world(name, device) if is_world_name(name) else real_maker(name, settings, provenance)


def _read_json(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--env-kwargs {text!r} is no JSON: {error}. Write it as '{{\"level\": 3}}'.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"--env-kwargs must be a dictionary in JSON, such as '{{\"level\": 3}}', not {text!r}.")
    return values

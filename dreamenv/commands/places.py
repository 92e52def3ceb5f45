"""Where a policy acts: a real environment by its name, or a world by its folder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamenv.data.provenance import Provenance
from dreamenv.envs import full_id, make_real, task_names
from dreamenv.errors import ConfigError, WorldNotFoundError

if TYPE_CHECKING:
    import gymnasium as gym

    from dreamenv.world import World

__all__ = ["RealSettings", "find_place", "is_world", "load_world", "real_maker", "within"]


@dataclass(frozen=True, kw_only=True)
class RealSettings:
    """How a real environment is set up; None for the settings of the world or policy, or else the default.

    Attributes:
        size: height and width of the frames, in pixels (64 by default).
        frame_skip: native steps per action (4 by default).
        reward: a reward setting of the task, such as "medkit" of health_gathering; None for the task's first.
        config: of the task "vizdoom": a .cfg file, or the name of one of ViZDoom's own scenarios.
    """

    size: int | None = None
    frame_skip: int | None = None
    reward: str | None = None
    config: str | None = None

    def given(self) -> dict[str, Any]:
        """Return the settings that are not None; a file by its absolute path, since workers have other folders."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if self.config is not None and Path(self.config).is_file():
            given["config"] = str(Path(self.config).resolve())
        return given


def real_maker(
    name: str, settings: RealSettings, provenance: Provenance | None = None
) -> Callable[[], gym.Env[Any, Any]]:
    """Return a picklable function that makes a real environment.

    Args:
        name: short name or gymnasium id.
        settings: those that were given.
        provenance: of the recording; its settings are the defaults, if it is the same environment.
    """
    identity = full_id(name)
    recorded = provenance.environment_kwargs if provenance and provenance.environment_id == identity else {}
    return functools.partial(make_real, identity, **{**recorded, **settings.given()})


def is_world(name: str) -> bool:
    """Tell whether a name is a world's: ``hf://...`` or a folder."""
    return name.startswith("hf://") or Path(name).is_dir()


def load_world(name: str | None, device: str = "cpu") -> World:
    """Load a world by its folder, the folder of the run that trained it, or ``hf://owner/name``.

    None is the world in the package.
    """
    from dreamenv.world import World

    if name is None:
        return World.default(device=device)
    return World.load(name if name.startswith("hf://") else within(name, "world"), device=device)


def within(folder: str | Path, kind: str) -> Path:
    """Return the folder of the "world" or "policy": the given one, or the one of a training run in it."""
    folder = Path(folder)
    inner = folder / kind
    return inner if (inner / f"{kind}.json").is_file() and not (folder / f"{kind}.json").is_file() else folder


def find_place(
    name: str, settings: RealSettings, provenance: Provenance | None = None, device: str = "cpu"
) -> World | Callable[[], gym.Env[Any, Any]]:
    """Return the world, or a function that makes the real environment, of this name.

    Raises:
        UnknownNameError: neither a real environment's name nor a path.
        WorldNotFoundError: a path without a world.
        ConfigError: settings of real environments for a dream.
    """
    if is_world(name):
        if settings.given():
            raise ConfigError(f"{', '.join(settings.given())} belong to real environments, and {name} is a world.")
        return load_world(name, device)
    if "/" in name and not name.startswith("dreamenv/"):
        raise WorldNotFoundError(f"no world at {name}. Real environments: {', '.join(task_names())}.")
    return real_maker(name, settings, provenance)

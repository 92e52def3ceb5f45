"""Find environments that others wrote: by a registered id, by "package:id", or by "package:Class"."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from dreamenv.envs.families import task_names
from dreamenv.errors import ConfigError, UnavailableError, UnknownNameError

__all__ = ["REMEDY", "Maker", "check_arguments", "find_maker", "is_registered", "name_of", "near_names"]

Maker = Callable[..., gym.Env[Any, Any]]
"""Makes an environment; a class, a function, or a `functools.partial` of one."""

REMEDY = (
    "`dreamenv doctor` lists dreamenv's. For one of your own, import the module that registers it, or write package:id "
    "or package:Class, such as my_package:MyEnv-v0."
)


def is_registered(maker: Maker) -> bool:
    """Tell whether `find_maker` found it among the registered ids."""
    return isinstance(maker, partial) and maker.func is _make_registered


def find_maker(name: str) -> Maker:
    """Return what makes the environment of a name, with arguments of its own.

    Args:
        name: a registered gymnasium id; or "package:id" or "package:Class", whose package is imported first.

    Raises:
        UnknownNameError: no such environment; the message says how to name one's own.
        ConfigError: the package cannot be imported.
    """
    module, _, rest = name.rpartition(":")
    content = _import(module, name) if module else None
    if rest in gym.registry:
        return partial(_make_registered, rest)
    maker = getattr(content, rest, None)
    if not callable(maker):
        raise UnknownNameError(
            "real environment", name, near_names(name) if content is None else _held(content), REMEDY
        )
    found: Maker = maker
    return found


def check_arguments(maker: Maker, arguments: Mapping[str, Any], name: str) -> None:
    """Refuse arguments that a maker does not take, before it is called.

    Raises:
        ConfigError: an argument is unknown, or one is missing.
        UnavailableError: it needs a package that is not installed.
    """
    creator: Callable[..., Any] = maker
    given = dict(arguments)
    if isinstance(maker, partial) and is_registered(maker):
        spec = gym.registry[maker.args[0]]
        if spec.entry_point is None:
            return
        with _needs_packages(spec.id):
            creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        given = {**spec.kwargs, **given}
    try:
        signature = inspect.signature(creator)
    except ValueError:  # of something that is not written in Python
        return
    try:
        signature.bind(**given)
    except TypeError as error:
        with_these = f"the arguments {given}" if given else "no arguments"
        raise ConfigError(f"{name} cannot be made with {with_these}: {error}. It takes {signature}.") from None


def name_of(maker: Maker) -> str:
    """Return "package:Class" of a class or function; a script goes by the name of its file."""
    while isinstance(maker, partial):
        maker = maker.func
    module = getattr(maker, "__module__", None) or type(maker).__module__
    if module in ("__main__", "__mp_main__"):  # in the script itself, and in the processes that it starts
        file = getattr(sys.modules.get(module), "__file__", None)
        module = Path(file).stem if file else "__main__"
    return f"{module}:{getattr(maker, '__qualname__', type(maker).__qualname__)}"


def _make_registered(id: str, **arguments: Any) -> gym.Env[Any, Any]:
    with _needs_packages(id):
        return gym.make(id, disable_env_checker=True, **arguments)  # frames and actions are checked by `RealWrapper`


@contextmanager
def _needs_packages(id: str) -> Iterator[None]:
    """Turn the error of a package that is not installed into ours."""
    try:
        yield
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise UnavailableError(id, f"it needs a package ({error})", "install that package") from error


def near_names(name: str) -> list[str]:
    """Return the registered ids that a name may have meant, else the tasks alone: hundreds of ids help nobody."""
    return difflib.get_close_matches(name, [*task_names(), *gym.registry], n=3, cutoff=0.6) or task_names()


def _held(module: ModuleType) -> list[str]:
    """Return the names of the environments that a module holds or has registered."""
    classes = [one for one in vars(module).values() if inspect.isclass(one) and issubclass(one, gym.Env)]
    ids = [id for id, spec in gym.registry.items() if str(spec.entry_point).split(":")[0] == module.__name__]
    own = [one.__name__ for one in classes if not one.__module__.startswith("gymnasium")]
    return [f"{module.__name__}:{one}" for one in (*ids, *own)] or ["none in that package"]


def _import(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"the package {module!r} of {name!r} cannot be imported: {error}. Install it, or run in the folder "
            "that holds it."
        ) from error

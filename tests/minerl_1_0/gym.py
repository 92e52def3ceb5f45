"""Fake of the old gym, for the fake of MineRL 1.0; it is not gym."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

__all__ = ["error", "make", "register"]

_makers: dict[str, Callable[[], Any]] = {}


class UnregisteredEnvError(Exception):
    """No environment of that name."""


error = types.SimpleNamespace(UnregisteredEnv=UnregisteredEnvError)


def register(name: str, maker: Callable[[], Any]) -> None:
    """Take note of an environment."""
    _makers[name] = maker


def make(name: str) -> Any:
    """Make an environment by its name."""
    if name not in _makers:
        raise UnregisteredEnvError(name)
    return _makers[name]()

"""What a real environment needs that is not part of dreamenv, and the command that brings it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

__all__ = ["Missing", "missing_package"]


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Something that is not here.

    Attributes:
        what: one clause, such as "the package minigrid is not installed".
        remedy: the command that brings it.
    """

    what: str
    remedy: str


def missing_package(package: str, remedy: str) -> Missing | None:
    """Say whether a Python package is missing, without importing it."""
    if importlib.util.find_spec(package) is not None:
        return None
    return Missing(what=f"the package {package} is not installed", remedy=remedy)

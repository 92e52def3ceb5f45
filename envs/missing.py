"""Check for the dependencies of real environments, and name the command that installs what is missing."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Missing", "combine", "missing_libraries", "missing_package"]


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A missing dependency.

    Attributes:
        what: one clause, such as "the package minigrid is not installed".
        remedy: the command that installs it.
    """

    what: str
    remedy: str


def missing_package(package: str, remedy: str) -> Missing | None:
    """Check for a Python package, without importing it."""
    if importlib.util.find_spec(package) is not None:
        return None
    return Missing(what=f"the package {package} is not installed", remedy=remedy)


def missing_libraries(names: Sequence[str], remedy: str) -> Missing | None:
    """Check that the system's loader can load shared libraries such as "libGL.so.1"."""
    absent = [name for name in names if not _loads(name)]
    if not absent:
        return None
    noun = "library" if len(absent) == 1 else "libraries"
    return Missing(what=f"the system's {noun} {', '.join(absent)} cannot be loaded", remedy=remedy)


def combine(*parts: Missing | None) -> Missing | None:
    """Merge several missing dependencies into one; None if nothing is missing."""
    found = [part for part in parts if part is not None]
    if not found:
        return None
    return Missing(
        what=" and ".join(part.what for part in found),
        remedy=" && ".join(dict.fromkeys(part.remedy for part in found)),
    )


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True

"""Packages that only an extra of dreamenv installs: looked for by the function that is about to import them."""

from __future__ import annotations

import importlib.util

from dreamenv.errors import MissingDependencyError

__all__ = ["require"]


def require(package: str, *, extra: str) -> None:
    """Refuse to go on without an optional package; looks for it, and imports nothing.

    Args:
        package: the name it is imported by.
        extra: the extra of dreamenv that installs it.

    Raises:
        MissingDependencyError: it is not installed; the message says how to install it.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(package, extra)

"""Check for optional packages, which only an extra of dreamenv installs, before they are imported.

``pip install 'dreamenv[extra]'``, as errors say, completes the dreamenv that is installed, from a clone or otherwise.
"""

from __future__ import annotations

import importlib.util

from dreamenv.errors import MissingDependencyError

__all__ = ["require"]


def require(package: str, *, extra: str) -> None:
    """Raise unless an optional package is installed; imports nothing.

    Args:
        package: the name it is imported by.
        extra: the extra of dreamenv that installs it.

    Raises:
        MissingDependencyError: it is not installed; the message says how to install it.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(package, extra)

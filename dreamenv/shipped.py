"""The worlds that ship in the package, by name. Importing this imports nothing else of the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["DEFAULT_WORLD", "shipped_worlds"]

DEFAULT_WORLD = "take_cover"
"""The world that is used when none is named, or "default"."""


def shipped_worlds() -> dict[str, Path]:
    """Return the folders of the worlds that ship with dreamenv, by name."""
    folder = _shipped_folder()
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()} if folder.is_dir() else {}


def _shipped_folder() -> Path:
    return Path(str(files("dreamenv"))) / "worlds"

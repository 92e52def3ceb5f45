"""The folder of a world: written atomically, every file checked against its hash, no pickle.

::

    world.json          format version, backbone, spec, provenance, record, metrics, the hash of each other file, and a
                        checksum of all that
    model.safetensors   parameters and buffers
    starts/             short real segments that dreams start from
    README.md           a model card, made from world.json; may be edited
"""

from __future__ import annotations

import contextlib
import difflib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dreamenv.errors import WorldDamagedError, WorldNotFoundError, WorldVersionError
from dreamenv.storage import FolderFormat, read_json

__all__ = ["CARD", "DESCRIPTION", "MODEL", "REMEDY", "STARTS", "WORLD", "read_description", "require_world"]

DESCRIPTION, MODEL, STARTS, CARD = "world.json", "model.safetensors", "starts", "README.md"
REMEDY = "Copy the world again, whole."

WORLD = FolderFormat(
    kind="world",
    manifest=DESCRIPTION,
    version=1,
    missing=WorldNotFoundError,
    damaged=WorldDamagedError,
    newer=WorldVersionError,
    remedy=REMEDY,
    unchecked=frozenset({CARD}),
)


def read_description(path: Path, known: dict[str, Path]) -> dict[str, Any]:
    """Check the folder of a world against its hashes, and return the contents of world.json.

    Args:
        path: the folder.
        known: other worlds by name, to suggest when there is none here.

    Raises:
        WorldNotFoundError, WorldDamagedError, WorldVersionError: see `dreamenv.errors`.
    """
    require_world(path, known)
    return WORLD.read(path)


def require_world(path: Path, known: dict[str, Path]) -> None:
    """Raise unless a folder has a world.json; arguments are those of `read_description`.

    Raises:
        WorldNotFoundError, WorldDamagedError: see `dreamenv.errors`.
    """
    if not (path / DESCRIPTION).is_file():
        if (path / MODEL).exists():
            raise WorldDamagedError(f"{path / DESCRIPTION} is missing. {REMEDY}")
        raise WorldNotFoundError(f"there is no world at {path}. {_suggestion(path, known)}")
    values = read_json(path / DESCRIPTION, WorldDamagedError, REMEDY)
    settings = values.get("backbone")
    if isinstance(settings, dict) and "backbone" in settings:  # now its kind
        made_by, ours = values.get("dreamenv", "0.1.0"), version("dreamenv")
        raise WorldVersionError(
            f"{path} was made by dreamenv {made_by}, before worlds were put together from parts; dreamenv {ours} "
            "cannot read it. Train it again from its recording, or import its published weights again."
        )


def _suggestion(path: Path, known: dict[str, Path]) -> str:
    nearby: dict[str, str] = {name: name for name in known}
    with contextlib.suppress(OSError):
        for sibling in path.parent.iterdir():
            if (sibling / DESCRIPTION).is_file() and not sibling.name.startswith("."):
                nearby[sibling.name] = str(sibling)
    near = difflib.get_close_matches(path.name, nearby, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(nearby[name] for name in near)}?"
    if nearby:
        return f"Worlds nearby: {', '.join(sorted(nearby.values()))}."
    return "Train one with `dreamenv train`, or give the path of a folder that has a world.json."

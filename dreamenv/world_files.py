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
from pathlib import Path
from typing import Any

from dreamenv.errors import WorldDamagedError, WorldNotFoundError, WorldVersionError
from dreamenv.storage import FolderFormat

__all__ = ["CARD", "DESCRIPTION", "MODEL", "REMEDY", "STARTS", "WORLD", "read_description"]

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
    if not (path / DESCRIPTION).is_file():
        if (path / MODEL).exists():
            raise WorldDamagedError(f"{path / DESCRIPTION} is missing. {REMEDY}")
        raise WorldNotFoundError(f"there is no world at {path}. {_suggestion(path, known)}")
    return WORLD.read(path)


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

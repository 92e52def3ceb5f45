"""The folder a world lives in: whole or not there, every file of weight checked against its hash, no pickle.

::

    world.json          format version, backbone, spec, provenance, record, metrics, and the hash of each other file
    model.safetensors   parameters and buffers
    starts/             short real segments that dreams start from
    README.md           a model card, made from world.json; yours to edit
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dreamenv.errors import StorageError, WorldDamagedError, WorldNotFoundError, WorldVersionError

__all__ = ["CARD", "DESCRIPTION", "FORMAT", "MODEL", "STARTS", "read_description", "write_folder"]

FORMAT = 1
"""The version of this layout; a higher one is refused."""

DESCRIPTION, MODEL, STARTS, CARD = "world.json", "model.safetensors", "starts", "README.md"
_UNCHECKED = {DESCRIPTION, CARD}


def write_folder(path: Path, write: Callable[[Path], dict[str, Any]]) -> None:
    """Make the folder of a world, replacing a world that is there already, or change nothing at all.

    Args:
        path: where.
        write: fills an empty folder with all but world.json, and returns the contents of that.

    Raises:
        StorageError: the disk refused, or something that is no world is in the way.
    """
    if path.exists() and not (path / DESCRIPTION).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise StorageError(f"{path} exists and is no world; it was left alone. Choose another path.")
    # Beside the target, so that renaming does not cross file systems; hidden, so that it is not taken for a world.
    unfinished = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished"
    try:
        unfinished.mkdir(parents=True)
        description = write(unfinished)
        files = {
            file.relative_to(unfinished).as_posix(): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
            for file in sorted(unfinished.rglob("*"))
            if file.is_file() and file.name not in _UNCHECKED
        }
        text = json.dumps({"format": FORMAT, **description, "files": files}, indent=1)
        (unfinished / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        for file in unfinished.rglob("*"):
            _flush(file)
        _exchange(unfinished, path)
    except StorageError:
        raise
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in words alone
        number, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or error
        raise StorageError(
            number, f"the world could not be written ({reason}); nothing was changed", str(path)
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read_description(path: Path, known: dict[str, Path]) -> dict[str, Any]:
    """Check the folder of a world against its hashes, and return the contents of world.json.

    Args:
        path: the folder.
        known: other worlds by name, to suggest when there is none here.

    Raises:
        WorldNotFoundError, WorldDamagedError, WorldVersionError: see `dreamenv.errors`.
    """
    file = path / DESCRIPTION
    if not file.is_file():
        if (path / MODEL).exists():
            raise WorldDamagedError(f"{file} is missing. Copy the world again, whole.")
        raise WorldNotFoundError(f"there is no world at {path}. {_suggestion(path, known)}")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        version = int(description["format"])
        if version <= FORMAT:
            expected = {name: str(facts["sha256"]) for name, facts in description["files"].items()}
            _ = description["backbone"], description["spec"], expected[MODEL]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorldDamagedError(f"{file} cannot be read ({error!r}). Copy the world again, whole.") from error
    if version > FORMAT:
        raise WorldVersionError(
            f"{path} has format {version}, and this dreamenv reads up to {FORMAT}. Upgrade: pip install -U dreamenv"
        )
    for name, digest in expected.items():
        part = path / name
        if not part.resolve().is_relative_to(path.resolve()) and not part.is_symlink():
            raise WorldDamagedError(f"{file} names a file outside the world: {name!r}.")
        if not part.is_file():
            raise WorldDamagedError(f"{part} is missing. Copy the world again, whole.")
        if _sha256(part) != digest:
            raise WorldDamagedError(f"{part} was cut short or altered: its hash is not that of {DESCRIPTION}.")
    return dict(description)


def _suggestion(path: Path, known: dict[str, Path]) -> str:
    there: dict[str, str] = {name: name for name in known}
    with contextlib.suppress(OSError):
        for sibling in path.parent.iterdir():
            if (sibling / DESCRIPTION).is_file() and not sibling.name.startswith("."):
                there[sibling.name] = str(sibling)
    near = difflib.get_close_matches(path.name, there, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(there[name] for name in near)}?"
    if there:
        return f"Worlds nearby: {', '.join(sorted(there.values()))}."
    return "Train one with `dreamenv train`, or give the path of a folder that has a world.json."


def _exchange(new: Path, path: Path) -> None:
    """Put ``new`` at ``path``. What was there goes only once the new one is in place."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        new.rename(path)
    else:
        old = new.with_suffix(".old")
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Make sure that the disk has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

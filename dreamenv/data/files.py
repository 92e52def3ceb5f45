"""Writing so that a file or folder is whole on disk or absent, whenever the process is killed or the disk is full."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreamenv.errors import StorageError

__all__ = ["move_into_place", "read_json", "storage_errors", "sync_folder", "write_file", "write_json"]


@contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Turn the operating system's refusals into StorageError: "could not <action>: <why>"."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        remedy = {
            errno.ENOSPC: "Free some space and run it again",
            errno.EDQUOT: "Free some space and run it again",
            errno.EROFS: "Choose a folder that can be written",
            errno.EACCES: "Choose a folder that can be written",
        }.get(error.errno or 0, "Run it again when that is mended")
        raise StorageError(
            error.errno, f"could not {action}: {error.strerror or error}. {remedy}; what was there before is unharmed."
        ) from error


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, values: Any) -> None:
    """Replace a JSON file in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_file(draft, json.dumps(values).encode())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON object.
    """
    values = json.loads(path.read_bytes())
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a JSON object.")
    return values


def move_into_place(draft: Path, final: Path) -> bool:
    """Give a finished folder its name; False, leaving both as they are, if that name is taken by a filled folder."""
    try:
        draft.rename(final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    sync_folder(final.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

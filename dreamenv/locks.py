"""Keep two processes from training in one folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamenv.errors import FolderInUseError
from dreamenv.storage import locked, storage_errors

__all__ = ["locked_run"]


@contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Keep a second training out of a run's folder, which is made; the lock ends with this process, however it ends.

    Raises:
        FolderInUseError: another process trains there.
        StorageError: the folder cannot be written.
    """
    with storage_errors(f"write to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    busy = FolderInUseError(f"another process trains in {folder}; wait for it, or choose another folder.")
    with locked(folder / ".lock", busy):
        yield

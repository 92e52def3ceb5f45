"""The disk's refusals as typed errors, locks, and digests."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from dreamenv.errors import DreamenvError, StorageError

__all__ = ["file_digest", "flush", "flush_all", "locked", "refuse_malformed", "storage_errors"]

_MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # RecursionError too
    SafetensorError,
    TypeError,
    ValueError,
)


@contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Turn OSErrors into StorageError: "could not <action>: <why>. <What to do>"."""
    try:
        yield
    except DreamenvError:  # which may be an OSError too
        raise
    except (OSError, SafetensorError, NotImplementedError) as error:
        match = re.search(r"os error (\d+)", str(error))  # safetensors reports a full disk in its message alone
        number = getattr(error, "errno", None) or (int(match[1]) if match else None)
        remedy = {
            errno.ENOSPC: "Free some space and run it again",
            errno.EDQUOT: "Free some space and run it again",
            errno.EROFS: "Choose a folder that can be written",
            errno.EACCES: "Choose a folder that can be written",
            errno.EPERM: "Choose a folder that can be written",
            errno.ENOTDIR: "Choose another path",
            errno.EISDIR: "Choose another path",
            errno.EEXIST: "Choose another path",
            errno.ENAMETOOLONG: "Choose a shorter name",
        }.get(number or 0, "Run it again when that is fixed")
        why = getattr(error, "strerror", None) or error
        raise StorageError(
            number, f"could not {action}: {why}. {remedy}; what was there before is unharmed."
        ) from error
    except ValueError as error:
        if "null byte" not in str(error) and "null character" not in str(error):
            raise
        raise StorageError(f"could not {action!r}: a path cannot hold a zero byte. Choose another path.") from error


@contextmanager
def refuse_malformed(
    error: type[DreamenvError], what: str, remedy: str, *, passing: tuple[type[DreamenvError], ...] = ()
) -> Iterator[None]:
    """Turn whatever Python raises on values that are not what they should be into ``error``.

    Args:
        error: what to raise; errors of this type pass unchanged.
        what: that is read: "the spec of runs/world".
        remedy: the advice, a sentence.
        passing: other errors that pass unchanged.
    """
    try:
        yield
    except (error, *passing):
        raise
    except _MALFORMED as problem:
        if isinstance(problem, RecursionError):
            why = "it is nested too deeply"
        elif isinstance(problem, MemoryError):
            why = "it asks for more memory than there is"
        else:
            why = f"{type(problem).__name__}: {problem}" if isinstance(problem, KeyError) else str(problem)
        raise error(f"{what} is damaged, it cannot be read ({why[:500]}). {remedy}") from problem


@contextmanager
def locked(path: Path, busy: DreamenvError | None = None) -> Iterator[None]:
    """Hold the lock of a file, which is made; it ends with this process, however that ends.

    Args:
        path: of the lock file.
        busy: what to raise if another process holds the lock; None waits for it.

    Raises:
        busy: another process holds it.
        StorageError: the lock file cannot be made.
    """
    lock = FileLock(path)
    with storage_errors(f"lock {path}"):
        try:
            lock.acquire(blocking=busy is None)
        except Timeout:
            assert busy is not None
            raise busy from None
    try:
        yield
    finally:
        lock.release()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_all(folder: Path) -> None:
    """Wait until a folder and all in it are on the disk."""
    for path in (*folder.rglob("*"), folder):
        flush(path)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    if os.name != "posix" and path.is_dir():
        return  # elsewhere folders cannot be opened
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

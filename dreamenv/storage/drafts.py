"""Files and folders that are drafted next to their target, and take its place in one step.

A draft is a hidden folder, ``.<name>.part``, which its writer locks. What a killed process left there is cleared by the
next one that writes to the same target.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dreamenv.storage.disk import flush, flush_all, storage_errors

if sys.platform != "win32":
    import fcntl

__all__ = ["atomic_file", "atomic_folder", "draft_folder", "move_into_place", "recover"]

_HERE = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, and RENAME_SWAP of macOS


@contextmanager
def atomic_file(path: Path, what: str = "the file") -> Iterator[Path]:
    """Yield the path of a draft to write; afterwards it replaces ``path`` in one step, or after an error is gone.

    The draft has the name of ``path``, by whose ending some writers know what to write.

    Raises:
        StorageError: the disk refused; ``what`` says what the file is, such as "the video".
    """
    with storage_errors(f"write {what} {path}"):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target = _target(path)
        with draft_folder(path) as folder:
            draft = folder / target.name
            yield draft
            flush(draft)
            draft.replace(target)
            flush(target.parent)


@contextmanager
def atomic_folder(path: Path, what: str = "the folder") -> Iterator[Path]:
    """Yield a draft of a folder to fill; afterwards it replaces ``path``, or after an error is gone.

    What was at ``path`` is deleted only when the new folder is in its place.

    Raises:
        StorageError: the disk refused; ``what`` says what the folder is, such as "the world".
    """
    with storage_errors(f"write {what} {path}"), draft_folder(path) as draft:
        yield draft
        flush_all(draft)
        target = _target(path)
        _take_place(draft, target)
        flush(target.parent)


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder next to ``path``; it is deleted afterwards unless it was moved."""
    target = _target(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft, handle = _open_draft(target)
    try:
        yield draft
    finally:
        if handle is None or _is_at(handle, draft):
            shutil.rmtree(draft, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def move_into_place(draft: Path, final: Path) -> bool:
    """Give a finished folder its name; False, leaving both as they are, if that name is taken by a filled folder.

    Raises:
        OSError: the disk refused.
    """
    flush_all(draft)
    try:
        draft.rename(final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    flush(final.parent)
    return True


def recover(path: Path) -> None:
    """Put back the folder that was at ``path``, if a process died while replacing it where that takes two steps."""
    with suppress(OSError, ValueError):  # of a path that holds nothing at all
        target = _target(path)
        if not os.path.lexists(target) and _aside(target).is_dir():
            _aside(target).rename(target)


def _target(path: Path) -> Path:
    """Return where a path leads: what a link points to is replaced, not the link."""
    target = Path(os.path.realpath(path))
    if not target.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return target


def _open_draft(target: Path) -> tuple[Path, int | None]:
    """Make a draft folder, or clear the one of a killed process; return it and the handle that locks it."""
    if sys.platform == "win32":  # where folders cannot be locked
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        draft.mkdir()
        return draft, None
    for number in itertools.count():
        draft = target.with_name(f".{target.name}.{number}.part" if number else f".{target.name}.part")
        draft.mkdir(exist_ok=True)
        try:
            handle = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # its writer has just finished
            continue
        if _lock(handle) and _is_at(handle, draft):
            for leftover in draft.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
            return draft, handle
        os.close(handle)
    raise AssertionError("unreachable")


def _lock(handle: int) -> bool:
    """Lock an open folder until it is closed; False if another writer holds the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Tell whether an open folder is the one at a path."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


def _take_place(draft: Path, target: Path) -> None:
    """Give a draft its target's name; what was there is deleted."""
    recover(target)
    try:
        draft.rename(target)  # over nothing, or over an empty folder
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if sys.platform == "win32":
        _replace_in_two_steps(draft, target)
        return
    old = os.open(target, os.O_RDONLY)  # locked, so that nobody takes it for a draft that was left behind
    try:
        _lock(old)
        if not _exchange(draft, target):
            _replace_in_two_steps(draft, target)
        elif _is_at(old, draft):
            shutil.rmtree(draft, ignore_errors=True)
    finally:
        os.close(old)


def _replace_in_two_steps(draft: Path, target: Path) -> None:
    """Move what is at the target aside and the draft there; `recover` undoes the first step without the second."""
    aside = _aside(target)
    shutil.rmtree(aside, ignore_errors=True)
    target.rename(aside)
    try:
        draft.rename(target)
    except OSError:
        recover(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one step; False where the system or the file system cannot."""
    call = _exchange_call()
    if call is None:
        return False
    if call(os.fsencode(first), os.fsencode(second)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(second))


@functools.cache
def _exchange_call() -> Callable[[bytes, bytes], int] | None:
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):
        return lambda first, second: int(library.renameat2(_HERE, first, _HERE, second, ctypes.c_uint(_EXCHANGE)))
    if hasattr(library, "renamex_np"):
        return lambda first, second: int(library.renamex_np(first, second, ctypes.c_uint(_EXCHANGE)))
    return None

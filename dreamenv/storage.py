"""Atomic writes, and reads that verify checksums.

Writing: a file or a folder is drafted under a hidden name next to its target, flushed, and moved there in one step.
A killed process or a full disk leaves what was there before.

Reading: a folder's manifest, a JSON file, holds the SHA-256 of every other file (``files``) and of itself
(``checksum``), so that truncated or altered files are refused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from dreamenv.errors import DreamenvError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FolderFormat",
    "atomic_file",
    "atomic_folder",
    "draft_folder",
    "file_digest",
    "locked",
    "move_into_place",
    "read_json",
    "read_sealed_tensors",
    "read_tensors",
    "seal",
    "storage_errors",
    "unseal",
    "write_file",
    "write_json",
    "write_sealed_tensors",
    "write_tensors",
]

_CHECKSUM = "checksum"
_NO_CHECKSUM = "0" * 64  # stands in a file of tensors while its own checksum is taken
_CHECKSUM_IN_HEADER = re.compile(rb'"checksum":"([0-9a-f]{64})"')


@contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Turn OSErrors into StorageError: "could not <action>: <why>. <What to do>"."""
    try:
        yield
    except DreamenvError:  # which may be an OSError too
        raise
    except (OSError, SafetensorError) as error:
        match = re.search(r"os error (\d+)", str(error))  # safetensors reports a full disk in its message alone
        number = getattr(error, "errno", None) or (int(match[1]) if match else None)
        remedy = {
            errno.ENOSPC: "Free some space and run it again",
            errno.EDQUOT: "Free some space and run it again",
            errno.EROFS: "Choose a folder that can be written",
            errno.EACCES: "Choose a folder that can be written",
        }.get(number or 0, "Run it again when that is fixed")
        why = getattr(error, "strerror", None) or error
        raise StorageError(
            number, f"could not {action}: {why}. {remedy}; what was there before is unharmed."
        ) from error


@contextmanager
def atomic_file(path: Path, what: str = "the file") -> Iterator[Path]:
    """Yield the path of a draft to write; afterwards it replaces ``path`` in one step, or after an error is gone.

    Raises:
        StorageError: the disk refused; ``what`` says what the file is, such as "the video".
    """
    draft = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    with storage_errors(f"write {what} {path}"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield draft
            _flush(draft)
            draft.replace(path)
            _flush(path.parent)
        except BaseException:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(path: Path, what: str = "the folder") -> Iterator[Path]:
    """Yield a draft of a folder to fill; afterwards it replaces ``path``, or after an error is gone.

    What was at ``path`` is deleted only when the new folder is in its place.

    Raises:
        StorageError: the disk refused; ``what`` says what the folder is, such as "the world".
    """
    with storage_errors(f"write {what} {path}"), draft_folder(path) as draft:
        yield draft
        _flush_all(draft)
        old = draft.with_suffix(".old")
        if path.exists():
            path.rename(old)
        try:
            draft.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
        _flush(path.parent)


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder next to ``path``; it is deleted afterwards unless it was moved."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        draft.mkdir(parents=True)
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def move_into_place(draft: Path, final: Path) -> bool:
    """Give a finished folder its name; False, leaving both as they are, if that name is taken by a filled folder.

    Raises:
        OSError: the disk refused.
    """
    _flush_all(draft)
    try:
        draft.rename(final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    _flush(final.parent)
    return True


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file in one step, as `atomic_file` does."""
    with atomic_file(path) as draft:
        draft.write_bytes(content)


def write_json(path: Path, values: Any, *, indent: int | None = 1) -> None:
    """Write a JSON file in one step, as `atomic_file` does."""
    write_file(path, (json.dumps(values, indent=indent) + "\n").encode())


def _flush_all(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _flush(path)


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    if os.name != "posix" and path.is_dir():
        return  # elsewhere folders cannot be opened
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path, error: type[DreamenvError], remedy: str, *, kind: type = dict) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.
        error: what to raise.
        remedy: the advice, a sentence.
        kind: what it must hold, dict or list.

    Raises:
        error: it is missing or cannot be read.
    """
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, kind):
            raise ValueError(f"it holds {type(values).__name__}, not {kind.__name__}")
    except FileNotFoundError as problem:
        raise error(f"{path} is missing. {remedy}") from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{path} is damaged, it cannot be read ({problem}). {remedy}") from problem
    return values


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with a checksum of them all."""
    content = {name: value for name, value in values.items() if name != _CHECKSUM}
    return {**content, _CHECKSUM: _checksum(content)}


def unseal(values: Mapping[str, Any], path: Path, error: type[DreamenvError], remedy: str) -> dict[str, Any]:
    """Return what was sealed, without its checksum; ``path`` is where it was read.

    Raises:
        error: it has no checksum, or another one.
    """
    content = {name: value for name, value in values.items() if name != _CHECKSUM}
    if values.get(_CHECKSUM) != _checksum(content):
        raise error(f"{path} is damaged or was altered: its checksum is not that of what it holds. {remedy}")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(content))  # where a tuple is a list, and every key a string
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, kw_only=True)
class FolderFormat:
    """A kind of folder that is written atomically, and verified when it is read.

    Attributes:
        kind: what such a folder is called: "world".
        manifest: the name of the JSON file that describes it.
        version: of the format; a higher one is refused.
        missing, damaged, newer: what is raised for a folder that is not there, not whole, or of a higher version.
        remedy: the advice if it is damaged, a sentence.
        unchecked: names of files that may be edited or deleted.
    """

    kind: str
    manifest: str
    version: int
    missing: type[DreamenvError]
    damaged: type[DreamenvError]
    newer: type[DreamenvError]
    remedy: str
    unchecked: frozenset[str] = frozenset()

    def write(self, path: Path, fill: Callable[[Path], Mapping[str, Any]]) -> None:
        """Write a folder in one step, replacing one of the same kind that is there.

        Args:
            path: of the folder.
            fill: writes all files but the manifest into an empty folder, and returns the manifest's values.

        Raises:
            StorageError: the disk refused, or something of another kind is in the way.
        """
        if path.exists() and not (path / self.manifest).is_file() and (not path.is_dir() or any(path.iterdir())):
            raise StorageError(f"{path} exists and is no {self.kind}; it was left alone. Choose another path.")
        with atomic_folder(path, f"the {self.kind}") as draft:
            values = fill(draft)
            files = {
                file.relative_to(draft).as_posix(): {"bytes": file.stat().st_size, "sha256": file_digest(file)}
                for file in sorted(draft.rglob("*"))
                if file.is_file() and file.name not in self.unchecked
            }
            manifest = seal({"format": self.version, **values, "files": files})
            (draft / self.manifest).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

    def read(self, path: Path) -> dict[str, Any]:
        """Check a folder against its manifest, and return its values.

        Raises:
            missing, damaged, newer: see above.
        """
        manifest = path / self.manifest
        if not manifest.is_file():
            raise self.missing(f"there is no {self.kind} at {path}: {self.manifest} is missing.")
        values = unseal(read_json(manifest, self.damaged, self.remedy), manifest, self.damaged, self.remedy)
        if values["format"] > self.version:
            raise self.newer(
                f"the {self.kind} {path} has format {values['format']}, written by a newer dreamenv; this one reads up "
                f"to {self.version}. Upgrade: pip install -U dreamenv"
            )
        for name, facts in values["files"].items():
            file = path / name
            if not file.resolve().is_relative_to(path.resolve()) and not file.is_symlink():
                raise self.damaged(f"{manifest} names a file outside the {self.kind}: {name!r}. {self.remedy}")
            if not file.is_file():
                raise self.damaged(f"{file} is missing. {self.remedy}")
            if file_digest(file) != facts["sha256"]:
                raise self.damaged(
                    f"{file} is damaged, it was cut short or altered: its SHA-256 is not the one in {self.manifest}. "
                    f"{self.remedy}"
                )
        return values


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name into a new safetensors file; those that share memory are copied apart, as it demands.

    Raises:
        OSError, SafetensorError: the disk refused; see `storage_errors`.
    """
    from safetensors.torch import save_file

    save_file(_storable(tensors), path)


def read_tensors(path: Path, error: type[DreamenvError], remedy: str) -> dict[str, Tensor]:
    """Read tensors by name.

    Raises:
        error: the file is missing or damaged.
    """
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as problem:
        raise error(f"{path} is missing. {remedy}") from problem
    except (OSError, SafetensorError) as problem:
        raise error(f"{path} is damaged, it cannot be read ({problem}). {remedy}") from problem


def write_sealed_tensors(path: Path, tensors: Mapping[str, Tensor], what: str = "the file") -> None:
    """Write one safetensors file that holds a checksum of all its bytes, in one step.

    Raises:
        StorageError: the disk refused.
    """
    from safetensors.torch import save

    content = save(_storable(tensors), metadata={_CHECKSUM: _NO_CHECKSUM})
    checksum = hashlib.sha256(content).hexdigest()
    with atomic_file(path, what) as draft:
        draft.write_bytes(content.replace(_NO_CHECKSUM.encode(), checksum.encode(), 1))


def read_sealed_tensors(path: Path, error: type[DreamenvError], remedy: str) -> dict[str, Tensor]:
    """Read what `write_sealed_tensors` wrote.

    Raises:
        error: the file is missing, damaged or altered, or was written in another way.
    """
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}. {remedy}") from problem
    match = _CHECKSUM_IN_HEADER.search(content)
    before, after = (content[: match.start(1)], content[match.end(1) :]) if match else (b"", b"")
    if match is None or hashlib.sha256(before + _NO_CHECKSUM.encode() + after).hexdigest() != match[1].decode():
        raise error(f"{path} is damaged or was altered: its checksum is not that of what it holds. {remedy}")
    return load(content)


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    storable = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.numel() and value.untyped_storage().data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        storable[name] = value
    return storable


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

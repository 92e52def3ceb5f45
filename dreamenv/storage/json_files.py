"""JSON files: written in one step, sealed with a checksum, and read as what they should hold or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamenv.errors import DreamenvError
from dreamenv.storage.disk import refuse_malformed
from dreamenv.storage.drafts import atomic_file

__all__ = ["CHECKSUM", "read_json", "seal", "unseal", "write_file", "write_json"]

CHECKSUM = "checksum"
_MAX_BYTES = 2**26  # ours are thousands of times smaller


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file in one step, as `atomic_file` does."""
    with atomic_file(path) as draft:
        draft.write_bytes(content)


def write_json(path: Path, values: Any, *, indent: int | None = 1) -> None:
    """Write a JSON file in one step, as `atomic_file` does."""
    write_file(path, (json.dumps(values, indent=indent) + "\n").encode())


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
    with refuse_malformed(error, str(path), remedy):
        if not path.exists():
            raise error(f"{path} is missing. {remedy}")
        if not path.is_file():
            raise ValueError("it is no regular file")
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes, of which at most {_MAX_BYTES:,} are read")
        values = json.loads(path.read_bytes())
        if not isinstance(values, kind):
            raise ValueError(f"it holds {type(values).__name__}, not {kind.__name__}")
        json.dumps(values, ensure_ascii=False).encode()  # refuses halves of characters, which cannot be printed
    return values


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with a checksum of them all."""
    content = {name: value for name, value in values.items() if name != CHECKSUM}
    return {**content, CHECKSUM: _checksum(content)}


def unseal(values: Mapping[str, Any], path: Path, error: type[DreamenvError], remedy: str) -> dict[str, Any]:
    """Return what was sealed, without its checksum; ``path`` is where it was read.

    Raises:
        error: it has no checksum, or another one.
    """
    if not isinstance(values, Mapping):
        raise error(f"{path} is damaged, it holds {type(values).__name__}, not dict. {remedy}")
    content = {name: value for name, value in values.items() if name != CHECKSUM}
    if values.get(CHECKSUM) != _checksum(content):
        raise error(f"{path} is damaged or was altered: its checksum is not that of what it holds. {remedy}")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(content))  # where a tuple is a list, and every key a string
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()

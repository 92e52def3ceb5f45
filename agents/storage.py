"""Folders that appear whole or not at all, and tensors without pickle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dreamenv.errors import CheckpointError, StorageError

__all__ = ["read_json", "read_tensors", "write_folder"]


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Write a folder beside its place and move it there when complete; what was there stays until then.

    Raises:
        StorageError: the disk refused; nothing that was there before is harmed.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        fill(temporary)
        for file in temporary.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        old = temporary.with_name(temporary.name + "-old")
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise StorageError(f"could not write {path}: {error}. Free some space or choose another folder.") from error


def read_json(path: Path, kind: str) -> dict[str, Any]:
    """Read an object from a JSON file.

    Raises:
        CheckpointError: missing or damaged; ``kind`` says what it is of.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {kind} at {path.parent}: {path.name} is missing.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} of this {kind} is damaged: {error}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} of this {kind} is damaged: it holds no object.")
    return values


def read_tensors(path: Path, kind: str) -> dict[str, Tensor]:
    """Read named tensors.

    Raises:
        CheckpointError: missing or damaged; ``kind`` says what it is of.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"this {kind} lacks {path.name}: it is not at {path}.") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} of this {kind} is damaged: {error}.") from error

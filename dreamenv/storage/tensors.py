"""Tensors by name, in safetensors files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dreamenv.errors import DreamenvError
from dreamenv.storage.disk import refuse_malformed
from dreamenv.storage.drafts import atomic_file
from dreamenv.storage.json_files import CHECKSUM

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["read_sealed_tensors", "read_shapes", "read_tensors", "write_sealed_tensors", "write_tensors"]

_NO_CHECKSUM = "0" * 64  # stands in a file of tensors while its own checksum is taken
_CHECKSUM_IN_HEADER = re.compile(rb'"checksum":"([0-9a-f]{64})"')


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name into a new safetensors file; those that share memory are copied apart, as it demands.

    Raises:
        OSError, SafetensorError: the disk refused; see `storage_errors`.
    """
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    save_file(_storable(tensors), path)
    path.chmod(mode)  # safetensors makes files that other users cannot read


def read_tensors(path: Path, error: type[DreamenvError], remedy: str) -> dict[str, Tensor]:
    """Read tensors by name.

    Raises:
        error: the file is missing or damaged.
    """
    from safetensors.torch import load_file

    with refuse_malformed(error, str(path), remedy):
        _check_is_file(path, error, remedy)
        return load_file(path)


def read_shapes(path: Path, error: type[DreamenvError], remedy: str) -> dict[str, tuple[int, ...]]:
    """Read the tensors' shapes by name from the file's header, which cannot promise more than the file holds.

    Raises:
        error: the file is missing or damaged.
    """
    from safetensors import safe_open

    with refuse_malformed(error, str(path), remedy):
        _check_is_file(path, error, remedy)
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def write_sealed_tensors(path: Path, tensors: Mapping[str, Tensor], what: str = "the file") -> None:
    """Write one safetensors file that holds a checksum of all its bytes, in one step.

    Raises:
        StorageError: the disk refused.
    """
    from safetensors.torch import save

    content = save(_storable(tensors), metadata={CHECKSUM: _NO_CHECKSUM})
    checksum = hashlib.sha256(content).hexdigest()
    with atomic_file(path, what) as draft:
        draft.write_bytes(content.replace(_NO_CHECKSUM.encode(), checksum.encode(), 1))


def read_sealed_tensors(path: Path, error: type[DreamenvError], remedy: str) -> dict[str, Tensor]:
    """Read what `write_sealed_tensors` wrote.

    Raises:
        error: the file is missing, damaged or altered, or was written in another way.
    """
    from safetensors.torch import load

    with refuse_malformed(error, str(path), remedy):
        _check_is_file(path, error, remedy)
        content = path.read_bytes()
        match = _CHECKSUM_IN_HEADER.search(content)
        before, after = (content[: match.start(1)], content[match.end(1) :]) if match else (b"", b"")
        if match is None or hashlib.sha256(before + _NO_CHECKSUM.encode() + after).hexdigest() != match[1].decode():
            raise error(f"{path} is damaged or was altered: its checksum is not that of what it holds. {remedy}")
        return load(content)


def _check_is_file(path: Path, error: type[DreamenvError], remedy: str) -> None:
    if not path.exists():
        raise error(f"{path} is missing. {remedy}")
    if not path.is_file():
        raise ValueError("it is no regular file")


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

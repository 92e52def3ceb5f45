"""An npz file, read array by array, never unpickled, with errors that name file and array."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamenv.errors import RecordingError

__all__ = ["ArrayFile"]

_AGAIN = "Download or copy it again, or leave it out."
_DAMAGED = (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError)


class ArrayFile:
    """The arrays of an npz file.

    Args:
        path: the file.
        wanted: what it should be a part of, for the message when it is missing.

    Attributes:
        path: the file.
        keys: the arrays' names.

    Raises:
        RecordingError: missing, or no npz file.
    """

    def __init__(self, path: Path, wanted: str = "an npz recording") -> None:
        self.path = path
        if not path.is_file():
            raise RecordingError(f"there is no {path}, which {wanted} needs.")
        try:
            with zipfile.ZipFile(path) as archive:
                self.keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        except _DAMAGED as error:
            raise RecordingError(
                f"{path} cannot be read ({error}): it is cut short or no npz file. {_AGAIN}"
            ) from error

    def find(self, name: str | None, usual: tuple[str, ...]) -> str | None:
        """Return which array has this name, or one of the usual ones if it is None; None if there is none.

        Raises:
            RecordingError: a name was given and no array has it.
        """
        if name is not None:
            self._require(name)
            return name
        return next((key for key in usual if key in self.keys), None)

    def read(self, key: str) -> NDArray[Any]:
        """Read an array whole.

        Raises:
            RecordingError: missing, damaged, or made of Python objects.
        """
        self._require(key)
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                values: NDArray[Any] = arrays[key]
        except _DAMAGED as error:
            raise RecordingError(f"{key!r} in {self.path} cannot be read ({error}). {_AGAIN}") from error
        return values

    def shape(self, key: str) -> tuple[int, ...]:
        """Return an array's shape, without reading it."""
        self._require(key)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{key}.npy") as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape: tuple[int, ...] = read(member)[0]
        except _DAMAGED as error:
            raise RecordingError(f"{key!r} in {self.path} cannot be read ({error}). {_AGAIN}") from error
        return shape

    def _require(self, key: str) -> None:
        if key not in self.keys:
            raise RecordingError(
                f"{self.path} has no array {key!r}; it has {', '.join(map(repr, sorted(self.keys))) or 'none'}."
            )

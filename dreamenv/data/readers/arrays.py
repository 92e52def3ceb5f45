"""Read an npz file array by array, without pickle, and with errors that name file and array."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamenv.errors import RecordingError

__all__ = ["ArrayFile"]

_REMEDY = "Download or copy it again, or leave it out."
_DAMAGED = (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError)


class ArrayFile:
    """The arrays of an npz file.

    Args:
        path: the file.
        wanted: the recording that it is a part of, for the error if it is missing.

    Attributes:
        path: the file.
        keys: the arrays' names.

    Raises:
        RecordingError: the file is missing, or is no npz file.
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
                f"{path} cannot be read ({error}): it is cut short or is no npz file. {_REMEDY}"
            ) from error

    def find(self, name: str | None, usual: tuple[str, ...]) -> str | None:
        """Return the name of an array: the given name, or else the first usual name that exists, or else None.

        Raises:
            RecordingError: there is no array of the given name.
        """
        if name is not None:
            self._require(name)
            return name
        return next((key for key in usual if key in self.keys), None)

    def read(self, key: str) -> NDArray[Any]:
        """Read an array.

        Raises:
            RecordingError: it is missing, damaged, or an array of Python objects.
        """
        self._require(key)
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                values: NDArray[Any] = arrays[key]
        except _DAMAGED as error:
            raise RecordingError(f"{key!r} in {self.path} cannot be read ({error}). {_REMEDY}") from error
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
            raise RecordingError(f"{key!r} in {self.path} cannot be read ({error}). {_REMEDY}") from error
        return shape

    def _require(self, key: str) -> None:
        if key not in self.keys:
            raise RecordingError(
                f"{self.path} has no array {key!r}; it has {', '.join(map(repr, sorted(self.keys))) or 'none'}."
            )

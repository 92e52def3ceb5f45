"""Numpy's files, read without believing the sizes that they name.

`numpy.load` allocates what a header promises; these readers compare it with the bytes that are there.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

__all__ = ["npy_bytes", "read_npy", "read_npz"]


def npy_bytes(array: npt.NDArray[Any]) -> memoryview:
    """Return an array in numpy's .npy format."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getbuffer()


def read_npy(stream: BinaryIO, max_bytes: int) -> npt.NDArray[Any]:
    """Read an array of the .npy format, which must end with the stream.

    Raises:
        ValueError: it is longer than ``max_bytes``, of Python objects, cut short, or followed by more.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the .npy format is unknown")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or size > max_bytes:
        raise ValueError(f"{shape} of {dtype} would take {size:,} bytes, of which at most {max_bytes:,} are read")
    content = stream.read(size + 1)
    if len(content) != size:
        raise ValueError(f"{shape} of {dtype} takes {size:,} bytes; it has {'more' if len(content) > size else 'less'}")
    array = np.frombuffer(content, dtype).copy()
    return array.reshape(shape, order="F" if fortran_order else "C")


def read_npz(content: bytes, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of an uncompressed .npz archive, as `numpy.savez` writes it.

    Raises:
        KeyError: an array is missing.
        ValueError: it is compressed, or damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [archive.getinfo(f"{name}.npy") for name in names]
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(content):
                    raise ValueError(f"{member.filename} is compressed, or larger than its archive")
            return {
                name: read_npy(io.BytesIO(archive.read(member)), len(content))
                for name, member in zip(names, members, strict=True)
            }
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"it is no whole archive: {error}") from error

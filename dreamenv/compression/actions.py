"""Actions as side information: packed into as few bytes as a general compressor makes of them."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from dreamenv.action_layout import ActionLayout
from dreamenv.errors import CompressionDamagedError

__all__ = ["pack_actions", "unpack_actions"]

_WHOLE = ("|u1", "<u2", "<i8")  # types of whole numbers, the smallest that holds them all is taken


def pack_actions(actions: npt.NDArray[Any]) -> bytes:
    """Pack actions (t, *a) int64 or float32: a byte that says the type, and the compressed numbers, byte by byte."""
    kind, dtype = len(_WHOLE), "<f4"
    if actions.dtype.kind != "f":
        most, negative = int(actions.max(initial=0)), bool((actions < 0).any())
        kind = 2 if negative or most >= 2**16 else 1 if most >= 2**8 else 0
        dtype = _WHOLE[kind]
    values = np.ascontiguousarray(actions.astype(dtype))
    planes = values.view(np.uint8).reshape(values.size, values.itemsize).T  # equal bytes of all numbers lie together
    return bytes((kind,)) + zlib.compress(np.ascontiguousarray(planes).tobytes(), 9)


def unpack_actions(content: bytes, steps: int, layout: ActionLayout) -> npt.NDArray[Any]:
    """Return what was packed, (t, *a).

    Raises:
        CompressionDamagedError: it is no action of this layout for every step.
    """
    shape = (steps, *layout.shape)
    try:
        kind, size = content[0], math.prod(shape)
        dtype = np.dtype("<f4" if kind == len(_WHOLE) else _WHOLE[kind])
        reader = zlib.decompressobj()
        raw = reader.decompress(content[1:], size * dtype.itemsize + 1)
        if len(raw) != size * dtype.itemsize or (dtype.kind == "f") != (np.dtype(layout.dtype).kind == "f"):
            raise ValueError("they are of another number or type")
    except (IndexError, ValueError, zlib.error) as error:
        raise CompressionDamagedError(f"the actions of a compressed clip are damaged: {error}.") from error
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, size)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(shape).astype(layout.dtype)

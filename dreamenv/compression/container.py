"""The file of a compressed clip: a header, the actions, the coded pixels, and a checksum of all that.

::

    4 bytes   "DRMC"
    1         format version
    1         whether the actions are in the file
    4 2 2 1   number of frames; height, width, channels
    4         which of the world's start frames the first frame is predicted from
    32 32     SHA-256 of the world and of the pixel head
    32        SHA-256 of what it decodes to: frames and actions
    4 4 1     bytes of the actions, of the coded pixels, and of the text that says what they were computed with
    ...       these three
    16        the beginning of the SHA-256 of everything before

Numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dreamenv.errors import CompressionDamagedError, CompressionError

__all__ = ["ClipHeader", "content_digest", "pack_clip", "unpack_clip"]

_MAGIC, _VERSION = b"DRMC", 1
_HEADER = struct.Struct("<4sBBIHHBI32s32s32sIIB")
_CHECKSUM_BYTES = 16
_MOST_FRAMES = 10_000_000
_REMEDY = "Copy it again, whole."


@dataclass(frozen=True, kw_only=True)
class ClipHeader:
    """What a file says of its clip.

    Attributes:
        frames: t + 1, how many.
        shape: (h, w, c) of each.
        start: which of the world's start frames the first one is predicted from.
        world, head: their SHA-256, 64 hexadecimal digits.
        content: `content_digest` of what it decodes to.
        actions: the actions, packed; None if they are not in the file.
        arithmetic: what the probabilities were computed with.
    """

    frames: int
    shape: tuple[int, int, int]
    start: int
    world: str
    head: str
    content: str
    actions: bytes | None
    arithmetic: str


def pack_clip(header: ClipHeader, pixels: bytes) -> bytes:
    """Return the file's content."""
    actions, said = header.actions or b"", header.arithmetic.encode()[:255]
    digests = (bytes.fromhex(digest) for digest in (header.world, header.head, header.content))
    fixed = _HEADER.pack(
        _MAGIC, _VERSION, header.actions is not None, header.frames, *header.shape, header.start, *digests,
        len(actions), len(pixels), len(said),
    )  # fmt: skip
    content = fixed + actions + pixels + said
    return content + hashlib.sha256(content).digest()[:_CHECKSUM_BYTES]


def unpack_clip(content: bytes, name: str) -> tuple[ClipHeader, bytes]:
    """Return the header and the coded pixels of a file's content.

    Args:
        content: of the file.
        name: of the file, for errors.

    Raises:
        CompressionError: it is no compressed clip, or of a newer version.
        CompressionDamagedError: it was cut short or altered.
    """
    if not content.startswith(_MAGIC):
        raise CompressionError(f"{name} is no compressed clip: it does not begin with {_MAGIC.decode()!r}. Make one "
                               "with: dreamenv compress")  # fmt: skip
    if len(content) > len(_MAGIC) and content[len(_MAGIC)] > _VERSION:
        raise CompressionError(
            f"{name} has format {content[len(_MAGIC)]}, or is damaged; this dreamenv reads up to {_VERSION}. Upgrade: "
            "pip install -U dreamenv"
        )
    body, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if len(body) < _HEADER.size or hashlib.sha256(body).digest()[:_CHECKSUM_BYTES] != checksum:
        raise CompressionDamagedError(
            f"{name} is damaged, it was cut short or altered: its checksum is not that of what it holds. {_REMEDY}"
        )
    _, _, has_actions, frames, h, w, c, start, world, head, digest, *sizes = _HEADER.unpack_from(body)
    if len(body) != _HEADER.size + sum(sizes) or not 2 <= frames <= _MOST_FRAMES or min(h, w, c) < 1:
        raise CompressionDamagedError(f"{name} is damaged: its header names sizes that it does not have. {_REMEDY}")
    at = _HEADER.size
    actions, pixels = body[at : at + sizes[0]], body[at + sizes[0] : at + sizes[0] + sizes[1]]
    said = body[at + sizes[0] + sizes[1] :].decode("utf-8", "replace")
    header = ClipHeader(
        frames=frames, shape=(h, w, c), start=start, world=world.hex(), head=head.hex(), content=digest.hex(),
        actions=actions if has_actions else None, arithmetic=said,
    )  # fmt: skip
    return header, pixels


def content_digest(frames: npt.NDArray[np.uint8], actions: npt.NDArray[np.generic]) -> str:
    """Return the SHA-256 of frames and actions, and of their shapes."""
    digest = hashlib.sha256()
    for array in (frames, actions):
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{little.dtype.str}{little.shape}".encode() + little.tobytes())
    return digest.hexdigest()

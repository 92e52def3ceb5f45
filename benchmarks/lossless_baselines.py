"""Lossless codecs of others, on the same clips; each must give the same pixels back, or it is no baseline."""

from __future__ import annotations

import io
import lzma
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from dreamenv.errors import DreamenvError

__all__ = ["BASELINES", "Coded", "measure_baseline"]

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Coded:
    """What a codec made of a clip.

    Attributes:
        bits: of it all; of videos, packets and the header of the stream, without a container.
        seconds: to compress, and to decompress.
    """

    bits: int
    encode_seconds: float
    decode_seconds: float


def measure_baseline(name: str, frames: Frames) -> Coded:
    """Compress a clip (t, h, w, 3) by one of `BASELINES`, decompress it, and compare.

    Raises:
        DreamenvError: it does not give the same pixels back.
    """
    bits, encode, decode, same = BASELINES[name](frames)
    if not same:
        raise DreamenvError(f"{name} is not lossless here: other pixels came back.")
    return Coded(bits=bits, encode_seconds=encode, decode_seconds=decode)


Measured = tuple[int, float, float, bool]


def _xz(frames: Frames) -> Measured:
    began = time.perf_counter()
    content = lzma.compress(frames.tobytes(), preset=9 | lzma.PRESET_EXTREME)
    middle = time.perf_counter()
    again = np.frombuffer(lzma.decompress(content), np.uint8).reshape(frames.shape)
    end = time.perf_counter()
    return 8 * len(content), middle - began, end - middle, bool(np.array_equal(again, frames))


def _pictures(kind: str, **options: Any) -> Callable[[Frames], Measured]:
    def measure(frames: Frames) -> Measured:
        began, contents = time.perf_counter(), []
        for frame in frames:
            file = io.BytesIO()
            Image.fromarray(frame).save(file, kind, **options)
            contents.append(file.getvalue())
        middle = time.perf_counter()
        again = np.stack([np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in contents])
        end = time.perf_counter()
        return 8 * sum(map(len, contents)), middle - began, end - middle, bool(np.array_equal(again, frames))

    return measure


def _video(codec: str, pixels: str, **options: str) -> Callable[[Frames], Measured]:
    def measure(frames: Frames) -> Measured:
        began, file = time.perf_counter(), io.BytesIO()
        with av.open(file, "w", format="matroska") as container:
            stream: Any = container.add_stream(codec, rate=10, options=options)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
            stream.codec_context.time_base = Fraction(1, 10)
            stream.codec_context.thread_count = 1
            size = 0
            for frame in (*frames, None):
                picture = None if frame is None else av.VideoFrame.from_ndarray(frame, format="rgb24")
                for packet in stream.encode(picture):
                    size += packet.size
                    container.mux(packet)
            size += len(stream.codec_context.extradata or b"")
        middle = time.perf_counter()
        file.seek(0)
        with av.open(file, "r") as reader:
            again = np.stack([frame.to_ndarray(format="rgb24") for frame in reader.decode(video=0)])
        end = time.perf_counter()
        same = again.shape == frames.shape and bool(np.array_equal(again, frames))
        return 8 * size, middle - began, end - middle, same

    return measure


BASELINES: dict[str, Callable[[Frames], Measured]] = {
    "xz -9e, whole clip": _xz,
    "PNG, per frame": _pictures("PNG", optimize=True),
    "WebP lossless, per frame": _pictures("WEBP", lossless=True, quality=100, method=6),
    "FFV1": _video("ffv1", "bgr0", level="3", coder="1", context="1", slices="4"),
    "H.264 lossless (RGB)": _video("libx264rgb", "rgb24", qp="0", preset="veryslow"),
    "VP9 lossless (RGB)": _video("libvpx-vp9", "gbrp", lossless="1", deadline="good", **{"cpu-used": "0"}),
}

"""Videos and strips of frames: reality and the dream side by side, under the same actions.

Frames here are numpy uint8 ``t h w c``. Videos are GIFs inside TensorBoard's event files and mp4 (H.264) on disk.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from einops import rearrange, repeat
from PIL import Image

from dreamenv.errors import FrameError
from dreamenv.storage import atomic_file

__all__ = ["gif_bytes", "side_by_side", "strip", "write_mp4"]

Frames = npt.NDArray[np.uint8]
_GAP = 2  # pixels between panels
_GREY = 128


def side_by_side(*videos: Frames) -> Frames:
    """Put videos (n, t, h, w, c) of the same shape side by side, their n windows below each other: (t, H, W, c).

    Raises:
        FrameError: the videos' shapes differ.
    """
    shapes = {video.shape for video in videos}
    if len(shapes) != 1 or videos[0].ndim != 5:
        raise FrameError(f"videos must share one shape (n, t, h, w, c), not {sorted(shapes)}.")
    padded = np.pad(np.stack(videos), ((0, 0), (0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=_GREY)
    return rearrange(padded, "videos n t h w c -> t (n h) (videos w) c")[:, :-_GAP, :-_GAP]


def strip(videos: Sequence[Frames], steps: Sequence[int], *, scale: int = 1) -> Frames:
    """Lay out frames of chosen steps (from 0) in one image, a row per video (t, h, w, c): (H, W, c)."""
    rows = np.stack([video[list(steps)] for video in videos])
    padded = np.pad(rows, ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=_GREY)
    image = rearrange(padded, "videos t h w c -> (videos h) (t w) c")[:-_GAP, :-_GAP]
    return np.ascontiguousarray(repeat(image, "h w c -> (h y) (w x) c", y=scale, x=scale))


def gif_bytes(frames: Frames, frame_rate: float) -> bytes:
    """Encode (t, h, w, c) as an endlessly repeating GIF; frame_rate in hertz."""
    images = [_image(frame) for frame in frames]
    buffer = io.BytesIO()
    duration = max(20, round(1000 / frame_rate))  # milliseconds; viewers slow down anything below 20
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    return buffer.getvalue()


def write_mp4(path: str | Path, frames: Frames, frame_rate: float, *, scale: int = 1) -> Path:
    """Write (t, h, w, c) as an H.264 video that browsers play; readers see the old file or the whole new one.

    Args:
        path: of the file; its folder is made.
        frames: grey (c = 1) or RGB.
        frame_rate: in hertz.
        scale: enlargement by whole pixels.

    Raises:
        FrameError: no frames, or of a wrong shape.
        StorageError: the disk refused.
    """
    path = Path(path)
    if frames.ndim != 4 or len(frames) == 0 or frames.shape[-1] not in (1, 3):
        raise FrameError(f"a video needs frames (t, h, w, 1 or 3), at least one, not {frames.shape}.")
    large = repeat(frames, "t h w c -> t (h y) (w x) c", y=scale, x=scale)
    if large.shape[-1] == 1:
        large = np.repeat(large, 3, axis=-1)
    # H.264's 4:2:0 colours need even sides.
    large = np.pad(large, ((0, 0), (0, large.shape[1] % 2), (0, large.shape[2] % 2), (0, 0)), mode="edge")
    with atomic_file(path, "the video") as draft, av.open(str(draft), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1000))
        stream.height, stream.width = large.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast"}
        for frame in large:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def _image(frame: Frames) -> Image.Image:
    return Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)

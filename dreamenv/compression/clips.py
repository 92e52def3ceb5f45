"""Clips by name: an episode of a recording, an .npz file with frames and actions, or a video and its actions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dreamenv.action_layout import ActionLayout
from dreamenv.compression.clip_codec import Clip
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.errors import ConfigError, FrameError, RecordingError
from dreamenv.storage import atomic_file, read_npy, read_npz, refuse_malformed
from dreamenv.world_model import WorldModelSpec

__all__ = ["check_clip_path", "read_actions", "read_clip", "write_clip"]

_VIDEOS = (".avi", ".mkv", ".mov", ".mp4", ".webm")
_REMEDY = "Make one with numpy.savez(path, frames=..., actions=...), or name the folder of a recording."


def check_clip_path(path: Path) -> None:
    """Raise unless a clip may be there: a folder, an .npz file, or a video with its actions next to it.

    Raises:
        RecordingError: there is none, or it is a file of another kind.
    """
    if not path.exists():
        raise RecordingError(f"there is no clip at {path}: no folder of a recording, no .npz file, no video.")
    if not path.is_dir() and path.suffix != ".npz" and not _is_video(path):
        raise RecordingError(
            f"{path} is neither the folder of a recording, nor an .npz file with frames and actions, nor a video "
            f"({', '.join(_VIDEOS)}). Turn recordings of others into one with: dreamenv convert"
        )
    actions = path.with_suffix(".npy")
    if _is_video(path) and not actions.is_file():
        raise RecordingError(
            f"{actions} is missing: the actions of a video are in a file next to it, an array (t, *a) that numpy.save "
            "wrote, whose row i led from frame i to frame i + 1."
        )


def read_clip(path: Path, episode: int, spec: WorldModelSpec) -> Clip:
    """Read a clip.

    Args:
        path: the folder of a recording; an .npz file with ``frames`` (t + 1, h, w, c) uint8 and ``actions`` (t, *a); or
            a video of the world's size, with its actions in a .npy file next to it, which is what it decodes to.
        episode: which one of a recording.
        spec: of the world.

    Raises:
        RecordingError, DatasetError: it is missing or damaged.
        ConfigError: there is no such episode.
        FrameError: frames of another type, fewer than two, or not one more than actions; a video of another size.
    """
    check_clip_path(path)
    layout = spec.action_layout
    if not path.is_dir():
        if episode:
            raise ConfigError(f"{path} holds one clip; leave --episode at 0, not {episode}.")
        if _is_video(path):
            return Clip(frames=_film(path, spec), actions=_laid_out(_read_npy(path.with_suffix(".npy")), layout))
        arrays = _read(path, ("frames", "actions"))
        return Clip(frames=arrays["frames"], actions=_laid_out(arrays["actions"], layout))
    dataset = EpisodeDataset.open(path)
    if not 0 <= episode < len(dataset):
        raise ConfigError(f"{path} has the episodes 0 to {len(dataset) - 1}; episode={episode} is none of them.")
    found = dataset[episode]
    return Clip(frames=found.frames, actions=found.actions)


def read_actions(path: Path, episode: int, spec: WorldModelSpec) -> npt.NDArray[Any]:
    """Read the actions of a clip alone, (t, *a); an .npz file needs no frames.

    Raises:
        RecordingError, DatasetError, ConfigError: see `read_clip`.
    """
    check_clip_path(path)
    if path.is_dir():
        return read_clip(path, episode, spec).actions
    found = _read_npy(path.with_suffix(".npy")) if _is_video(path) else _read(path, ("actions",))["actions"]
    return _laid_out(found, spec.action_layout)


def write_clip(path: Path, clip: Clip) -> None:
    """Write a clip to an .npz file, in one step.

    Raises:
        ConfigError: a name that does not end in .npz.
        StorageError: the disk refused.
    """
    if path.suffix != ".npz":
        raise ConfigError(f"a clip is written to an .npz file, not {path}.")
    content = io.BytesIO()
    np.savez(content, frames=clip.frames, actions=clip.actions)
    with atomic_file(path, "the clip") as draft:
        draft.write_bytes(content.getbuffer())


def _is_video(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in _VIDEOS


def _film(path: Path, spec: WorldModelSpec) -> npt.NDArray[np.uint8]:
    """Return all frames of a video, (t + 1, h, w, 3), as they are decoded."""
    from dreamenv.data.readers.video import Video

    video, (h, w) = Video(path), spec.frame_shape[1:]
    if video.shape != (h, w):
        raise FrameError(
            f"{path} has frames of {video.shape[0]} x {video.shape[1]} pixels (height x width), and the world {h} x "
            f"{w}; pixels that are resized are not the clip's. Convert it to a recording of that size: dreamenv convert"
        )
    return np.stack(list(video.read(0, video.frames - 1, (h, w))))


def _read_npy(path: Path) -> npt.NDArray[Any]:
    with refuse_malformed(RecordingError, str(path), "Write it again with numpy.save."), path.open("rb") as file:
        return read_npy(file, path.stat().st_size)


def _read(path: Path, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    with refuse_malformed(RecordingError, str(path), _REMEDY):
        return read_npz(path.read_bytes(), names)


def _laid_out(actions: npt.NDArray[Any], layout: ActionLayout) -> npt.NDArray[Any]:
    """Return whole numbers of any size as the layout's type, and other numbers as they are, to be checked."""
    dtype = np.dtype(layout.dtype)
    if actions.dtype.kind in "iu" and dtype.kind == "i":
        return actions.astype(dtype)
    return actions.astype(dtype) if actions.dtype.kind == "f" and dtype.kind == "f" else actions

"""Clips by name: an episode of a recording, or an .npz file with frames and actions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dreamenv.action_layout import ActionLayout
from dreamenv.compression.clip_codec import Clip
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.errors import ConfigError, RecordingError
from dreamenv.storage import atomic_file, read_npz, refuse_malformed

__all__ = ["check_clip_path", "read_actions", "read_clip", "write_clip"]

_REMEDY = "Make one with numpy.savez(path, frames=..., actions=...), or name the folder of a recording."


def check_clip_path(path: Path) -> None:
    """Raise unless a clip may be there: a folder or an .npz file.

    Raises:
        RecordingError: there is none, or it is a file of another kind.
    """
    if not path.exists():
        raise RecordingError(f"there is no clip at {path}: neither the folder of a recording nor an .npz file.")
    if not path.is_dir() and path.suffix != ".npz":
        raise RecordingError(
            f"{path} is neither the folder of a recording nor an .npz file with frames and actions. Videos lack "
            "actions; turn them into a recording with: dreamenv convert"
        )


def read_clip(path: Path, episode: int, layout: ActionLayout) -> Clip:
    """Read a clip.

    Args:
        path: the folder of a recording, or an .npz file with ``frames`` (t + 1, h, w, c) uint8 and ``actions`` (t, *a).
        episode: which one of a recording.
        layout: of the world's actions.

    Raises:
        RecordingError, DatasetError: it is missing or damaged.
        ConfigError: there is no such episode.
        FrameError: frames of another type, fewer than two, or not one more than actions.
    """
    check_clip_path(path)
    if not path.is_dir():
        if episode:
            raise ConfigError(f"{path} holds one clip; leave --episode at 0, not {episode}.")
        arrays = _read(path, ("frames", "actions"))
        return Clip(frames=arrays["frames"], actions=_laid_out(arrays["actions"], layout))
    dataset = EpisodeDataset.open(path)
    if not 0 <= episode < len(dataset):
        raise ConfigError(f"{path} has the episodes 0 to {len(dataset) - 1}; episode={episode} is none of them.")
    found = dataset[episode]
    return Clip(frames=found.frames, actions=found.actions)


def read_actions(path: Path, episode: int, layout: ActionLayout) -> npt.NDArray[Any]:
    """Read the actions of a clip alone, (t, *a); an .npz file needs no frames.

    Raises:
        RecordingError, DatasetError, ConfigError: see `read_clip`.
    """
    check_clip_path(path)
    if path.is_dir():
        return read_clip(path, episode, layout).actions
    return _laid_out(_read(path, ("actions",))["actions"], layout)


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


def _read(path: Path, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    with refuse_malformed(RecordingError, str(path), _REMEDY):
        return read_npz(path.read_bytes(), names)


def _laid_out(actions: npt.NDArray[Any], layout: ActionLayout) -> npt.NDArray[Any]:
    """Return whole numbers of any size as the layout's type, and other numbers as they are, to be checked."""
    dtype = np.dtype(layout.dtype)
    if actions.dtype.kind in "iu" and dtype.kind == "i":
        return actions.astype(dtype)
    return actions.astype(dtype) if actions.dtype.kind == "f" and dtype.kind == "f" else actions

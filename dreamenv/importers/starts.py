"""Where the dreams of an imported world begin: pictures, a video with its actions, or a recording of ours."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dreamenv.action_layout import ActionLayout
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.readers.video import Video
from dreamenv.data.starts import Starts
from dreamenv.errors import ActionError, DatasetError, FrameError
from dreamenv.world_model import WorldModelSpec

__all__ = ["read_starts"]

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_TENSOR = ".one_hot_actions.pt"  # Oasis's name for it: of its 25 values, two are turns
_FILMS = (".mp4", ".mkv", ".avi", ".mov", ".webm")

Frames = NDArray[np.uint8]


def read_starts(
    place: str | Path, spec: WorldModelSpec, *, resize: bool = False, count: int = 256, seed: int = 0
) -> Starts:
    """Read real segments that dreams begin from.

    Args:
        place: a picture or a folder of them, each of which begins a dream; a video (mp4) with a file of its actions
            next to it, an array ``<name>.npy`` of shape (t, *a), whose row i led from frame i to frame i + 1, or a
            tensor of that shape, ``<name>.one_hot_actions.pt``, as Oasis's videos have them; or a recording's folder
            that has the world's action space.
        spec: of the world.
        resize: bring frames to the world's size, by area; else another size is refused.
        count: segments to cut out of a video or a recording, at most.
        seed: of the choice.

    Raises:
        DatasetError: there is nothing to read, or a recording is of other actions.
        FrameError: frames of another size, or a picture that is damaged.
        ActionError: a video's actions are missing, or do not fit the world's.
    """
    place = Path(place)
    steps = max(1, spec.context_frames or 1)
    if place.is_file() and place.suffix.lower() in _FILMS:
        return _from_video(place, spec, resize, steps, count, seed)
    pictures = [place] if place.suffix.lower() in _PICTURES else sorted(
        file for file in (place.iterdir() if place.is_dir() else ()) if file.suffix.lower() in _PICTURES
    )  # fmt: skip
    if pictures:
        frames = np.stack([_fitted(_picture(file), spec, resize, file) for file in pictures])
        return _segments(frames, spec)
    if not place.is_dir():
        raise DatasetError(f"{place} is no picture, no video and no folder; begin dreams from one of these.")
    dataset = EpisodeDataset.open(place)
    if dataset.action_space != spec.action_space:
        raise DatasetError(
            f"{place} was recorded with {dataset.action_space}, and the world acts with {spec.action_space}. Record "
            "again with its actions, or begin dreams from pictures."
        )
    starts = Starts.from_dataset(dataset, count=count, context=steps, seed=seed)
    h, w = spec.frame_shape[1:]
    if starts.frames.shape[2:4] == (h, w):
        return starts
    return Starts(
        first_frames=_all_fitted(starts.first_frames, spec, resize, place),
        frames=_all_fitted(starts.frames, spec, resize, place), actions=starts.actions, lengths=starts.lengths,
        at_episode_start=starts.at_episode_start,
    )  # fmt: skip


def _from_video(place: Path, spec: WorldModelSpec, resize: bool, steps: int, count: int, seed: int) -> Starts:
    video = Video(place)
    h, w = spec.frame_shape[1:]
    if video.shape != (h, w) and not resize:
        raise _wrong_size(video.shape, spec, place)
    frames = np.stack(list(video.read(0, video.frames - 1, (h, w))))
    file, actions = _video_actions(place, spec.action_space)
    if len(actions) < len(frames) - 1:
        raise ActionError(
            f"{place} has {len(frames)} frames, which {len(frames) - 1} actions join, but {file.name} has "
            f"{len(actions)}."
        )
    steps = min(steps, len(frames) - 1)
    last = len(frames) - 1 - steps  # the last place that a segment may begin at
    random = np.random.default_rng((seed, 0x57A7))
    begins = np.sort(random.permutation(last + 1)[:count])
    reach = np.arange(steps)
    return Starts(
        first_frames=frames[begins], frames=frames[begins[:, None] + 1 + reach],
        actions=actions[begins[:, None] + reach], lengths=np.full(len(begins), steps, dtype=np.int64),
        at_episode_start=begins == 0,
    )  # fmt: skip


def _video_actions(video: Path, space: gym.Space[Any]) -> tuple[Path, NDArray[Any]]:
    """Return the file of a video's actions, and what it holds."""
    array, tensor = video.with_suffix(".npy"), video.with_suffix(_TENSOR)
    if not (array.is_file() or tensor.is_file()):
        raise ActionError(
            f"{array} is missing: the actions of a video are in a file next to it, an array (t, *a) that numpy.save "
            f"wrote, or a tensor in {tensor.name}. To begin from pictures alone, name a folder of them."
        )
    file, read, how = (array, _array, "numpy.save") if array.is_file() else (tensor, _tensor, "torch.save")
    layout = ActionLayout(space)
    try:
        actions = read(file)
    except (ValueError, OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ActionError(f"{file} cannot be read ({error}); write it with {how}.") from error
    if actions.shape[1:] != layout.shape:
        remedy = " Import the world with actions='vector' for 25 values." if file == tensor else ""
        raise ActionError(
            f"{file} has actions of shape {actions.shape[1:]}; the world's {space} needs {layout.shape}.{remedy}"
        )
    return file, actions.astype(layout.dtype)


def _array(file: Path) -> NDArray[Any]:
    actions: NDArray[Any] = np.load(file, allow_pickle=False)
    return actions


def _tensor(file: Path) -> NDArray[Any]:
    held = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(held, torch.Tensor):
        raise ValueError(f"it holds a {type(held).__name__}, not a tensor")
    actions: NDArray[Any] = held.numpy()
    return actions


def _segments(frames: Frames, spec: WorldModelSpec) -> Starts:
    """Begin a dream at each frame, with nothing before it."""
    n, layout = len(frames), ActionLayout(spec.action_space)
    return Starts(
        first_frames=frames, frames=frames[:, None], actions=np.zeros((n, 1, *layout.shape), layout.dtype),
        lengths=np.zeros(n, dtype=np.int64), at_episode_start=np.ones(n, dtype=np.bool_),
    )  # fmt: skip


def _picture(file: Path) -> Frames:
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise FrameError(f"the picture {file} cannot be read ({error}).") from error


def _all_fitted(frames: Frames, spec: WorldModelSpec, resize: bool, place: Path) -> Frames:
    lead = frames.shape[:-3]
    if frames.size == 0:
        return np.zeros((*lead, *spec.frame_shape[1:], frames.shape[-1]), np.uint8)
    flat = np.stack([_fitted(frame, spec, resize, place) for frame in frames.reshape(-1, *frames.shape[-3:])])
    return flat.reshape(*lead, *flat.shape[1:])


def _fitted(frame: Frames, spec: WorldModelSpec, resize: bool, place: Path) -> Frames:
    """Return a frame (h, w, 3) of the world's size.

    Raises:
        FrameError: it is of another size, and is not to be resized.
    """
    h, w = spec.frame_shape[1:]
    if frame.shape[:2] == (h, w):
        return frame
    if not resize:
        raise _wrong_size((frame.shape[0], frame.shape[1]), spec, place)
    values = torch.from_numpy(np.array(frame)).movedim(-1, 0)[None].float()
    larger = frame.shape[0] >= h and frame.shape[1] >= w
    scaled = torch.nn.functional.interpolate(values, (h, w), mode="area" if larger else "bilinear")
    resized: Frames = scaled[0].round().clamp(0, 255).to(torch.uint8).movedim(0, -1).numpy()
    return resized


def _wrong_size(found: tuple[int, int], spec: WorldModelSpec, place: Path) -> FrameError:
    h, w = spec.frame_shape[1:]
    return FrameError(
        f"{place} has frames of {found[0]} x {found[1]} pixels (height x width), and the world has {h} x {w}. Ask "
        "for them to be resized (resize=True, --resize)."
    )

"""Precompute a stage's features of every recorded frame, in a memory-mapped file in the run's folder.

The file lies in a folder with its digest, so that damaged features are noticed, and computed again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from einops import pack, unpack
from torch import Tensor
from tqdm.auto import tqdm

from dreamenv.errors import CheckpointDamagedError
from dreamenv.frames import frames_to_model
from dreamenv.storage import FolderFormat
from dreamenv.world_model import Batch, Stage

__all__ = ["compute_features", "feature_blocks", "open_features", "with_features"]

_FILE = "features.npy"
_FORMAT = FolderFormat(
    kind="folder of features",
    manifest="features.json",
    version=1,
    missing=CheckpointDamagedError,
    damaged=CheckpointDamagedError,
    newer=CheckpointDamagedError,
    remedy="They are computed again.",
)

_CHUNK = 256  # frames at a time
_CPU_CHUNK = 32  # so that activations stay in the cache


def compute_features(
    path: Path,
    frames: npt.NDArray[np.uint8],
    precompute: Callable[[Tensor], Tensor],
    device: torch.device,
    *,
    progress: bool = False,
) -> None:
    """Run precompute over all frames (n, h, w, c); write the result (n, ...) into a folder, atomically.

    Floats are stored in half precision, integers in 32 bits.

    Raises:
        StorageError: the disk refused.
    """
    _FORMAT.write(path, lambda draft: _fill(draft / _FILE, frames, precompute, device, progress))


def open_features(path: Path, *, check: bool) -> np.memmap[Any, np.dtype[Any]]:
    """Map the features in a folder, (n, ...).

    Args:
        path: of the folder.
        check: whether to compare them with their digest.

    Raises:
        CheckpointDamagedError: they are missing or damaged.
    """
    if check:
        _FORMAT.read(path)
    mapped: np.memmap[Any, np.dtype[Any]] = np.load(path / _FILE, mmap_mode="r", allow_pickle=False)
    return mapped


def feature_blocks(
    frames: npt.NDArray[np.uint8], precompute: Callable[[Tensor], Tensor], device: torch.device
) -> Iterator[npt.NDArray[Any]]:
    """Run precompute over frames (n, h, w, c); yield blocks of the result, as they are stored."""
    chunk = _CPU_CHUNK if device.type == "cpu" else _CHUNK
    for first in range(0, len(frames), chunk):
        with torch.no_grad():
            part = precompute(frames_to_model(frames[first : first + chunk], device, channels_last=True))
        yield part.half().cpu().numpy() if part.is_floating_point() else part.int().cpu().numpy()


def with_features(batch: Batch, stage: Stage) -> Batch:
    """Return the batch with the features that the stage would have precomputed, if any, in place of its frames."""
    if stage.precompute is None:
        return batch
    frames = torch.cat((batch.first_frame[:, None], batch.frames), dim=1)  # b t+1 c h w
    flat, shape = pack([frames], "* c h w")
    values = stage.precompute(flat)
    rounded = values.half().float() if values.is_floating_point() else values.long()  # as they are stored
    return dataclasses.replace(
        batch,
        first_frame=batch.first_frame[:, :0],
        frames=batch.frames[:, :, :0],
        features=unpack(rounded.flatten(1), shape, "* d")[0].unflatten(-1, values.shape[1:]),
    )


def _fill(
    file: Path,
    frames: npt.NDArray[np.uint8],
    precompute: Callable[[Tensor], Tensor],
    device: torch.device,
    progress: bool,
) -> Mapping[str, Any]:
    stored: np.memmap[Any, np.dtype[Any]] | None = None
    first = 0
    with tqdm(total=len(frames), desc="features", unit="frame", disable=not progress, mininterval=0.5) as bar:
        for values in feature_blocks(frames, precompute, device):
            if stored is None:
                shape = (len(frames), *values.shape[1:])
                stored = np.lib.format.open_memmap(file, mode="w+", dtype=values.dtype, shape=shape)
                _reserve(file)
            stored[first : first + len(values)] = values
            first += len(values)
            bar.update(len(values))
        if stored is not None:
            stored.flush()
    return {"frames": len(frames)}


def _reserve(path: Path) -> None:
    """Allocate the file's blocks now, so that a full disk is an error here, not a crash when the mapping is written."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)

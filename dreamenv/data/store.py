"""All recorded frames as flat, memory-mapped arrays, from which training reads.

Built once per dataset, in ``<dataset>/cache/<hash>``, and shared by all its views; a damaged one is built again. Every
array has one row per recorded **frame**, episode after episode; the row of a frame has the action that led to it, and
the reward and termination of that step; where there are captions, also the hashes of the words of the one in force. An
episode of t steps has t + 1 rows, of which the first has no step (zeros).
So the window of t steps from row r is ``frames[r : r + t + 1]`` and ``actions[r + 1 : r + t + 1]``.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dreamenv.data.checks import no_rewards
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.steps import rewarded_steps
from dreamenv.errors import DatasetError
from dreamenv.storage import FolderFormat, locked, storage_errors
from dreamenv.text import MOST_WORDS, hash_text
from dreamenv.world_model import DataStatistics

__all__ = ["FrameStore"]


class _NoCacheError(DatasetError):
    """There is no cache."""


_FORMAT = FolderFormat(
    kind="training cache",
    manifest="cache.json",
    version=1,
    missing=_NoCacheError,
    damaged=DatasetError,
    newer=DatasetError,
    remedy="It is built again from the recording.",
)
_HASH_DIGITS = 16
_PROMPTS = "prompts.npy"
_BLOCK = 1024  # frames summed at a time: 12 MB at 64x64


class FrameStore:
    """Random access to a dataset's frames and steps.

    Args:
        dataset: a dataset or a view of one. A view's store has the arrays of the whole dataset and lists the view's
            episodes only.

    Attributes:
        frames: (n, h, w, c) uint8, memory-mapped; copy-on-write: changes stay in memory.
        actions: (n, *a) int64 or float32, the action that led to the frame.
        rewards: (n,) float32.
        terminated: (n,) bool.
        prompts: (n, w) int32, the caption in force when the action was taken, as hashes of its words (`dreamenv.text`);
            None where the whole dataset has none.
        starts: (e,) int64, the row of each episode's first frame.
        lengths: (e,) int64, the steps of each episode.

    Raises:
        DatasetError: the dataset is empty or damaged.
        StorageError: the disk could not be written; try again when there is space.
    """

    def __init__(self, dataset: EpisodeDataset) -> None:
        if len(dataset) == 0:
            raise DatasetError(f"{dataset.path} has no episodes here. Record some with: dreamenv collect")
        whole = dataset.whole()
        folder = dataset.path / "cache" / whole.content_hash()[:_HASH_DIGITS]
        _make(whole, folder)
        rows = np.concatenate(([0], np.cumsum(whole.lengths + 1)))
        self.dataset = dataset
        self.starts: npt.NDArray[np.int64] = rows[dataset.indices]
        self.lengths = dataset.lengths
        self.frames: npt.NDArray[np.uint8] = np.load(folder / "frames.npy", mmap_mode="c", allow_pickle=False)
        self.actions: npt.NDArray[Any] = np.load(folder / "actions.npy", allow_pickle=False)
        self.rewards: npt.NDArray[np.float32] = np.load(folder / "rewards.npy", allow_pickle=False)
        self.terminated: npt.NDArray[np.bool_] = np.load(folder / "terminated.npy", allow_pickle=False)
        captioned = (folder / _PROMPTS).exists()
        self.prompts: npt.NDArray[np.int32] | None = (
            np.load(folder / _PROMPTS, mmap_mode="c", allow_pickle=False) if captioned else None
        )

    @property
    def total_steps(self) -> int:
        """The number of steps in these episodes."""
        return int(self.lengths.sum())

    def statistics(self) -> DataStatistics:
        """Compute the statistics of these episodes that models are initialised with."""
        total = np.zeros(self.frames.shape[1:], np.float64)
        for start, length in zip(self.starts, self.lengths, strict=True):
            for begin in range(start, start + length + 1, _BLOCK):
                block = self.frames[begin : min(begin + _BLOCK, start + length + 1)]
                total += block.sum(axis=0, dtype=np.uint32)
        mean = total / (self.lengths + 1).sum() / 255.0
        steps = self._step_rows()
        rewards = self.rewards[steps].astype(np.float64)
        return DataStatistics(
            frame_mean=torch.from_numpy(mean.transpose(2, 0, 1).astype(np.float32, order="C")),
            reward_mean=float(rewards.mean()),
            reward_std=float(rewards.std()),
            reward_min=float(rewards.min()),
            reward_max=float(rewards.max()),
            termination_rate=float(self.terminated[steps].mean()),
        )

    def require_rewards(self, name: str, share: float, *, after: int = 0) -> None:
        """Raise unless a share before rewards can be had: it is 0, or there is a positive reward.

        Args:
            name: of the setting.
            share: its value.
            after: steps of an episode that come before such a reward, at least.

        Raises:
            DatasetError: there is none.
        """
        if share > 0 and not (rewarded_steps(self)[:, 1] >= after).any():
            raise no_rewards(name, share, self.dataset.path)

    def _step_rows(self) -> npt.NDArray[np.bool_]:
        """Return (n,) bool, the rows that have a step of these episodes."""
        has_step = np.zeros(len(self.rewards), np.bool_)
        for start, length in zip(self.starts, self.lengths, strict=True):
            has_step[start + 1 : start + length + 1] = True
        return has_step

    def __repr__(self) -> str:
        return f"FrameStore(episodes={len(self.starts)}, steps={self.total_steps}, frames={self.frames.shape} uint8)"


_checked: dict[Path, Any] = {}  # caches that this process has checked, with what would change if they did


def _make(dataset: EpisodeDataset, folder: Path) -> None:
    """Build the cache of a dataset unless a whole one is there."""
    if _is_whole(folder):
        return
    action = f"build the training cache {folder} ({_megabytes(dataset)} MB)"
    with storage_errors(action), locked(dataset.path / ".cache.lock"):
        if _is_whole(folder):  # another process was faster
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        for other in folder.parent.iterdir():  # of fewer episodes, or of a killed process; who maps one keeps it
            shutil.rmtree(other, ignore_errors=True)
        _FORMAT.write(folder, lambda draft: _fill(dataset, draft))
    _checked[folder] = _state(folder)


def _is_whole(folder: Path) -> bool:
    """Check a cache against its digests, once per process; warn of a damaged one."""
    try:
        if _checked.get(folder, ()) == _state(folder):
            return True
        _FORMAT.read(folder)
    except (_NoCacheError, FileNotFoundError):
        return False
    except DatasetError as error:
        warnings.warn(str(error), stacklevel=5)
        return False
    _checked[folder] = _state(folder)
    return True


def _state(folder: Path) -> list[tuple[str, int, int, int]]:
    facts = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    return [(name, fact.st_ino, fact.st_size, fact.st_mtime_ns) for name, fact in facts]


def _fill(dataset: EpisodeDataset, draft: Path) -> Mapping[str, Any]:
    rows = dataset.total_steps + len(dataset)
    layout = dataset.action_layout
    actions = np.zeros((rows, *layout.shape), layout.dtype)
    rewards, terminated = np.zeros(rows, np.float32), np.zeros(rows, np.bool_)
    prompts: npt.NDArray[np.int32] | None = None
    # Written as a stream: on a full disk that is an error, where writing to a mapped file would kill the process.
    with (draft / "frames.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *dataset.frame_shape)}
        np.lib.format.write_array_header_1_0(file, header)
        row = 0
        for episode in dataset:
            steps = slice(row + 1, row + 1 + len(episode))
            file.write(np.ascontiguousarray(episode.frames).data)
            actions[steps], rewards[steps] = episode.actions, episode.rewards
            terminated[steps.stop - 1] = episode.terminated
            if episode.captions is not None:
                prompts = np.zeros((rows, MOST_WORDS), np.int32) if prompts is None else prompts
                prompts[steps] = _hashes(episode.captions)
            row = steps.stop
    for name, array in (("actions", actions), ("rewards", rewards), ("terminated", terminated)):
        np.save(draft / f"{name}.npy", array, allow_pickle=False)
    if prompts is not None:
        np.save(draft / _PROMPTS, prompts, allow_pickle=False)
    return {"rows": rows}


def _hashes(captions: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the hashes of captions (t,), (t, w)."""
    known = {caption: hash_text(caption) for caption in set(captions)}
    return np.stack([known[caption] for caption in captions])


def _megabytes(dataset: EpisodeDataset) -> int:
    return -(-(dataset.total_steps + len(dataset)) * int(np.prod(dataset.frame_shape)) // 1_000_000)

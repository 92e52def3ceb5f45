"""A dataset of recorded episodes of one environment, stored as a Minari dataset.

::

    <path>/data/               loads with minari.MinariDataset(path / "data")
        metadata.json          spaces, provenance, totals
        0/ 1/ 2/ ...           one folder per episode, see episode_files.py
    <path>/pending/            episodes being written; never read
    <path>/cache/              built by FrameStore; may be deleted

An episode's folder is renamed into place when it is complete, so an episode is never written in part. After a crash the
totals in metadata.json, which Minari reads, may lack the last episode; the folders are what counts.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from dreamenv.action_layout import ActionLayout
from dreamenv.checks import check_instance, check_number, check_path, check_whole, show
from dreamenv.data.checks import check_actions, check_frame_shape
from dreamenv.data.env_spec import env_spec_json
from dreamenv.data.episode import Episode
from dreamenv.data.episode_files import EpisodeRecord, number_episode, read_episode, write_episode
from dreamenv.data.provenance import Provenance
from dreamenv.data.spaces import space_from_json, space_to_json
from dreamenv.errors import ConfigError, DatasetError, EpisodeError, StorageError
from dreamenv.storage import (
    draft_folder,
    move_into_place,
    read_json,
    refuse_malformed,
    seal,
    storage_errors,
    unseal,
    write_json,
)

__all__ = ["EpisodeDataset"]

_FORMAT_VERSION = 1
_REMEDY = "Restore it from a copy."


class EpisodeDataset(Sequence[Episode]):
    """Recorded episodes of one environment; use `create` or `open` to get one.

    Attributes:
        path: the folder.
        provenance: the setup of the environment.
        action_space: its action space.
        action_layout: how its actions are packed into arrays; for a Dict, Minari stores the flat space.
        frame_shape: (h, w, c) of every frame.
        records: the metadata of each episode.
    """

    path: Path
    provenance: Provenance
    action_space: gym.Space[Any]
    action_layout: ActionLayout
    frame_shape: tuple[int, int, int]
    records: list[EpisodeRecord]

    def __init__(self) -> None:
        raise TypeError("use EpisodeDataset.create(...) or .open(path).")

    @classmethod
    def create(
        cls,
        path: str | Path,
        provenance: Provenance,
        action_space: gym.Space[Any],
        frame_shape: tuple[int, int, int],
    ) -> EpisodeDataset:
        """Create an empty dataset.

        Args:
            path: a folder without a dataset.
            provenance: the environment that will be recorded.
            action_space: its action space.
            frame_shape: (h, w, c).

        Raises:
            DatasetError: the folder has a dataset.
            FrameError: the frames are neither grey (1 channel) nor RGB (3).
            StorageError: the disk could not be written.
        """
        path = check_path("where to create a dataset", path, error=StorageError).absolute()
        check_instance("provenance", provenance, Provenance)
        if (path / "data" / "metadata.json").exists():
            raise DatasetError(f"{path} has a dataset already; open it, or choose another folder.")
        frame_shape = check_frame_shape(frame_shape, provenance.environment_id)
        frames = gym.spaces.Box(0, 255, frame_shape, np.uint8)
        values = {
            "dataset_id": _dataset_id(provenance),
            "minari_version": installed.version("minari"),
            "total_episodes": 0,
            "total_steps": 0,
            "data_format": "arrow",
            "jpeg_encoding": False,
            "observation_space": json.dumps(space_to_json(frames)),
            "action_space": json.dumps(space_to_json(ActionLayout(action_space).flat_space)),
            "dreamenv": seal(
                {
                    "version": _FORMAT_VERSION,
                    "provenance": provenance.to_json(),
                    "frame_shape": list(frame_shape),
                    "action_space": space_to_json(action_space),
                }
            ),
        }
        spec = env_spec_json(provenance)
        if spec is not None:
            values["env_spec"] = spec
        write_json(path / "data" / "metadata.json", values)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> EpisodeDataset:
        """Open a dataset.

        Raises:
            DatasetError: it is missing, damaged, or written by a newer dreamenv.
        """
        path = check_path("where a dataset is", path, error=DatasetError).absolute()
        metadata = _read_metadata(path)
        with refuse_malformed(DatasetError, str(path / "data" / "metadata.json"), _REMEDY):
            own = unseal(metadata["dreamenv"], path / "data" / "metadata.json", DatasetError, _REMEDY)
            if own["version"] > _FORMAT_VERSION:
                raise DatasetError(
                    f"{path} was written by a newer dreamenv (format {own['version']}, this one reads up to "
                    f"{_FORMAT_VERSION}). Update with: pip install -U dreamenv"
                )
            self = cls.__new__(cls)
            self.path, self._metadata, self._facts = path, metadata, own
            self.provenance = Provenance.from_json(own["provenance"])
            self.action_space = space_from_json(own["action_space"])
            self.action_layout = ActionLayout(self.action_space)
            self.frame_shape = check_frame_shape(own["frame_shape"], self.provenance.environment_id)
            promised = check_whole("total_episodes", metadata["total_episodes"], least=0)
        self.records, self._members, self._total_steps = [], None, 0
        self._find_new_episodes()
        if len(self.records) < promised:
            raise DatasetError(
                f"{path} is damaged: it should have {promised} episodes, and the folder "
                f"{self._folder(len(self.records))} is missing. Restore it from a copy."
            )
        return self

    # Reading

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        """Read one episode.

        Raises:
            DatasetError: it is damaged.
        """
        if not isinstance(index, int | np.integer):
            raise TypeError(f"a dataset is indexed by a whole number, not {index!r}.")
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        number = int(index) % len(self) if self._members is None else int(self._members[index])
        return read_episode(self._folder(number), self.records[index], self.frame_shape, self.action_layout.shape)

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """(n,) int64, the numbers of these episodes in the folder; a view returned by `split` has a part of them."""
        return np.arange(len(self), dtype=np.int64) if self._members is None else self._members

    @property
    def total_steps(self) -> int:
        """The number of recorded steps."""
        return self._total_steps

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(n,) int64, the steps of each episode."""
        return np.array([record.steps for record in self.records], dtype=np.int64)

    def content_hash(self, first: int | None = None) -> str:
        """Return the SHA-256 of the provenance and all episodes, or the first so many; 64 hexadecimal digits."""
        content = hashlib.sha256(json.dumps(self._facts, sort_keys=True).encode())
        for record in self.records[:first]:
            content.update(bytes.fromhex(record.sha256))
        return content.hexdigest()

    def split(self, holdout: float, seed: int) -> tuple[EpisodeDataset, EpisodeDataset]:
        """Split by episode into views (train, held_out).

        Every 1/holdout-th episode is held out, counted from an offset given by the seed, so that episodes recorded
        later never change the side of an earlier one. With two episodes or more and a share above 0, neither side is
        empty; one episode alone is never held out. `whole` of either view is the whole dataset.

        Args:
            holdout: share of episodes to hold out, in [0, 1).
            seed: at least 0.
        """
        share = check_number("holdout", holdout)
        if not 0 <= share < 1:
            raise ConfigError(f"holdout must be a share in [0, 1), not {show(holdout)}.")
        holdout, seed = share, check_whole("seed", seed, least=0, most=2**63 - 1)
        phase = float(np.random.default_rng((seed, 0x5917)).random())
        indices = self.indices
        crossed = np.floor((indices + 1) * holdout + phase) > np.floor(indices * holdout + phase)
        if len(self) and crossed.all():
            crossed[int(phase * len(self))] = False
        if holdout > 0 and len(self) > 1 and not crossed.any():
            crossed[int(phase * len(self))] = True
        return self._view(np.flatnonzero(~crossed)), self._view(np.flatnonzero(crossed))

    def whole(self) -> EpisodeDataset:
        """Return the dataset that this is a view of."""
        return self if self._members is None else EpisodeDataset.open(self.path)

    # Writing

    def append(self, episode: Episode) -> None:
        """Add an episode atomically.

        Raises:
            EpisodeError: its frames have another size.
            ActionError: its actions are outside the action space.
            StorageError: the disk could not be written; the dataset is unchanged.
        """
        self._check(episode)
        action, pending = f"write an episode of {len(episode)} steps to {self.path}", self.path / "pending" / "append"
        with storage_errors(action), draft_folder(pending) as draft:
            write_episode(draft, episode, len(self))
            self.adopt(draft)

    def adopt(self, draft: Path) -> None:
        """Move an episode folder, written by `write_episode` on the same disk, into the dataset as its next episode."""
        if self._members is not None:
            raise DatasetError("this is a view of a dataset; append to the whole one: dataset.whole().append(...).")
        with storage_errors(f"add an episode to {self.path}"):
            while True:
                number = len(self)
                number_episode(draft, number)  # another process may have appended meanwhile
                if move_into_place(draft, self._folder(number)):
                    break
                self._find_new_episodes()
            self._find_new_episodes()
            totals = {"total_episodes": len(self), "total_steps": self._total_steps}  # running: not summed here
            self._metadata = {**self._metadata, **totals}
            write_json(self.path / "data" / "metadata.json", self._metadata)

    def __repr__(self) -> str:
        return (
            f"EpisodeDataset({str(self.path)!r}, environment={self.provenance.environment_id!r}, "
            f"episodes={len(self)}, steps={self.total_steps}, frames={self.frame_shape}, actions={self.action_space})"
        )

    # Private

    _metadata: dict[str, Any]
    _facts: dict[str, Any]  # what the metadata say of the environment
    _members: npt.NDArray[np.int64] | None  # the numbers of a view's episodes; None if all
    _total_steps: int

    def _folder(self, number: int) -> Path:
        return self.path / "data" / str(number)

    def _find_new_episodes(self) -> None:
        while self._folder(len(self.records)).is_dir():
            self.records.append(EpisodeRecord.read(self._folder(len(self.records))))
            self._total_steps += self.records[-1].steps

    def _view(self, members: npt.NDArray[np.int64]) -> EpisodeDataset:
        view = self.__class__.__new__(self.__class__)
        view.path, view.provenance = self.path, self.provenance
        view.action_space, view.action_layout = self.action_space, self.action_layout
        view.frame_shape, view._metadata, view._facts = self.frame_shape, self._metadata, self._facts
        view._members, view.records = self.indices[members], [self.records[i] for i in members]
        view._total_steps = sum(record.steps for record in view.records)
        return view

    def _check(self, episode: Episode) -> None:
        check_instance("what is appended", episode, Episode, error=EpisodeError)
        if episode.frames.shape[1:] != self.frame_shape:
            raise EpisodeError(
                f"the episode's frames are {episode.frames.shape[1:]}; those of {self.path} are {self.frame_shape}. "
                "Record with one frame size, or into another dataset."
            )
        check_actions(episode.actions, self.action_layout)


def _dataset_id(provenance: Provenance) -> str:
    """Return an id that Minari accepts: (namespace/)name-v0."""
    name = re.sub(r"[^-\w/]+", "-", provenance.environment_id).strip("-/") or "recording"
    return name if re.search(r"-v\d+$", name) else f"{name}-v0"


def _read_metadata(path: Path) -> dict[str, Any]:
    file = path / "data" / "metadata.json"
    if not file.exists():
        if (path / "metadata.json").exists():
            raise DatasetError(f"{path} is a plain Minari dataset; copy it with dreamenv.data.from_minari.")
        siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "Record one with: dreamenv collect"
        raise DatasetError(f"there is no dataset at {path}. {hint}")
    metadata: dict[str, Any] = read_json(file, DatasetError, _REMEDY)
    if "dreamenv" not in metadata:
        raise DatasetError(f"{path / 'data'} is a plain Minari dataset; copy it with dreamenv.data.from_minari.")
    return metadata

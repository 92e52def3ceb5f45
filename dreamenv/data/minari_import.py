"""Copying a foreign Minari dataset of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from dreamenv.action_layout import ActionLayout
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.episode import Episode
from dreamenv.data.provenance import Provenance
from dreamenv.data.spaces import space_from_json
from dreamenv.errors import DatasetError, EpisodeError, InputError
from dreamenv.storage import draft_folder, move_into_place, storage_errors, unseal

__all__ = ["from_minari"]


def from_minari(
    dataset: Any, path: str | Path, *, provenance: Provenance | None = None, frame_key: str | None = None
) -> EpisodeDataset:
    """Copy a Minari dataset of frames into a new dataset.

    Args:
        dataset: a ``minari.MinariDataset`` that observes uint8 (h, w, c), or a Dict that has such an entry.
        path: the new dataset's folder.
        provenance: the environment; by default what Minari knows of it.
        frame_key: the entry of a Dict observation that is the frame.

    Raises:
        DatasetError: its observations are no frames, it has no episodes, its description was altered, or the folder is
            taken.
        FrameError: its frames are neither grey nor RGB.
        EpisodeError, ActionError: an episode cannot be used; the message names it, and nothing is written.
        StorageError: the disk refused.
    """
    space = dataset.observation_space
    if frame_key is not None:
        space = space[frame_key] if isinstance(space, gym.spaces.Dict) and frame_key in space.spaces else None
    if not (isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3):
        raise DatasetError(
            f"{dataset.id} observes {dataset.observation_space}; frames must be a uint8 Box (h, w, c). "
            "Name the entry of a Dict with frame_key=..."
        )
    if len(dataset) == 0:
        raise DatasetError(f"{dataset.id} has no episodes.")
    height, width, channels = space.shape
    own = _facts(dataset)
    actions = dataset.action_space if own is None else space_from_json(own["action_space"])
    theirs = ActionLayout(dataset.action_space)
    known = provenance or _provenance(dataset, own, (height, width))
    path = Path(path).absolute()
    taken = DatasetError(f"the folder {path} is not empty; choose another one for the copy.")
    if path.exists() and any(path.iterdir()):
        raise taken
    with storage_errors(f"copy {dataset.id} to {path}"), draft_folder(path) as draft:
        made = EpisodeDataset.create(draft, known, actions, (height, width, channels))
        for index, data in enumerate(dataset.iterate_episodes()):
            try:
                made.append(_episode(dataset, data, index, theirs, frame_key))
            except (EpisodeError, InputError) as error:
                raise type(error)(f"{dataset.id}, episode {data.id}: {error}") from error
        if not move_into_place(draft, path):
            raise taken
    return EpisodeDataset.open(path)


def _episode(dataset: Any, data: Any, index: int, layout: ActionLayout, frame_key: str | None) -> Episode:
    facts = next(iter(dataset.storage.get_episode_metadata([data.id])))
    return Episode(
        frames=data.observations if frame_key is None else data.observations[frame_key],
        actions=layout.pack_rows(data.actions),
        rewards=data.rewards,
        terminated=bool(data.terminations[-1]),
        truncated=bool(data.truncations[-1]),
        at_episode_start=bool(facts.get("at_episode_start", True)),
        policy=facts.get("policy", dataset.id),
        seed=_whole_number(facts.get("seed"), index),
        score=facts.get("score"),
        success=facts.get("success"),
    )


def _whole_number(value: Any, otherwise: int) -> int:
    return int(value) if isinstance(value, int | np.integer) else otherwise


def _facts(dataset: Any) -> dict[str, Any] | None:
    """Return what dreamenv wrote of the environment into a dataset that it made."""
    own = dataset.storage.metadata.get("dreamenv")
    place = Path(dataset.storage.data_path) / "metadata.json"
    return None if own is None else unseal(own, place, DatasetError, "Restore it from a copy.")


def _provenance(dataset: Any, own: dict[str, Any] | None, size: tuple[int, int]) -> Provenance:
    if own is not None:
        return Provenance.from_json(own["provenance"])
    spec = dataset.env_spec
    if spec is None:
        return Provenance(environment_id=dataset.id, frame_size=size)
    return Provenance(
        environment_id=spec.id,
        environment_kwargs={k: v for k, v in spec.kwargs.items() if isinstance(v, str | int | float | bool | None)},
        frame_size=size,
        max_episode_steps=spec.max_episode_steps,
    )

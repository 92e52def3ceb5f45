"""Captions of the user's own for episodes that were recorded without any, or with others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from dreamenv.checks import check_path
from dreamenv.data.checks import check_captions
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.episode import Episode
from dreamenv.errors import ConfigError, DatasetError, EpisodeError, StorageError
from dreamenv.storage import draft_folder, move_into_place, storage_errors

__all__ = ["Captions", "with_captions"]

Captions = str | Sequence[str | None] | None
"""Of an episode: one string for all steps, one for each of its t steps ("" or None for nothing), or None."""


def with_captions(
    dataset: EpisodeDataset, captions: Sequence[Captions] | Callable[[Episode], Captions], path: str | Path
) -> EpisodeDataset:
    """Copy a dataset and give its episodes captions; the copy is whole or absent.

    Args:
        dataset: the recording, which stays as it is.
        captions: of every episode, in order; or a function that gives those of an episode.
        path: the folder of the copy, which must be empty or absent.

    Raises:
        ConfigError: captions for another number of episodes.
        EpisodeError: captions that do not go with an episode; the message names it, and nothing is written.
        DatasetError: the folder is taken, or the dataset is damaged.
        StorageError: the disk refused.
    """
    if not callable(captions) and (isinstance(captions, str) or len(captions) != len(dataset)):
        raise ConfigError(
            f"{len(dataset)} episodes need captions for each, not {len(captions)}; give a list, or a function."
        )
    path = check_path("where to write the captioned dataset", path, error=StorageError).absolute()
    taken = DatasetError(f"the folder {path} is not empty; choose another one for the captioned copy.")
    if path.exists() and any(path.iterdir()):
        raise taken
    with storage_errors(f"copy {dataset.path} to {path}"), draft_folder(path) as draft:
        made = EpisodeDataset.create(draft, dataset.provenance, dataset.action_space, dataset.frame_shape)
        for number, episode in enumerate(dataset):
            given = captions(episode) if callable(captions) else captions[number]
            try:
                made.append(dataclasses.replace(episode, captions=check_captions(given, len(episode))))
            except EpisodeError as error:
                raise EpisodeError(f"episode {number}: {error}") from error
        if not move_into_place(draft, path):
            raise taken
    return EpisodeDataset.open(path)

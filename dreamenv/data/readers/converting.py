"""Convert public recordings into a dataset, segment by segment, each completely on disk or absent.

Every episode stores its source's name (as ``policy``) and the number of its first frame (as ``seed``). So a conversion
that is run again reads only what is missing, and may add further sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.readers.source import Segment, Source, Sources
from dreamenv.data.recording import folder_lock, open_or_create
from dreamenv.errors import EpisodeError, InputError, RecordingError
from dreamenv.storage import storage_errors

__all__ = ["Conversion", "convert"]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        dataset: the dataset, with everything that could be read.
        damaged: the errors of the sources that were skipped.
    """

    dataset: EpisodeDataset
    damaged: list[RecordingError]


def convert(sources: Sources, path: str | Path, *, progress: bool = True) -> Conversion:
    """Add recordings to a dataset, which is created if needed; segments that it has are not read again.

    Args:
        sources: the result of `open_vpt`, `open_minerl` or `open_npz`.
        path: the dataset's folder.
        progress: whether to show a progress bar.

    Raises:
        RecordingError: a source is damaged; the sources before it were converted.
        DatasetError: the dataset is damaged, of another kind, or being written by another process.
        StorageError: the disk could not be written; call it again when there is space.
    """
    path = Path(path).absolute()
    if not sources.skip_damaged:
        _segments(sources.sources[0])  # to find an error in the first source before the folder is made
    with storage_errors(f"convert to {path}"):
        path.mkdir(parents=True, exist_ok=True)
    damaged = list(sources.damaged)
    with folder_lock(path):
        dataset = open_or_create(path, sources.provenance, sources.action_space, sources.frame_shape)
        with tqdm(total=0, unit="step", disable=not progress, mininterval=0.5) as bar:
            for number, source in enumerate(sources.sources, start=1):
                bar.set_description(f"converting {number}/{len(sources.sources)}")
                try:
                    _add(source, dataset, bar)
                except RecordingError as error:
                    if not sources.skip_damaged:
                        raise
                    damaged.append(error)
                finally:
                    source.release()
    return Conversion(dataset=dataset, damaged=damaged)


def _add(source: Source, dataset: EpisodeDataset, bar: Any) -> None:
    converted = {record.seed: record.steps for record in dataset.records if record.policy == source.name}
    segments = _segments(source)
    for first, last in segments:
        if converted.get(first, last - first) != last - first:
            raise RecordingError(
                f"{source.path} gives {last - first} steps from frame {first} on, but {dataset.path} has "
                f"{converted[first]} under its name: it is another file, or was changed. Rename it to add it."
            )
    bar.total += sum(last - first for first, last in segments)
    bar.update(sum(last - first for first, last in segments if first in converted))
    missing = [segment for segment in segments if segment[0] not in converted]
    episodes = source.episodes(missing)
    for first, _ in missing:
        with _refused(source, f"the episode from frame {first} on"):
            episode = next(episodes)
            dataset.append(episode)
        bar.update(len(episode))


def _segments(source: Source) -> list[Segment]:
    with _refused(source, "its steps"):
        return source.segments()


@contextmanager
def _refused(source: Source, part: str) -> Iterator[None]:
    """Turn errors of what may not be recorded into errors that name the source, so that it can be skipped."""
    try:
        yield
    except (EpisodeError, InputError) as error:
        raise RecordingError(
            f"{source.path} cannot be recorded, because of {part}: {error} Correct it, or leave it out."
        ) from error

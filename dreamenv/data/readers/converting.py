"""Convert public recordings into a dataset, segment by segment, each completely on disk or absent.

Every episode stores its source's name (as ``policy``) and the number of its first frame (as ``seed``). So a conversion
that is run again reads only what is missing, and may add further sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.readers.source import Source, Sources
from dreamenv.data.recording import folder_lock, open_or_create
from dreamenv.errors import RecordingError
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
        sources.sources[0].segments()  # to find an error in the first source before the folder is made
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
    converted = {record.seed for record in dataset.records if record.policy == source.name}
    segments = source.segments()
    bar.total += sum(last - first for first, last in segments)
    bar.update(sum(last - first for first, last in segments if first in converted))
    for episode in source.episodes([segment for segment in segments if segment[0] not in converted]):
        dataset.append(episode)
        bar.update(len(episode))

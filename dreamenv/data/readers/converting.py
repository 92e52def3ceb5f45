"""Converting public recordings into a dataset: piece by piece, each whole on the disk or absent.

Every episode carries its source's name (as ``policy``) and the number of its first frame (as ``seed``). So a conversion
that is run again finds what is there, reads only the rest, and may add further sources.
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
    """What came of it.

    Attributes:
        dataset: with everything that could be read.
        damaged: why the other sources could not be; empty unless damaged ones were to be skipped.
    """

    dataset: EpisodeDataset
    damaged: list[RecordingError]


def convert(sources: Sources, path: str | Path, *, progress: bool = True) -> Conversion:
    """Add recordings to a dataset, new or begun; what is in it already is left alone.

    Args:
        sources: made by `open_vpt`, `open_minerl` or `open_npz`, which say whether damaged ones are skipped.
        path: the dataset's folder.
        progress: whether to show a progress bar.

    Raises:
        RecordingError: a source is damaged; what was converted before it is kept.
        DatasetError: the dataset is damaged, of another kind, or being written by another process.
        StorageError: the disk refused; run it again when there is room.
    """
    path = Path(path).absolute()
    if not sources.skip_damaged:
        sources.sources[0].pieces()  # a first mistake is found before there is a folder
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
    there = {record.seed for record in dataset.records if record.policy == source.name}
    pieces = source.pieces()
    bar.total += sum(last - first for first, last in pieces)
    bar.update(sum(last - first for first, last in pieces if first in there))
    for episode in source.episodes([piece for piece in pieces if piece[0] not in there]):
        dataset.append(episode)
        bar.update(len(episode))

"""Write and read an episode as a folder in the layout of Minari's Arrow storage.

The folder has ``part-0.arrow`` and ``metadata.json``. Frames are stored losslessly, as pixels under
Zstandard (about 4 kB for a 64x64 frame of Doom), not as JPEG, which is Minari's default. Steps are padded to the t + 1
rows of the frames, as in Minari.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from dreamenv.checks import check_flag, check_number, check_typed, check_whole
from dreamenv.data.episode import Episode
from dreamenv.errors import DatasetError
from dreamenv.storage import read_json, refuse_malformed, seal, unseal, write_json

__all__ = ["EpisodeRecord", "number_episode", "read_episode", "write_episode"]

_ARROW, _METADATA = "part-0.arrow", "metadata.json"
_REMEDY = "Restore the folder from a copy, or record the dataset again."
_MOST = float(np.finfo(np.float64).max)
_COMPRESSION = "zstd"
_CAPTIONS = "captions"  # a column that Minari does not know, and leaves alone; only where there are any
_COMPRESSION_LEVEL = 1  # 75 us and 4.2 kB a frame of Doom at 64x64; level 9: 410 us and 3.0 kB


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """The metadata of an episode.

    Attributes:
        steps: t.
        terminated, truncated: how it ended.
        total_reward: the sum of its rewards.
        at_episode_start, policy, seed, score, success: as in `Episode`.
        sha256: its digest.
    """

    steps: int
    terminated: bool
    truncated: bool
    total_reward: float
    at_episode_start: bool
    policy: str
    seed: int
    score: float | None
    success: bool | None
    sha256: str

    @classmethod
    def read(cls, folder: Path) -> EpisodeRecord:
        """Read the record of the episode in a folder.

        Raises:
            DatasetError: it is missing, damaged or altered.
        """
        values = {"at_episode_start": True, **_read_metadata(folder)}  # 0.1 wrote none: it took every piece for a start
        with refuse_malformed(DatasetError, str(folder / _METADATA), _REMEDY):
            steps = values["total_steps"]
            return cls(steps=steps, **{name: values[name] for name in cls.__dataclass_fields__ if name != "steps"})

    def __post_init__(self) -> None:
        check_whole("total_steps", self.steps)
        check_whole("seed", self.seed, least=-(2**63), most=2**64)
        check_number("total_reward", self.total_reward, least=-_MOST, most=_MOST)
        if self.score is not None:
            check_number("score", self.score, least=-_MOST, most=_MOST)
        for name in ("terminated", "truncated", "at_episode_start"):
            check_flag(name, getattr(self, name))
        for name in ("policy", "sha256"):
            check_typed(name, getattr(self, name), str)
        check_typed("success", self.success, bool | None)


def write_episode(folder: Path, episode: Episode, number: int) -> EpisodeRecord:
    """Write an episode into an empty folder, which the caller then moves into its place.

    Raises:
        OSError: the disk could not be written.
    """
    record = EpisodeRecord(
        steps=len(episode),
        terminated=episode.terminated,
        truncated=episode.truncated,
        total_reward=float(episode.rewards.sum(dtype=np.float64)),
        at_episode_start=episode.at_episode_start,
        policy=episode.policy,
        seed=episode.seed,
        score=episode.score,
        success=episode.success,
        sha256=episode.digest(),
    )
    (folder / _ARROW).write_bytes(memoryview(_encode(episode)))
    values = {"id": number, "total_steps": len(episode), **{k: v for k, v in vars(record).items() if k != "steps"}}
    write_json(folder / _METADATA, seal(values))
    return record


def number_episode(folder: Path, number: int) -> None:
    """Give the episode in a folder another number, as Minari knows it.

    Raises:
        DatasetError: it is missing, damaged or altered.
        StorageError: the disk refused.
    """
    values = _read_metadata(folder)
    if values["id"] != number:
        write_json(folder / _METADATA, seal({**values, "id": number}))


def read_episode(
    folder: Path, record: EpisodeRecord, frame_shape: tuple[int, int, int], action_shape: tuple[int, ...]
) -> Episode:
    """Read an episode of frames (h, w, c) and actions (*a), and check it against its record.

    Raises:
        DatasetError: it is missing, damaged or was changed.
    """
    with refuse_malformed(DatasetError, f"the episode in {folder}", _REMEDY):
        with pa.memory_map(str(folder / _ARROW)) as file:
            table = pa.ipc.open_file(file).read_all()
        terminated, truncated = (_numbers(table[name])[-2] for name in ("terminations", "truncations"))
        episode = Episode(
            frames=np.array(_numbers(table["observations"])).reshape(-1, *frame_shape),  # Arrow's own is read-only
            actions=np.array(_numbers(table["actions"])[:-1]).reshape(-1, *action_shape),
            rewards=np.array(_numbers(table["rewards"])[:-1]),
            terminated=terminated,
            truncated=truncated,
            at_episode_start=record.at_episode_start,
            policy=record.policy,
            seed=record.seed,
            score=record.score,
            success=record.success,
            captions=table[_CAPTIONS].to_pylist()[:-1] if _CAPTIONS in table.column_names else None,
        )
        if len(episode) != record.steps:
            raise ValueError(f"it has {len(episode)} steps, and {_METADATA} says {record.steps}")
    if episode.digest() != record.sha256:
        raise DatasetError(
            f"the episode in {folder} was changed after it was recorded: its SHA-256 is {episode.digest()[:12]}…, "
            f"its record says {record.sha256[:12]}…. {_REMEDY}"
        )
    return episode


def _read_metadata(folder: Path) -> dict[str, Any]:
    file = folder / _METADATA
    return unseal(read_json(file, DatasetError, _REMEDY), file, DatasetError, _REMEDY)


def _encode(episode: Episode) -> Any:
    steps = len(episode)
    flags = np.zeros((2, steps + 1), np.bool_)
    flags[:, steps - 1] = episode.terminated, episode.truncated
    columns = {
        "observations": _rows(episode.frames),
        "actions": _rows(_padded(episode.actions)),
        "rewards": pa.array(_padded(episode.rewards)),
        "terminations": pa.array(flags[0]),
        "truncations": pa.array(flags[1]),
    }
    if episode.captions is not None:
        columns[_CAPTIONS] = pa.array([*episode.captions, ""], pa.string())
    batch = pa.RecordBatch.from_pydict(columns)
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec(_COMPRESSION, _COMPRESSION_LEVEL), use_threads=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _rows(values: npt.NDArray[Any]) -> Any:
    if values.ndim == 1:
        return pa.array(values)
    width = int(np.prod(values.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), width)


def _padded(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate((values, np.zeros_like(values[:1])))


def _numbers(column: Any) -> npt.NDArray[Any]:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    if isinstance(array.type, pa.FixedSizeListType):
        width = array.type.list_size
        values: npt.NDArray[Any] = array.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(-1, width)
    numbers: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return numbers

"""Record a real environment with several processes, so that the result depends on the seed alone.

Episode j is always played with the seed `episode_seed(seed, j)`, whichever worker plays it. Workers write finished
episodes to ``<dataset>/pending/<run>/<j>``; this process moves them into the dataset in the order of j. After a kill
both are kept: what is in the dataset stays, complete pending episodes are reused, the rest is played again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
from tqdm.auto import tqdm

from dreamenv.checks import check_path, check_whole, show
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.episode_files import EpisodeRecord, read_episode
from dreamenv.data.episode_runner import Description, Factories, RecordingJob
from dreamenv.data.policies import Policy
from dreamenv.data.provenance import Provenance
from dreamenv.data.spaces import space_from_json
from dreamenv.data.workers import InProcess, ProcessPool, WorkerPool
from dreamenv.envs.make import EnvironmentMaker, full_id
from dreamenv.errors import ConfigError, DatasetError, DreamenvError, StorageError
from dreamenv.storage import locked, storage_errors

__all__ = ["collect", "folder_lock", "open_or_create"]

_MOST_WORKERS = 1024
_MOST_SEED = 2**63 - 1
_AHEAD = 16  # episodes per worker that may be played before one that the dataset still waits for


def collect(
    make_env: EnvironmentMaker,
    make_policy: Callable[[], Policy],
    path: str | Path,
    *,
    steps: int | None = None,
    episodes: int | None = None,
    num_workers: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> EpisodeDataset:
    """Record until a dataset holds so many steps or episodes; resume a recording that was interrupted.

    Scripts must guard their entry with ``if __name__ == "__main__":``, since workers are spawned.

    Args:
        make_env: the environment, as `make_real` takes it; made in every worker. It must be deterministic by the seed
            of reset; ``info["score"]``, ``info["success"]`` and ``info["caption"]`` are recorded where given.
        make_policy: makes the policy; called in every worker.
        path: the dataset's folder; an existing dataset is extended.
        steps: record exactly this many agent steps in all. The last episode is cut there, and then has ``truncated``
            set and neither score nor success.
        episodes: record this many episodes in all; give this or ``steps``.
        num_workers: processes, at most 1024, each with one thread and a working directory of its own; 0 plays in this
            process.
        seed: at least 0; decides everything, together with the environment and the policy.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: a setting that cannot work, or an environment that cannot be recorded.
        UnknownNameError: there is no environment of that name.
        DatasetError: the dataset is damaged, of another environment, or being recorded by another process.
        WorkerError: a worker died; call it again to resume.
        StorageError: the disk could not be written; call it again when there is space.
    """
    if (steps is None) == (episodes is None):
        raise ConfigError("give either steps or episodes, such as steps=50_000.")
    if not callable(make_policy):
        raise ConfigError(f"make_policy must be a function that makes a policy, not {show(make_policy)}.")
    goal = check_whole("steps", steps) if steps is not None else check_whole("episodes", episodes)
    num_workers = check_whole("num_workers", num_workers, least=0, most=_MOST_WORKERS)
    seed = check_whole("seed", seed, least=0, most=_MOST_SEED)
    full_id(make_env)  # an unknown name is refused before any worker has started
    path = check_path("path", path, error=StorageError).absolute()
    if (path / "data" / "metadata.json").exists():
        dataset = EpisodeDataset.open(path)
        if (dataset.total_steps if steps is not None else len(dataset)) >= goal:
            dataset = _dataset(path, _describe((make_env, make_policy), num_workers))  # refuses another environment's
            if (path / "pending").exists():  # of a program that was killed before it could clear up
                with suppress(DreamenvError), folder_lock(path):  # not while another records, nor on a read-only disk
                    _clear(path / "pending", keep=())
            return dataset
    with storage_errors(f"record to {path}"):
        path.mkdir(parents=True, exist_ok=True)
    factories, working_directory = (make_env, make_policy), path / "pending" / f"workers-{os.getpid()}"
    with folder_lock(path):
        pool: WorkerPool = (
            ProcessPool(factories, num_workers, working_directory) if num_workers else InProcess(factories)
        )
        with closing(pool):
            dataset = _record(
                path, pool, goal, by_steps=steps is not None, seed=seed, keep=working_directory, progress=progress,
                ahead=_AHEAD * max(1, num_workers),
            )  # fmt: skip
        _clear(path / "pending", keep=())  # only now: running workers may still write episodes that are not needed
        return dataset


def _describe(factories: Factories, num_workers: int) -> Description:
    """Return what would be recorded, and write nothing beside the dataset, which may be read-only."""
    with storage_errors("start a recording"), TemporaryDirectory() as folder:
        pool: WorkerPool = ProcessPool(factories, 1, Path(folder)) if num_workers else InProcess(factories)
        with closing(pool):
            return pool.describe()


def _record(
    path: Path, pool: WorkerPool, goal: int, *, by_steps: bool, seed: int, keep: Path, progress: bool, ahead: int
) -> EpisodeDataset:
    description = pool.describe()
    dataset = _dataset(path, description)
    run = path / "pending" / _run_name(description, seed, goal if by_steps else None)
    job = RecordingJob(folder=run, seed=seed, max_steps=goal if by_steps else None)
    with storage_errors(f"record to {path}"):
        _clear(path / "pending", keep=(run, keep))
        run.mkdir(parents=True, exist_ok=True)
    number = len(dataset)  # the next episode to submit
    done = dataset.total_steps if by_steps else len(dataset)
    with tqdm(
        total=goal, initial=done, desc="recording", unit="step" if by_steps else "episode", disable=not progress,
        mininterval=0.5,
    ) as bar:  # fmt: skip
        while done < goal:
            while pool.has_capacity() and number < len(dataset) + ahead and (by_steps or number < goal):
                if not (run / str(number)).exists():  # else it was played before a kill
                    pool.submit(job, number)
                number += 1
            draft = run / str(len(dataset))
            if draft.exists():
                _add_pending(dataset, draft, goal - done if by_steps else None)
                before, done = done, dataset.total_steps if by_steps else len(dataset)
                bar.update(done - before)
            else:
                pool.wait()
    return dataset


def _add_pending(dataset: EpisodeDataset, draft: Path, max_steps: int | None) -> None:
    """Add a pending episode to the dataset, cut to the steps that are still missing."""
    record = EpisodeRecord.read(draft)
    if max_steps is None or record.steps <= max_steps:
        dataset.adopt(draft)
        return
    whole = read_episode(draft, record, dataset.frame_shape, dataset.action_layout.shape)
    dataset.append(
        replace(
            whole, frames=whole.frames[: max_steps + 1], actions=whole.actions[:max_steps],
            rewards=whole.rewards[:max_steps], captions=whole.captions and whole.captions[:max_steps],
            terminated=False, truncated=True, score=None, success=None,
        )
    )  # fmt: skip


def _dataset(path: Path, description: Description) -> EpisodeDataset:
    """Open or create the dataset, and check that it is of this environment."""
    height, width, channels = description["frame_shape"]
    return open_or_create(
        path,
        Provenance.from_json(description["provenance"]),
        space_from_json(description["action_space"]),
        (height, width, channels),
    )


def open_or_create(
    path: Path, provenance: Provenance, space: gym.Space[Any], frame_shape: tuple[int, int, int]
) -> EpisodeDataset:
    """Open or create the dataset in a folder, and check that it was recorded in the same way.

    Raises:
        DatasetError: it is of another environment, or was read with other settings; the message names both values.
    """
    if not (path / "data" / "metadata.json").exists():
        return EpisodeDataset.create(path, provenance, space, frame_shape)
    dataset = EpisodeDataset.open(path)
    here, there = _settings(provenance), _settings(dataset.provenance)
    here |= {"actions": space, "frames": frame_shape}
    there |= {"actions": dataset.action_space, "frames": dataset.frame_shape}
    found = [
        f"{name}: {here.get(name)} against {there.get(name)}"
        for name in {**here, **there}
        if here.get(name) != there.get(name)
    ]
    if found:
        raise DatasetError(
            f"{path} was recorded in another way: {'; '.join(found)}. Record into another folder, or with the "
            "dataset's settings."
        )
    return dataset


def _settings(provenance: Provenance) -> dict[str, Any]:
    """Return all that a provenance says, the arguments of the environment one by one."""
    values = provenance.to_json()
    return values | {f"argument {name}": value for name, value in values.pop("environment_kwargs").items()}


def _run_name(description: Description, seed: int, limit: int | None) -> str:
    """Name the folder of pending episodes so that only the same recording reuses them."""
    content = json.dumps([description, seed, limit], sort_keys=True, default=str)
    return f"run-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _clear(folder: Path, keep: tuple[Path, ...]) -> None:
    for other in folder.iterdir() if folder.is_dir() else ():
        if other not in keep:
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def folder_lock(path: Path) -> Iterator[None]:
    """Keep a second writer out of a dataset's folder; the lock ends with this process, however it ends.

    Raises:
        DatasetError: another process holds it.
    """
    busy = DatasetError(f"{path} is being recorded by another process; wait for it or choose another folder.")
    with locked(path / ".lock", busy):
        yield

"""The processes that record episodes: submit an episode, wait until one is written, learn when a worker died."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from gymnasium.vector.utils import CloudpickleWrapper

from dreamenv.data.episode_runner import (
    Description,
    EpisodeRunner,
    Factories,
    RecordingJob,
    Stopped,
    episode_seed,
    write_pending,
)
from dreamenv.errors import ConfigError, EpisodeError, InputError, StorageError, WorkerError
from dreamenv.signals import leave_signals_to_parent, signals_held
from dreamenv.supervisor import close_descriptors_on_exec, end_with_parent

__all__ = ["InProcess", "ProcessPool", "WorkerPool"]

_QUEUE_SIZE = 2  # episodes per worker: the one it plays, and the next, so that it is never idle
_JOIN_TIMEOUT = 5.0  # seconds that workers have to close their environments
_CHECK_SECONDS = 1.0  # between two looks whether the workers live, when none sends anything
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class WorkerPool(Protocol):
    """Plays episodes and writes each to its job's folder."""

    def describe(self) -> Description:
        """Wait until a worker is ready and return what it records."""
        ...

    def has_capacity(self) -> bool:
        """Return whether another episode can be submitted."""
        ...

    def submit(self, job: RecordingJob, number: int) -> None:
        """Play episode ``number`` of a job."""
        ...

    def wait(self) -> None:
        """Wait until an episode was written or there is capacity."""
        ...

    def close(self) -> None:
        """Stop all workers; episodes in progress are dropped."""
        ...


class InProcess:
    """Plays in this process, without any worker."""

    def __init__(self, factories: Factories) -> None:
        self._runner = EpisodeRunner(factories)
        self._next: tuple[RecordingJob, int] | None = None

    def describe(self) -> Description:
        """Return what is recorded."""
        return self._runner.describe()

    def has_capacity(self) -> bool:
        """Return whether no episode is waiting to be played."""
        return self._next is None

    def submit(self, job: RecordingJob, number: int) -> None:
        """Play this episode in the next `wait`."""
        self._next = job, number

    def wait(self) -> None:
        """Play the submitted episode."""
        if self._next is not None:
            job, number = self._next
            write_pending(job.folder, number, self._runner.run(job, number))
            self._next = None

    def close(self) -> None:
        """Close the environment."""
        self._runner.close()


@dataclass(eq=False)
class _Worker:
    index: int
    process: SpawnProcess
    connection: Connection
    ready: bool = False
    jobs: deque[tuple[RecordingJob, int]] = field(default_factory=deque)  # with the episode's number


class ProcessPool:
    """Plays in worker processes.

    They are spawned, not forked: a fork would copy locks that threads of torch or SDL hold.

    Args:
        factories: make the environment and the policy, in each worker.
        count: how many workers, at least 1.
        working_directory: a folder in which each worker gets one of its own; removed at the end.
    """

    def __init__(self, factories: Factories, count: int, working_directory: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._working_directory = working_directory
        stopped, self._going_on = context.Pipe(duplex=False)  # its end is the sign to stop, whoever closes it
        self._description: Description | None = None
        self._workers: list[_Worker] = []
        try:
            with signals_held():
                resource_tracker.ensure_running()  # it starts with the first process, and does not handle SIGHUP
            with _environment(_ONE_THREAD):
                for index in range(count):
                    ours, theirs = context.Pipe()
                    process = context.Process(
                        target=_worker_main,
                        args=(
                            theirs,
                            CloudpickleWrapper(factories[0]),  # type: ignore[arg-type]  # a name is pickled, too
                            CloudpickleWrapper(factories[1]),
                            working_directory / str(index),
                            stopped,
                        ),
                        name=f"recorder-{index}",
                        daemon=False,  # an environment may need processes of its own
                    )
                    with signals_held():  # by the process from its first moment, too
                        process.start()
                    theirs.close()
                    self._workers.append(_Worker(index, process, ours))
        except BaseException:
            self.close()
            raise
        finally:
            stopped.close()

    def describe(self) -> Description:
        """Wait until a worker is ready and return what it records."""
        while self._description is None:
            self.wait()
        return self._description

    def has_capacity(self) -> bool:
        """Return whether a worker can take another episode."""
        return any(worker.ready and len(worker.jobs) < _QUEUE_SIZE for worker in self._workers)

    def submit(self, job: RecordingJob, number: int) -> None:
        """Send an episode to the least busy worker.

        Raises:
            WorkerError, StorageError, ConfigError, InputError, EpisodeError: that worker has failed.
        """
        worker = min((w for w in self._workers if w.ready), key=lambda w: len(w.jobs))
        worker.jobs.append((job, number))
        try:
            worker.connection.send((job, number))
        except OSError:
            self._receive(worker)
            raise self._death(worker) from None

    def wait(self) -> None:
        """Wait for a message of a worker, or for a second.

        Raises:
            WorkerError: a worker died.
            StorageError: a worker could not write.
            ConfigError, InputError, EpisodeError: the environment cannot be recorded.
        """
        readable = wait([worker.connection for worker in self._workers], _CHECK_SECONDS)
        for worker in self._workers:
            # A dead worker's pipe is readable, unless a process that the worker has started holds its other end.
            if worker.connection in readable or not worker.process.is_alive():
                self._receive(worker)

    def close(self) -> None:
        """Ask the workers to stop, and kill those that do not within some seconds."""
        self._going_on.close()
        for worker in self._workers:
            with suppress(OSError):
                worker.connection.send(None)
        deadline = time.monotonic() + _JOIN_TIMEOUT
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        shutil.rmtree(self._working_directory, ignore_errors=True)

    def _receive(self, worker: _Worker) -> None:
        try:
            if not worker.connection.poll() and not worker.process.is_alive():
                raise EOFError
            message: tuple[Any, ...] = worker.connection.recv()
        except (EOFError, OSError):
            raise self._death(worker) from None
        match message:
            case ("ready", description):
                worker.ready = True
                self._description = self._description or description
            case ("done", number):
                worker.jobs.remove(next(entry for entry in worker.jobs if entry[1] == number))
            case ("failed", "storage", details):
                raise StorageError(*details)
            case ("failed", "refused", error):
                raise error
            case (_, _, details):
                raise WorkerError(f"{self._name(worker)} failed:\n\n{details[0]}")

    def _death(self, worker: _Worker) -> WorkerError:
        worker.process.join(_JOIN_TIMEOUT)
        code = worker.process.exitcode
        cause = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return WorkerError(
            f"{self._name(worker)} died ({cause}). What was recorded is kept; run the same command again to resume"
            + (", with fewer workers if memory ran out." if code == -9 else ".")
        )

    def _name(self, worker: _Worker) -> str:
        name = f"recording worker {worker.index} (process {worker.process.pid})"
        if worker.jobs:
            job, number = worker.jobs[0]
            return f"{name}, playing episode {number} (seed {episode_seed(job.seed, number)}),"
        return f"{name}, {'idle' if worker.ready else 'starting'},"


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started meanwhile; what the user has set stays."""
    missing = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _worker_main(
    connection: Connection,
    make_env: CloudpickleWrapper,
    make_policy: Any,  # a CloudpickleWrapper, whose annotations are those of an environment's factory
    working_directory: Path,
    stopped: Connection,
) -> None:
    """Play episodes until asked to stop or until the recording process is gone: the main function of a worker process.

    Sends ("ready", description), then ("done", number) for each (job, number) received; or ("failed", kind, message),
    and ends. ``stopped`` can be read when the recording ends or its process has died.
    """
    leave_signals_to_parent()  # Ctrl-C reaches the recording process, too, which ends the workers
    close_descriptors_on_exec()  # else an engine would keep the pipes open when this process has died
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with_parent(parent.pid)
    runner: EpisodeRunner | None = None
    try:
        runner = EpisodeRunner((make_env.fn, make_policy.fn), working_directory)
        connection.send(("ready", runner.describe()))
        while (message := connection.recv()) is not None:
            job, number = message
            write_pending(job.folder, number, runner.run(job, number, stopped.poll))
            connection.send(("done", number))
    except (Stopped, EOFError, BrokenPipeError):
        pass
    except StorageError as error:
        with suppress(OSError):
            connection.send(("failed", "storage", error.args))
    except (ConfigError, InputError, EpisodeError) as error:
        with suppress(OSError):
            connection.send(("failed", "refused", error))
    except Exception:
        with suppress(OSError):
            connection.send(("failed", "error", (traceback.format_exc(),)))
    finally:
        if runner is not None:
            with suppress(Exception):
                runner.close()

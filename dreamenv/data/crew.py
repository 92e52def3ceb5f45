"""The processes that record, behind one small face: hand out episodes, wait for them, hear of deaths."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from gymnasium.vector.utils import CloudpickleWrapper

from dreamenv.data.worker import Description, Makers, Player, episode_seed, work, write_pending
from dreamenv.errors import ConfigError, StorageError, WorkerError

__all__ = ["Crew", "Here", "Order", "Processes"]

_QUEUED = 2  # episodes a worker holds: the one it plays, and the next, so that it never waits for us
_PATIENCE = 10.0  # seconds that a worker has to close its environment
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What all episodes of one call have in common.

    Attributes:
        folder: where pending episodes go.
        seed: of the recording.
        limit: the most steps an episode may have; None for no limit.
    """

    folder: Path
    seed: int
    limit: int | None


class Crew(Protocol):
    """Who plays."""

    def describe(self) -> Description:
        """Wait until someone is ready and say what is recorded."""
        ...

    def free(self) -> bool:
        """Whether someone can take another episode."""
        ...

    def play(self, order: Order, number: int) -> None:
        """Hand out an episode."""
        ...

    def wait(self) -> None:
        """Wait until something happened: an episode was written, or someone is free."""
        ...

    def close(self) -> None:
        """End everything; episodes in progress are dropped."""
        ...


class Here:
    """Plays in this process, without any worker."""

    def __init__(self, makers: Makers) -> None:
        self._player = Player(makers)
        self._next: tuple[Order, int] | None = None

    def describe(self) -> Description:
        """Say what is recorded."""
        return self._player.describe()

    def free(self) -> bool:
        """Whether nothing is waiting to be played."""
        return self._next is None

    def play(self, order: Order, number: int) -> None:
        """Remember what to play."""
        self._next = order, number

    def wait(self) -> None:
        """Play it."""
        if self._next is not None:
            order, number = self._next
            write_pending(order.folder, number, self._player.play(order.seed, number, order.limit))
            self._next = None

    def close(self) -> None:
        """Close the environment."""
        self._player.close()


@dataclass(eq=False)
class _Worker:
    index: int
    process: SpawnProcess
    connection: Connection
    ready: bool = False
    jobs: deque[tuple[int, int]] = field(default_factory=deque)  # (seed of the recording, number)


class Processes:
    """Plays in worker processes.

    They are spawned, not forked: a fork would copy locks that threads of torch or SDL hold.

    Args:
        makers: make the environment and the policy, in each worker.
        count: how many, at least 1.
        home: a folder in which each gets one to work in; removed at the end.
    """

    def __init__(self, makers: Makers, count: int, home: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop, self._home = context.Event(), home
        self._description: Description | None = None
        self._workers: list[_Worker] = []
        try:
            with _environment(_ONE_THREAD):
                for index in range(count):
                    ours, theirs = context.Pipe()
                    process = context.Process(
                        target=work,
                        args=(
                            theirs,
                            CloudpickleWrapper(makers[0]),
                            CloudpickleWrapper(makers[1]),
                            home / str(index),
                            self._stop,
                        ),
                        name=f"recorder-{index}",
                        daemon=False,  # an environment may need processes of its own
                    )
                    process.start()
                    theirs.close()
                    self._workers.append(_Worker(index, process, ours))
        except BaseException:
            self.close()
            raise

    def describe(self) -> Description:
        """Wait until a worker is ready and say what is recorded."""
        while self._description is None:
            self.wait()
        return self._description

    def free(self) -> bool:
        """Whether a worker can take another episode."""
        return any(worker.ready and len(worker.jobs) < _QUEUED for worker in self._workers)

    def play(self, order: Order, number: int) -> None:
        """Hand an episode to the least busy worker."""
        worker = min((w for w in self._workers if w.ready), key=lambda w: len(w.jobs))
        worker.jobs.append((order.seed, number))
        try:
            worker.connection.send((order.folder, order.seed, number, order.limit))
        except OSError:
            self._hear(worker)
            raise self._death(worker) from None

    def wait(self) -> None:
        """Wait for a message of a worker.

        Raises:
            WorkerError: one died.
            StorageError: one could not write.
            ConfigError: the environment cannot be recorded.
        """
        heard = wait([worker.connection for worker in self._workers])  # a dead worker's pipe ends, which is heard too
        for worker in self._workers:
            if worker.connection in heard:
                self._hear(worker)

    def close(self) -> None:
        """End the workers, kindly first."""
        self._stop.set()
        for worker in self._workers:
            with suppress(OSError):
                worker.connection.send(None)
        for worker in self._workers:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def _hear(self, worker: _Worker) -> None:
        try:
            message: tuple[Any, ...] = worker.connection.recv()
        except (EOFError, OSError):
            raise self._death(worker) from None
        match message:
            case ("ready", description):
                worker.ready = True
                self._description = self._description or description
            case ("done", number):
                worker.jobs.remove(next(job for job in worker.jobs if job[1] == number))
            case ("failed", "storage", details):
                raise StorageError(*details)
            case ("failed", "config", details):
                raise ConfigError(*details)
            case (_, _, details):
                raise WorkerError(f"{self._name(worker)} failed:\n\n{details[0]}")

    def _death(self, worker: _Worker) -> WorkerError:
        worker.process.join(_PATIENCE)
        code = worker.process.exitcode
        cause = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return WorkerError(
            f"{self._name(worker)} died ({cause}). What was recorded is kept; run it again to go on"
            + (", with fewer workers if memory ran out." if code == -9 else ".")
        )

    def _name(self, worker: _Worker) -> str:
        name = f"recording worker {worker.index} (process {worker.process.pid})"
        if worker.jobs:
            seed, number = worker.jobs[0]
            return f"{name}, playing episode {number} (seed {episode_seed(seed, number)}),"
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

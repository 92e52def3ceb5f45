"""Run a MineRL worker process: start it, send requests, read frames from shared memory, kill all it started.

The protocol is described in `dreamenv.envs.minerl.worker`. The frame is in a file without a name, in /dev/shm where
that exists, which both processes map: nothing is left of it when both have ended, however they ended.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamenv.envs.minerl import worker
from dreamenv.envs.minerl.interpreter import VARIABLE
from dreamenv.envs.minerl.worker.messages import PROTOCOL, MessagePipe
from dreamenv.envs.minerl.worker.watchdog import MARK, kill_marked
from dreamenv.errors import ConfigError, UnavailableError, WorkerError

__all__ = ["MinerlProcess"]

_START_SECONDS = 300.0  # until the worker has imported MineRL
_CLOSE_SECONDS = 5.0
_LOG_LINES = 8


class MinerlProcess:
    """A worker process with one MineRL environment. Whenever a method raises, the worker and its game have been ended.

    Args:
        python: MineRL's interpreter.
        task: short name of the task, for error messages.
        env_id: MineRL's id of the environment.
        port: of a running game; None starts one on the first reset.
        measures: which of "logs" and "metres" the worker measures.

    Attributes:
        hello: the answer to the first message, see `dreamenv.envs.minerl.worker`.
        frame: (height, width, 3) uint8 RGB, the last frame, in shared memory: the next call overwrites it.

    Raises:
        UnavailableError: the interpreter has no MineRL, or its MineRL does not have this environment.
        ConfigError: no game listens on the port, or it is in use.
        WorkerError: the worker died or did not answer.
    """

    def __init__(
        self, python: str, *, task: str, env_id: str, port: int | None = None, measures: Sequence[str] = ()
    ) -> None:
        self._task, self._python, self._port = task, python, port
        self.mark = uuid.uuid4().hex
        self.folder = tempfile.mkdtemp(prefix="dreamenv-minerl-")
        self._frame_file = _anonymous_file()
        their_requests, requests = os.pipe()
        replies, their_replies = os.pipe()
        their_alive, alive = os.pipe()
        self._pipe = MessagePipe(replies, requests)
        descriptors = (their_requests, their_replies, self._frame_file, their_alive)
        try:
            with open(Path(self.folder) / "worker.log", "wb") as log:
                self._process = subprocess.Popen(
                    [python, "-u", os.path.dirname(worker.__file__), *map(str, descriptors), str(os.getpid())],
                    cwd=self.folder,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=descriptors,
                    # A group of its own, so that Ctrl-C reaches only this process. Not a session of its own: Linux
                    # schedules a busy processor by session, so every message would wait (measured: half the speed).
                    process_group=0,
                )
        except OSError as error:
            for descriptor in (*descriptors, requests, replies, alive):
                os.close(descriptor)
            shutil.rmtree(self.folder, ignore_errors=True)
            raise UnavailableError(task, f"{python} cannot be started: {error}", f"set {VARIABLE}") from error
        for descriptor in (their_requests, their_replies, their_alive):
            os.close(descriptor)
        mine = (requests, replies, alive, self._frame_file)
        self._end = weakref.finalize(self, _end, self._process, mine, self.mark, self.folder, os.getpid())
        self.hello = self.request(
            "hello",
            seconds=_START_SECONDS,
            protocol=PROTOCOL,
            env_id=env_id,
            port=port,
            measures=list(measures),
        )
        shape = tuple(self.hello["pov"])
        shared = mmap.mmap(self._frame_file, int(np.prod(shape)))
        self.frame: NDArray[np.uint8] = np.frombuffer(shared, np.uint8).reshape(shape)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._end.alive and self._process.poll() is None

    def request(self, operation: str, *, seconds: float, **values: Any) -> dict[str, Any]:
        """Send a request and return the answer.

        Args:
            operation: "hello", "reset" or "step", see `dreamenv.envs.minerl.worker`.
            seconds: time limit.
            values: the arguments of the operation.
        """
        try:
            self._pipe.send({"op": operation, **values})
            answer = self._pipe.receive(seconds)
        except TimeoutError:
            raise self._failed(f"did not answer {operation!r} within {seconds:g} s{self._about_port()}") from None
        except (EOFError, OSError):
            raise self._failed(f"died during {operation!r}") from None
        except BaseException:  # after an interrupt, the next answer would be that of this request
            self.close()
            raise
        if not answer["ok"]:
            raise self._request_error(answer["kind"], answer["message"])
        return dict(answer)

    def close(self) -> None:
        """End the worker and everything it started; calling it again does nothing."""
        if self._end.alive and os.getpid() == self._owner and self._port is not None and self._process.poll() is None:
            with contextlib.suppress(OSError, EOFError, ValueError):
                self._pipe.send({"op": "close"})
                self._pipe.receive(_CLOSE_SECONDS)
        self._end()

    @property
    def _owner(self) -> int:
        details = self._end.peek()
        return int(details[2][-1]) if details is not None else -1

    def _environment(self) -> dict[str, str]:
        """Return our variables without those of our interpreter, and those that the worker needs."""
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "VIRTUAL_ENV")}
        if "DISPLAY" not in kept and shutil.which("xvfb-run"):
            kept.setdefault("MINERL_HEADLESS", "1")  # MineRL 0.4's own switch: its launchClient.sh uses xvfb-run
        return {**kept, MARK: self.mark, "TMPDIR": self.folder}

    def _request_error(self, kind: str, message: str) -> Exception:
        """End the worker and return the error for its failed answer."""
        failed = self._failed(message)
        if kind in ("missing", "broken"):
            remedy = f"set {VARIABLE} to a Python whose `import minerl` works (see docs/minecraft.md)"
            return UnavailableError(self._task, f"{self._python}: {message}", remedy)
        if kind == "unknown_env":
            remedy = f"set {VARIABLE} to a Python with the MineRL version that has it (see docs/minecraft.md)"
            return UnavailableError(self._task, f"{self._python}: {message}", remedy)
        if kind in ("no_game", "port_taken"):
            return ConfigError(f"{message}; start a game of its own there, or leave port out and one is started.")
        if kind == "measure":
            return ConfigError(f"{self._task}: {message}, which this reward or score needs; use reward='native'.")
        return failed

    def _failed(self, what: str) -> WorkerError:
        """End the worker and return an error with the last lines of its log."""
        log = _last_lines(Path(self.folder) / "worker.log")
        self._end()
        return WorkerError(
            f"the MineRL worker of {self._task} {what}. It was ended; reset() starts a new one."
            + (f" The end of its log:\n{log}" if log else "")
        )

    def _about_port(self) -> str:
        return f" (is it a MineRL game that listens on port {self._port}?)" if self._port is not None else ""


def _anonymous_file() -> int:
    """Open a file without a name, in memory if possible."""
    memory = "/dev/shm" if sys.platform.startswith("linux") and os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryFile(prefix="dreamenv-minerl-", dir=memory) as file:
        return os.dup(file.fileno())


def _last_lines(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(line for line in lines[-_LOG_LINES:])


def _end(process: subprocess.Popen[bytes], descriptors: Sequence[int], mark: str, folder: str, owner: int) -> None:
    """Close our descriptors, kill everything with the mark, remove the folder."""
    for descriptor in descriptors:
        os.close(descriptor)
    if os.getpid() != owner:
        return  # a fork of the process that started the worker must not end it
    kill_marked(mark)
    with contextlib.suppress(ProcessLookupError):
        process.kill()  # where there is no /proc
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)

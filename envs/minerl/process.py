"""Our end of the pipe to a MineRL worker: starts it, asks it, takes frames from shared memory, ends all it started.

The protocol is written down in `dreamenv.envs.minerl.worker`. The frame lies in a file without a name, in memory where
there is /dev/shm, that both sides map: nothing is left of it when both have ended, however they ended.
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
from dreamenv.errors import ConfigError, UnavailableError, WorkerError

__all__ = ["MinerlProcess"]

_START_SECONDS = 300.0  # until the worker has imported MineRL
_LEAVE_SECONDS = 5.0
_LOG_LINES = 8


class MinerlProcess:
    """A worker that has one MineRL environment. Whenever a method raises, the worker and its game are gone.

    Args:
        python: MineRL's interpreter.
        task: short name of the task, for messages.
        env_id: MineRL's id of the environment.
        port: of a game that runs already; None starts one on the first reset.
        measures: what the worker must measure, see `dreamenv.envs.minerl.worker`.

    Attributes:
        hello: what the worker says about itself.
        frame: (height, width, 3) uint8 RGB, the frame last seen, in shared memory: the next call overwrites it.

    Raises:
        UnavailableError: MineRL is not in this interpreter, or not this environment in that MineRL.
        ConfigError: the port leads to no game, or to one in use.
        WorkerError: it died or did not answer.
    """

    def __init__(
        self, python: str, *, task: str, env_id: str, port: int | None = None, measures: Sequence[str] = ()
    ) -> None:
        self._task, self._python, self._port = task, python, port
        self.mark = uuid.uuid4().hex
        self.folder = tempfile.mkdtemp(prefix="dreamenv-minerl-")
        self._frame_file = _anonymous_file()
        theirs_in, requests = os.pipe()
        replies, theirs_out = os.pipe()
        theirs_life, life = os.pipe()
        self._line = worker.Line(replies, requests)
        given = (theirs_in, theirs_out, self._frame_file, theirs_life)
        try:
            with open(Path(self.folder) / "worker.log", "wb") as log:
                self._process = subprocess.Popen(
                    [python, "-u", worker.__file__, *map(str, given), str(os.getpid())],
                    cwd=self.folder,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=given,
                    # A group of its own, so that Ctrl-C reaches us only. Not a session of its own: Linux shares out a
                    # busy processor by session, and every message would wait for a turn (measured: half the speed).
                    process_group=0,
                )
        except OSError as error:
            for descriptor in (*given, requests, replies, life):
                os.close(descriptor)
            shutil.rmtree(self.folder, ignore_errors=True)
            raise UnavailableError(task, f"{python} cannot be started: {error}", f"set {VARIABLE}") from error
        for descriptor in (theirs_in, theirs_out, theirs_life):
            os.close(descriptor)
        mine = (requests, replies, life, self._frame_file)
        self._end = weakref.finalize(self, _end, self._process, mine, self.mark, self.folder, os.getpid())
        self.hello = self.ask(
            "hello",
            seconds=_START_SECONDS,
            protocol=worker.PROTOCOL,
            env_id=env_id,
            port=port,
            measures=list(measures),
        )
        shape = tuple(self.hello["pov"])
        shared = mmap.mmap(self._frame_file, int(np.prod(shape)))
        self.frame: NDArray[np.uint8] = np.frombuffer(shared, np.uint8).reshape(shape)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._end.alive and self._process.poll() is None

    def ask(self, operation: str, *, seconds: float, **values: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Args:
            operation: see the worker's protocol.
            seconds: how long to wait.
            values: of the request.
        """
        try:
            self._line.send({"op": operation, **values})
            answer = self._line.receive(seconds)
        except TimeoutError:
            raise self._failed(f"did not answer {operation!r} within {seconds:g} s{self._about_port()}") from None
        except (EOFError, OSError):
            raise self._failed(f"died during {operation!r}") from None
        except BaseException:  # an interrupt between request and answer would leave the two out of step
            self.close()
            raise
        if not answer["ok"]:
            raise self._refused(answer["kind"], answer["message"])
        return dict(answer)

    def close(self) -> None:
        """End the worker and everything it started; again does nothing."""
        if self._end.alive and os.getpid() == self._owner and self._port is not None and self._process.poll() is None:
            with contextlib.suppress(OSError, EOFError, ValueError):
                self._line.send({"op": "close"})
                self._line.receive(_LEAVE_SECONDS)
        self._end()

    @property
    def _owner(self) -> int:
        details = self._end.peek()
        return int(details[2][-1]) if details is not None else -1

    def _environment(self) -> dict[str, str]:
        """Ours, less what is our interpreter's; plus a temporary folder, and a virtual display if there is none."""
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "VIRTUAL_ENV")}
        if "DISPLAY" not in kept and shutil.which("xvfb-run"):
            kept.setdefault("MINERL_HEADLESS", "1")  # MineRL 0.4's own switch: its launchClient.sh uses xvfb-run
        return {**kept, worker.MARK: self.mark, "TMPDIR": self.folder}

    def _refused(self, kind: str, message: str) -> Exception:
        """End the worker and return the error for its refusal."""
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
        """End the worker and say what it did, with the last lines of its log."""
        log = _last_lines(Path(self.folder) / "worker.log")
        self._end()
        return WorkerError(
            f"the MineRL worker of {self._task} {what}. It was ended; reset() starts a new one."
            + (f" Its last words:\n{log}" if log else "")
        )

    def _about_port(self) -> str:
        return f" (is it a MineRL game that listens on port {self._port}?)" if self._port is not None else ""


def _anonymous_file() -> int:
    """Open a file without a name; in memory if it can be."""
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
    """Kill what carries the mark, remove the folder, close our descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)
    if os.getpid() != owner:
        return  # a fork of the process that started it: not ours to end
    worker.kill_marked(mark)
    with contextlib.suppress(ProcessLookupError):
        process.kill()  # where there is no /proc
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)

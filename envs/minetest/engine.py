"""One Minetest engine in lock-step: a display, a client with its server, and the socket that steps them.

Each engine has a folder and a display of its own, and a supervisor process that ends both (`dreamenv.supervisor`):
nothing is left when this process dies, however it dies.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamenv.envs.minetest.files import engine_command, write_folder, xvfb_command
from dreamenv.envs.minetest.screen import STRIP, Screen
from dreamenv.errors import WorkerError
from dreamenv.supervisor import supervised

__all__ = ["Engine"]

_START_SECONDS = 90.0  # to start on a busy machine; 4 s on an idle one
_LOAD_SECONDS = 60.0  # to generate an area
_STEP_SECONDS = 30.0  # after which an engine counts as hung (a death is noticed at once); 8 were too few under load
_SETTLE_SECONDS = 2.0  # at most, until a changed node is visible; a few hundredths on an idle machine
_STEADY_SECONDS = 0.4  # without a change, after a reset: twice the interval of the client's search for blocks
_NEIGHBOUR_SECONDS = 0.03  # after that, for the neighbouring blocks
_POLL_SECONDS = 0.0002  # between two polls of the screen
_END_SECONDS = 15.0  # for the display to end by itself
_ATTEMPTS = 3  # another program may take the port before the engine does


class Engine:
    """A running engine.

    Args:
        script: the Lua task, a file in ``mod/server/tasks``.
        size: height and width of the frames, in pixels.

    Raises:
        WorkerError: the engine does not start.
    """

    def __init__(self, script: str, size: int) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                self._start(script, size)
                return
            except WorkerError:
                self.close()
                if attempt == _ATTEMPTS - 1:
                    raise

    _finalizer: weakref.finalize[Any, Any]
    _last: NDArray[np.uint8]  # the last frame that was returned

    def _start(self, script: str, size: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dreamenv-minetest-"))
        finalizer = self._finalizer = weakref.finalize(self, _remove, self.folder)
        with socket.socket(socket.AF_UNIX) as listener:
            self._connect(listener, script, size, finalizer)
        self._lines = self._socket.makefile("rb")
        self._screen = Screen(self.folder / "Xvfb_screen0", size)

    def _connect(self, listener: socket.socket, script: str, size: int, finalizer: weakref.finalize[Any, Any]) -> None:
        """Start display and engine, and wait until the engine connects."""
        listener.bind(str(self.folder / "link"))
        listener.listen(1)
        write_folder(self.folder, script, size)
        command = supervised(
            engine_command(self.folder),
            self.folder,
            environment=_environment(self.folder),
            display=xvfb_command(self.folder, size, size + 2 * STRIP),
            display_seconds=_START_SECONDS,
            reports=True,
        )
        self._supervisor = subprocess.Popen(
            command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, cwd="/",
        )  # fmt: skip
        finalizer.detach()
        self._finalizer = weakref.finalize(self, _end, self._supervisor, self.folder)
        deadline = time.monotonic() + _START_SECONDS
        started = json.loads(self._supervisor.stdout.readline() or "{}")  # type: ignore[union-attr]
        if "engine" not in started:
            raise self._failure(f"did not start: {started.get('error', 'its supervisor died')}")
        self.pids: Mapping[str, int] = {"minetest": int(started["engine"]), "xvfb": int(started["display_server"])}
        self.display = int(started["display"])
        self._pid_file = os.pidfd_open(self.pids["minetest"])
        weakref.finalize(self, os.close, self._pid_file)
        listener.settimeout(0.2)
        while True:
            try:
                self._socket, _ = listener.accept()
                break
            except TimeoutError:
                self._check(deadline)

    @property
    def supervisor_pid(self) -> int:
        """The id of the process that ends the others."""
        return self._supervisor.pid

    def request(self, command: Mapping[str, Any], seconds: float = _STEP_SECONDS) -> dict[str, Any]:
        """Send a command and return the answer.

        Raises:
            WorkerError: the engine died or did not answer in time.
        """
        deadline = time.monotonic() + seconds
        self._signal(signal.SIGCONT)
        try:
            self._socket.sendall(json.dumps(command).encode() + b"\n")
            while not select.select([self._socket], [], [], 0.2)[0]:
                self._check(deadline)
            line = self._lines.readline()
        except OSError as error:
            raise self._failure(f"closed its connection ({error})") from error
        if not line.endswith(b"\n"):
            raise self._failure("died")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def frame(self, number: float) -> NDArray[np.uint8]:
        """Wait for the frame of an answer's number, (size, size, 3) uint8 RGB; have it rendered again if it was missed.

        Raises:
            WorkerError: it does not appear.
        """
        deadline = time.monotonic() + _STEP_SECONDS
        polls = 0
        while True:
            if self._screen.shows(int(number)):
                frame = self._screen.frame()
                if self._screen.shows(int(number)):
                    return frame
            if self._screen.is_past(int(number)):
                number = self.request({"again": True})["number"]
            polls += 1
            if polls % 500 == 0:
                self._check(deadline)
            time.sleep(_POLL_SECONDS)

    def step(self, action: Sequence[float], native_steps: int) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        """Repeat an action for some native steps; return the answer and its frame.

        Raises:
            WorkerError: the engine died or hangs.
        """
        answer = self.request({"act": list(action), "steps": native_steps}, _STEP_SECONDS + native_steps)
        frame = self.frame(answer["number"])
        if answer["changed"]:
            frame = self._wait_for_change(self._last)
        self._signal(signal.SIGSTOP)
        self._last = frame
        return answer, frame

    def _wait_for_change(self, before: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the frame once a node that was dug or placed is visible; the client updates its shape asynchronously.

        Such a node is in the middle of the view, so that the middle changes.
        """
        middle = slice(before.shape[0] * 3 // 8, before.shape[0] * 5 // 8)
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            if (self._screen.frame()[middle, middle] != before[middle, middle]).any():
                break
            time.sleep(_POLL_SECONDS)
        time.sleep(_NEIGHBOUR_SECONDS)
        return self._screen.frame()

    def reset(self, seed: int) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        """Start an episode; return the first answer and its frame.

        Raises:
            WorkerError: the engine died or hangs.
        """
        fence = self.request({"reset": seed}, _LOAD_SECONDS)["fence"]
        deadline = time.monotonic() + _LOAD_SECONDS
        while not _shows_fence(self._screen.frame(), fence):  # the last thing that the client receives
            self._check(deadline)
            time.sleep(0.002)
        answer = self.request({"start": True})
        frame = self._wait_until_steady(self.frame(answer["number"]))
        self._signal(signal.SIGSTOP)
        self._last = frame
        return answer, frame

    def _wait_until_steady(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the frame once it has not changed for a while: the client may still be making shapes of blocks."""
        now = since = time.monotonic()
        deadline = now + _LOAD_SECONDS
        while now - since < _STEADY_SECONDS and now < deadline:
            time.sleep(0.005)
            newer, now = self._screen.frame(), time.monotonic()
            if (newer != frame).any():
                frame, since = newer, now
        return frame

    def close(self) -> None:
        """End the engine and remove its files; calling it again does nothing."""
        with suppress(AttributeError):
            self._lines.close()
            self._socket.close()
        self._finalizer()

    def _signal(self, number: signal.Signals) -> None:
        """Stop or continue the engine: between steps it would only render the same frame."""
        with suppress(ProcessLookupError):  # its death is noticed when no answer comes
            signal.pidfd_send_signal(self._pid_file, number)

    def _check(self, deadline: float) -> None:
        if self._supervisor.poll() is not None:
            raise self._failure("died")
        if time.monotonic() > deadline:
            raise self._failure("hangs")

    def _failure(self, what: str) -> WorkerError:
        """End the engine, and return an error with the end of its log."""
        log = ""
        if self._supervisor.stdin is not None and not self._supervisor.stdin.closed:
            self._supervisor.stdin.close()  # it ends its children and prints the end of their log
            with suppress(subprocess.TimeoutExpired, ValueError, KeyError):
                self._supervisor.wait(_END_SECONDS)
                printed = self._supervisor.stdout.read().splitlines()  # type: ignore[union-attr]
                lines = json.loads(printed[-1])["log"].splitlines() if printed else []  # nothing if it was killed
                log = "\n".join([line for line in lines if "ERROR" in line][-3:] or lines[-2:])
        return WorkerError(f"the Minetest engine {what}. reset() starts a new one. The end of its log:\n{log}")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _shows_fence(frame: NDArray[np.uint8], fence: str) -> bool:
    """Return whether the middle is green ("fence1") or red ("fence2"), through blue fog."""
    red, green, blue = (int(value) for value in frame[frame.shape[0] // 2, frame.shape[1] // 2])
    strong, weak = (green, red) if fence == "fence1" else (red, green)
    return strong > weak + 60 and strong > blue + 60


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")}
    return {
        **kept,
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "LP_NUM_THREADS": "0",
        "SDL_AUDIODRIVER": "dummy",
    }


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """End a supervisor, which ends its children; clean up after one that was killed."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)

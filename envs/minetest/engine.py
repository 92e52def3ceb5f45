"""One Minetest engine in lock-step: a display, a client with its server, and the line that steps them.

Each engine has a folder of its own, a display of its own, and a small process that ends both (see `keeper`); nothing is
left when this process dies, however it dies.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamenv.envs.minetest import keeper
from dreamenv.envs.minetest.files import engine_command, lay_out, xvfb_command
from dreamenv.envs.minetest.screen import STRIP, Screen
from dreamenv.errors import WorkerError

__all__ = ["Engine"]

_START_SECONDS = 90.0  # of a start on a busy machine; 4 s on a quiet one
_LOAD_SECONDS = 60.0  # of the generation of an area
_STEP_SECONDS = 30.0  # of a step: after these it counts as hung (a death is noticed at once); 8 were too few under load
_SETTLE_SECONDS = 2.0  # at most, until a changed node is seen; a few hundredths on a quiet machine
_STEADY_SECONDS = 0.4  # without a change, after a reset: twice the time in which the client looks for blocks
_CALM_SECONDS = 0.03  # after it, for the blocks beside it
_GLANCE = 0.0002  # seconds between two looks at the screen
_END_SECONDS = 15.0  # for the display to end by itself
_ATTEMPTS = 3  # a port may be taken between finding it free and using it


class Engine:
    """A running engine.

    Args:
        script: the Lua task, a file in ``mod/server/tasks``.
        side: height and width of the pictures, in pixels.

    Raises:
        WorkerError: it does not start.
    """

    def __init__(self, script: str, side: int) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                self._start(script, side)
                return
            except WorkerError:
                self.close()
                if attempt == _ATTEMPTS - 1:
                    raise

    _finalizer: weakref.finalize[Any, Any]
    _last: NDArray[np.uint8]  # the last picture that was shown to Python

    def _start(self, script: str, side: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dreamenv-minetest-"))
        remover = self._finalizer = weakref.finalize(self, _remove, self.folder)
        with socket.socket(socket.AF_UNIX) as listener:
            self._connect(listener, script, side, remover)
        self._lines = self._socket.makefile("rb")
        self._screen = Screen(self.folder / "Xvfb_screen0", side)

    def _connect(self, listener: socket.socket, script: str, side: int, remover: weakref.finalize[Any, Any]) -> None:
        """Start display and engine, and wait for the engine's call."""
        listener.bind(str(self.folder / "link"))
        listener.listen(1)
        lay_out(self.folder, script, side)
        order = {
            "folder": str(self.folder),
            "xvfb": xvfb_command(self.folder, side, side + 2 * STRIP),
            "engine": engine_command(self.folder),
            "environment": _environment(self.folder),
            "display_seconds": _START_SECONDS,
        }
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, json.dumps(order)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, cwd="/",
        )  # fmt: skip
        remover.detach()
        self._finalizer = weakref.finalize(self, _end, self._keeper, self.folder)
        deadline = time.monotonic() + _START_SECONDS
        told = json.loads(self._keeper.stdout.readline() or "{}")  # type: ignore[union-attr]
        if "minetest" not in told:
            raise self._failure(f"did not start: {told.get('error', 'its keeper died')}")
        self.pids: Mapping[str, int] = {name: int(told[name]) for name in ("minetest", "xvfb")}
        self.display = int(told["display"])
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
    def keeper_pid(self) -> int:
        """The process that ends the others."""
        return self._keeper.pid

    def ask(self, command: Mapping[str, Any], seconds: float = _STEP_SECONDS) -> dict[str, Any]:
        """Send a command and wait for the answer.

        Raises:
            WorkerError: the engine died, or gave no answer in time.
        """
        deadline = time.monotonic() + seconds
        self._signal(signal.SIGCONT)
        try:
            self._socket.sendall(json.dumps(command).encode() + b"\n")
            while not select.select([self._socket], [], [], 0.2)[0]:
                self._check(deadline)
            line = self._lines.readline()
        except OSError as error:
            raise self._failure(f"broke the line ({error})") from error
        if not line.endswith(b"\n"):
            raise self._failure("died")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def picture(self, number: float) -> NDArray[np.uint8]:
        """Wait for the picture of an answer's number: (side, side, 3) uint8 RGB; have it shown again if it was missed.

        Raises:
            WorkerError: it does not come.
        """
        deadline = time.monotonic() + _STEP_SECONDS
        looks = 0
        while True:
            if self._screen.shows(int(number)):
                picture = self._screen.picture()
                if self._screen.shows(int(number)):
                    return picture
            if self._screen.is_past(int(number)):
                number = self.ask({"again": True})["number"]
            looks += 1
            if looks % 500 == 0:
                self._check(deadline)
            time.sleep(_GLANCE)

    def act(self, action: Sequence[float], native_steps: int) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        """Hold an action for some native steps; returns the answer and its picture.

        Raises:
            WorkerError: the engine died or hangs.
        """
        answer = self.ask({"act": list(action), "steps": native_steps}, _STEP_SECONDS + native_steps)
        picture = self.picture(answer["number"])
        if answer["changed"]:
            picture = self._settled(self._last)
        self._signal(signal.SIGSTOP)
        self._last = picture
        return answer, picture

    def _settled(self, before: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Wait until a node that was dug or placed is seen; its shape is made beside the frames, in the client.

        Such a node lies under the middle of the view, so that the middle changes.
        """
        middle = slice(before.shape[0] * 3 // 8, before.shape[0] * 5 // 8)
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            if (self._screen.picture()[middle, middle] != before[middle, middle]).any():
                break
            time.sleep(_GLANCE)
        time.sleep(_CALM_SECONDS)
        return self._screen.picture()

    def reset(self, seed: int) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        """Begin an episode; returns the first answer and its picture.

        Raises:
            WorkerError: the engine died or hangs.
        """
        fence = self.ask({"reset": seed}, _LOAD_SECONDS)["fence"]
        deadline = time.monotonic() + _LOAD_SECONDS
        while not _shows_fence(self._screen.picture(), fence):  # the last thing that the client gets to see
            self._check(deadline)
            time.sleep(0.002)
        answer = self.ask({"start": True})
        picture = self._steady(self.picture(answer["number"]))
        self._signal(signal.SIGSTOP)
        self._last = picture
        return answer, picture

    def _steady(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Wait until the picture has not changed for a while: shapes of the last blocks may still be in the making."""
        now = since = time.monotonic()
        deadline = now + _LOAD_SECONDS
        while now - since < _STEADY_SECONDS and now < deadline:
            time.sleep(0.005)
            newer, now = self._screen.picture(), time.monotonic()
            if (newer != picture).any():
                picture, since = newer, now
        return picture

    def close(self) -> None:
        """End the engine and remove everything of it; harmless when repeated."""
        with suppress(AttributeError):
            self._lines.close()
            self._socket.close()
        self._finalizer()

    def _signal(self, number: signal.Signals) -> None:
        """Stop or continue the engine: between steps it would draw the same frame again and again."""
        with suppress(ProcessLookupError):  # its death is noticed where an answer is missed
            signal.pidfd_send_signal(self._pid_file, number)

    def _check(self, deadline: float) -> None:
        if self._keeper.poll() is not None:
            raise self._failure("died")
        if time.monotonic() > deadline:
            raise self._failure("hangs")

    def _failure(self, what: str) -> WorkerError:
        """End the engine, and say what it said last."""
        said = ""
        if self._keeper.stdin is not None and not self._keeper.stdin.closed:
            self._keeper.stdin.close()  # it ends its children and tells the end of their log
            with suppress(subprocess.TimeoutExpired, ValueError, KeyError):
                self._keeper.wait(_END_SECONDS)
                told = self._keeper.stdout.read().splitlines()  # type: ignore[union-attr]
                lines = json.loads(told[-1])["log"].splitlines() if told else []  # a killed keeper tells nothing
                said = "\n".join([line for line in lines if "ERROR" in line][-3:] or lines[-2:])
        return WorkerError(f"the Minetest engine {what}; the next reset starts it anew. It said last:\n{said}")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _shows_fence(picture: NDArray[np.uint8], fence: str) -> bool:
    """Say whether the middle is green ("fence1") or red ("fence2"), through the blue mist of distance."""
    red, green, blue = (int(value) for value in picture[picture.shape[0] // 2, picture.shape[1] // 2])
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
    """End a keeper, which ends its children; clean up after one that was killed."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)

"""A small process that starts a display and an engine, and sees to it that both end: run as a script, without imports.

It ends them, and removes their folder, when its standard input closes or its parent dies (even by SIGKILL), or when one
of the two dies. Should it be killed itself, the kernel ends both (PR_SET_PDEATHSIG; it has one thread, because that
signal follows the death of a thread).

Standard input: nothing; it only stays open. Standard output: one line of JSON, {"xvfb": pid, "minetest": pid}, or
{"error": what went wrong}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_TAIL = 2000  # characters of the log that are told at the end
_PATIENCE = 5.0  # seconds that the display has to remove its lock and its socket


def main(order: dict[str, Any]) -> None:
    """Start, wait, end.

    Args:
        order: folder (removed at the end), width, height, xvfb and engine (commands), environment, display_seconds.
    """
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children: list[subprocess.Popen[bytes]] = []
    display = None
    try:
        log = open(os.path.join(order["folder"], "log.txt"), "ab")  # noqa: SIM115 - the children's, for as long as they live
        read_end, write_end = os.pipe()
        xvfb = _start([*order["xvfb"], "-displayfd", str(write_end)], order, log, signal.SIGTERM, (write_end,))
        children.append(xvfb)
        os.close(write_end)
        display = _read_line(read_end, order["display_seconds"])
        os.close(read_end)
        if not display:
            _say({"error": "Xvfb did not start"})
            return
        order["environment"]["DISPLAY"] = f":{display}"
        engine = _start(order["engine"], order, log, signal.SIGKILL, ())
        children.insert(0, engine)
        _say({"xvfb": xvfb.pid, "minetest": engine.pid, "display": display})
        while os.getppid() == parent and all(child.poll() is None for child in children):
            ready, _, _ = select.select([0], [], [], 0.5)
            if ready and not os.read(0, 1):
                break
    finally:
        ends = {child.args[0]: child.poll() for child in children}  # type: ignore[index]
        _end(children, display)
        with contextlib.suppress(OSError):  # nobody may be there to read it
            _say({"ended": ends, "log": _tail(os.path.join(order["folder"], "log.txt"))})
        shutil.rmtree(order["folder"], ignore_errors=True)


def _start(
    command: list[str], order: dict[str, Any], log: Any, on_death: signal.Signals, fds: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    prctl = ctypes.CDLL(None).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(on_death), 0, 0, 0)

    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds, env=order["environment"],
        cwd=order["folder"], preexec_fn=tie,
    )  # fmt: skip


def _read_line(fd: int, seconds: float) -> str:
    """Read up to a line's end; empty if none comes in time. A display writes its number and the end one by one."""
    text, deadline = b"", time.monotonic() + seconds
    while not text.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(fd, 16) if ready else b""
        if not piece:
            return ""
        text += piece
    return text.decode().strip()


def _end(children: list[subprocess.Popen[bytes]], display: str | None) -> None:
    for child in children:
        if child is children[-1]:  # the display, last: it shall remove its own lock
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_PATIENCE)
        child.kill()
        child.wait()
    if display and children:
        _tidy(f"/tmp/.X11-unix/X{display}")


def _tidy(path: str) -> None:
    """Remove the socket of a display that was killed before it could, unless another display listens there by now.

    There is no lock file to remove: Xvfb makes none when it chooses its number itself.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _tail(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()[-_TAIL:]


def _say(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

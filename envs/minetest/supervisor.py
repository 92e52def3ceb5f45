"""Start a display and an engine, and make sure that both end: a script that imports only the standard library.

It ends them and removes their folder when its standard input closes, when its parent dies (even by SIGKILL), or when
one of the two dies. If it is killed itself, the kernel ends both (PR_SET_PDEATHSIG; it has a single thread, because
that signal follows the death of a thread).

Standard input: nothing; it only stays open. Standard output: a line of JSON, {"xvfb": pid, "minetest": pid, "display":
number} or {"error": reason}, and at the end {"ended": exit codes, "log": end of the log}.
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
_LOG_TAIL = 2000  # characters of the log that are printed at the end
_TERMINATE_SECONDS = 5.0  # for the display to remove its socket


def main(config: dict[str, Any]) -> None:
    """Start display and engine, wait, end them.

    Args:
        config: folder (removed at the end), xvfb and engine (commands), environment, display_seconds (time limit of the
            display's start).
    """
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children: list[subprocess.Popen[bytes]] = []
    display = None
    try:
        log = open(os.path.join(config["folder"], "log.txt"), "ab")  # noqa: SIM115 - the children keep it open
        read_end, write_end = os.pipe()
        xvfb = _start([*config["xvfb"], "-displayfd", str(write_end)], config, log, signal.SIGTERM, (write_end,))
        children.append(xvfb)
        os.close(write_end)
        display = _read_line(read_end, config["display_seconds"])
        os.close(read_end)
        if not display:
            _print({"error": "its display, Xvfb, did not start"})
            return
        config["environment"]["DISPLAY"] = f":{display}"
        engine = _start(config["engine"], config, log, signal.SIGKILL, ())
        children.insert(0, engine)
        _print({"xvfb": xvfb.pid, "minetest": engine.pid, "display": display})
        while os.getppid() == parent and all(child.poll() is None for child in children):
            ready, _, _ = select.select([0], [], [], 0.5)
            if ready and not os.read(0, 1):
                break
    finally:
        exit_codes = {child.args[0]: child.poll() for child in children}  # type: ignore[index]
        _end(children, display)
        with contextlib.suppress(OSError):  # the parent may be dead
            _print({"ended": exit_codes, "log": _tail(os.path.join(config["folder"], "log.txt"))})
        shutil.rmtree(config["folder"], ignore_errors=True)


def _start(
    command: list[str], config: dict[str, Any], log: Any, on_death: signal.Signals, fds: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    prctl = ctypes.CDLL(None).prctl

    def end_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, int(on_death), 0, 0, 0)

    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds, env=config["environment"],
        cwd=config["folder"], preexec_fn=end_with_parent,
    )  # fmt: skip


def _read_line(fd: int, seconds: float) -> str:
    """Return a line, or "" if none is complete in time. Xvfb writes its number and the line's end separately."""
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
        if child is children[-1]:  # the display, last, so that it can remove its socket
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_TERMINATE_SECONDS)
        child.kill()
        child.wait()
    if display and children:
        _remove_socket(f"/tmp/.X11-unix/X{display}")


def _remove_socket(path: str) -> None:
    """Remove the socket of a display that was killed, unless another display listens there now.

    There is no lock file to remove: Xvfb makes none when it chooses its number itself.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _tail(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()[-_LOG_TAIL:]


def _print(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

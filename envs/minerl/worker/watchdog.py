"""Fork the server, and kill everything it started when it or dreamenv dies.

Java and MineRL's process watcher leave the worker's process group, but inherit its environment. So the watchdog kills
every process whose environment has this worker's mark, and removes the working directory. If the watchdog itself is
killed, the server does the same.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from typing import Sequence

from dreamenv.envs.minerl.worker.messages import MessagePipe
from dreamenv.envs.minerl.worker.server import serve

__all__ = ["MARK", "kill_marked", "main"]

MARK = "DREAMENV_MINERL_WORKER"
"""The environment variable whose value identifies a worker and everything it started."""


def main(arguments: Sequence[str]) -> None:
    """Fork the server, then watch over it."""
    requests, replies, frame, alive, parent = map(int, arguments)
    folder = os.getcwd()
    server_ended, server_alive = os.pipe()  # closes when the server ends
    watchdog_ended, watchdog_alive = os.pipe()  # closes when the watchdog ends
    server = os.fork()
    if server == 0:
        for unused in (alive, server_ended, watchdog_alive):
            os.close(unused)
        status = 1
        try:
            threading.Thread(target=_replace_watchdog, args=(watchdog_ended, folder), daemon=True).start()
            serve(MessagePipe(requests, replies), frame)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # no shutdown: MineRL's exit hooks wait for seconds, and the watchdog cleans up
    for unused in (requests, replies, frame, server_alive, watchdog_ended):
        os.close(unused)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while not select.select([alive, server_ended], [], [], 1.0)[0] and os.getppid() == parent:
        pass
    kill_marked(os.environ[MARK])
    with contextlib.suppress(ChildProcessError):
        os.waitpid(server, 0)
    shutil.rmtree(folder, ignore_errors=True)


def _replace_watchdog(watchdog_ended: int, folder: str) -> None:
    """Wait until the watchdog dies, then do its work."""
    os.read(watchdog_ended, 1)
    kill_marked(os.environ[MARK])
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def kill_marked(mark: str, seconds: float = 10.0) -> bool:
    """Kill every other process of this user that has a mark, until none is left.

    A virtual display (``xvfb-run``) is terminated first and killed after a second, so that it can remove its files in
    /tmp.

    Args:
        mark: the value of the environment variable.
        seconds: time limit.

    Returns:
        Whether none is left.
    """
    entry = "{}={}".format(MARK, mark).encode()
    began = time.monotonic()
    while True:
        found = [pid for pid in _process_ids() if pid != os.getpid() and _has_entry(pid, entry)]
        for pid in found:
            gently = time.monotonic() < began + 1.0 and _read("/proc/{}/comm".format(pid)).strip() == b"Xvfb"
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM if gently else signal.SIGKILL)
        if not found or time.monotonic() > began + seconds:
            return not found
        time.sleep(0.01)


def _process_ids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []  # no /proc (macOS): MineRL's own watcher must suffice


def _has_entry(pid: int, entry: bytes) -> bool:
    return entry in _read("/proc/{}/environ".format(pid)).split(b"\0")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""

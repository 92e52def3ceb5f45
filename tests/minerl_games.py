"""What tests of Minecraft share: MineRL's real client, the fake game, and a check of what is left running."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from minerl_client import CannotBuildError, build

from dreamenv.envs.minerl.fake_malmo import FakeMalmo
from dreamenv.envs.minerl.worker.watchdog import MARK

__all__ = ["client_python", "fake_malmo", "fake_malmo_here", "gone", "marked"]


def client_python() -> str:
    """The interpreter with MineRL 0.4.4; skips the test where it cannot be built."""
    try:
        return str(build())
    except CannotBuildError as error:
        pytest.skip(f"MineRL's Python client is not here: {error}")


@contextlib.contextmanager
def fake_malmo(*flags: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run the fake Malmo server; yield its port and its process."""
    command = [
        sys.executable,
        "-m",
        "dreamenv.envs.minerl.fake_malmo",
        *(flags if "--port" in flags else ("--port", "0", *flags)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = [next(process.stdout) for _ in range(3)]
            assert "not the game" in said[0]
            found = re.search(r"on port (\d+)", said[1])
            assert found
            yield int(found[1]), process
        finally:
            process.kill()


@contextlib.contextmanager
def fake_malmo_here(*, random_frames: bool = False) -> Iterator[int]:
    """Run the fake Malmo server in a thread, which starts faster; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=FakeMalmo(random_frames=random_frames).serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def marked(mark: str) -> list[int]:
    """The processes that a worker started, by what /proc says."""
    entry, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def gone(mark: str, folder: str, seconds: float = 10.0) -> bool:
    """Whether a worker, everything it started, and its folder are gone within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not marked(mark) and not os.path.exists(folder):
            return True
        time.sleep(0.02)
    return False

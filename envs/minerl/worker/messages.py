"""Send and receive JSON messages over a pair of pipes, with as little latency as the cores allow."""

from __future__ import annotations

import json
import os
import select
import struct
import time
from typing import Any

__all__ = ["PROTOCOL", "MessagePipe", "RequestError"]

PROTOCOL = 1

SPIN_SECONDS = 0.001
"""A wait of up to this long is spent polling, not sleeping, if the previous wait was no longer."""

PREEMPTED_SECONDS = 0.0005
"""Time between two polls from which another process must have used the core."""

BACKOFF_SECONDS = 0.2
"""Time without polling after that; each attempt costs at most a time slice of the other process, 3 ms on Linux."""

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
"""Cores that this process may use; with one, or where the system does not say, waits never poll."""


class RequestError(Exception):
    """A request failed for a reason that dreamenv raises as its own error; ``kind`` says which."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class MessagePipe:
    """One end of two pipes: sends and receives JSON messages, each after its length.

    Args:
        read_fd, write_fd: file descriptors.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._last_wait_was_short = False
        self._no_spin_before = 0.0

    def send(self, message: dict[str, Any]) -> None:
        """Send a message."""
        body = json.dumps(message).encode()
        os.write(self._write_fd, struct.pack("!I", len(body)) + body)

    def receive(self, seconds: float | None = None) -> Any:
        """Return the next message. The other end never sends a second one before the first is answered.

        Args:
            seconds: time limit; None waits for ever.

        Raises:
            EOFError: the other end is closed.
            TimeoutError: no message within the time limit.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        data, size = b"", 4
        while len(data) < size:
            self._wait(deadline)
            chunk = os.read(self._read_fd, 65536)
            if not chunk:
                raise EOFError
            data += chunk
            if size == 4 and len(data) >= 4:
                size += struct.unpack("!I", data[:4])[0]
        return json.loads(data[4:].decode())

    def _wait(self, deadline: float | None) -> None:
        """Wait until there is something to read.

        A sleeping process wakes up late: by 30 to 40 µs where the core slept, too. So while messages follow each other
        quickly, this polls for the next one, and yields the core between two polls. If another process then keeps the
        core for long, there is more work than cores, and polling would delay the game and the other end (measured: a
        third slower than sleeping); then it sleeps for a while.
        """
        began = now = time.monotonic()
        if self._last_wait_was_short and now >= self._no_spin_before:
            while now < began + SPIN_SECONDS and (deadline is None or now < deadline):
                if select.select([self._read_fd], [], [], 0)[0]:
                    return
                os.sched_yield()
                polled, now = now, time.monotonic()
                if now > polled + PREEMPTED_SECONDS:
                    self._no_spin_before = now + BACKOFF_SECONDS
                    break
        left = None if deadline is None else max(0.0, deadline - now)
        if not select.select([self._read_fd], [], [], left)[0]:
            raise TimeoutError
        self._last_wait_was_short = CORES > 1 and time.monotonic() < began + SPIN_SECONDS

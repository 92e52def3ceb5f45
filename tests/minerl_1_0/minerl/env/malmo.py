"""Games that run already, as MineRL's instance manager has them."""

from __future__ import annotations

import contextlib
import socket
import struct

__all__ = ["Instance", "InstanceManager"]


class Instance:
    """A game at a port, and the line to it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.had_to_clean = True
        self._line: socket.socket | None = None

    def connect(self) -> None:
        """Open a fresh line and say hello."""
        self.hang_up()
        self._line = socket.create_connection(("localhost", self.port), timeout=60)
        self._line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send("<MalmoEnv0.37.0/>")

    def send(self, text: str) -> None:
        """Send one message."""
        body = text.encode()
        self._line.sendall(struct.pack("!I", len(body)) + body)

    def receive(self) -> bytes:
        """Wait for one message."""
        (size,) = struct.unpack("!I", self._exactly(4))
        return self._exactly(size)

    def hang_up(self) -> None:
        """Take leave, where there is a line."""
        if self._line is not None:
            with contextlib.suppress(OSError):
                self.send("<Disconnect/>")
            self._line.close()
            self._line = None

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self._line.recv(count)
            if not part:
                raise ConnectionError("the game hung up")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


class InstanceManager:
    """Hands out games."""

    @classmethod
    def add_existing_instance(cls, port: int) -> Instance:
        """Take a game that runs already."""
        with socket.socket() as probe:
            assert probe.connect_ex(("localhost", port)) == 0, "No Malmo mod utilizing the port specified."
        return Instance(port)

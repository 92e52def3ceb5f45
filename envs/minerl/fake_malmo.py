"""Fake Malmo server: speaks the protocol of MineRL's Java side (Malmo), and renders a tiny world of its own.

    python -m dreamenv.envs.minerl.fake_malmo --port 9000

The game cannot be installed without Mojang's servers, so tests run MineRL's real Python client against this program. It
replaces the game but is not Minecraft, and says so in its output and by the key ``fake_malmo`` of its info.

Messages are a 4-byte big-endian length and the payload; the client begins. After its hello ``<MalmoEnv0.37.0/>``:

- a mission, XML, then ``uid:role:0:agents:true[:seed]`` → 1 (0 while busy: the client waits and sends both again);
- ``<Peek/>`` → frame, info as JSON, done;
- ``<StepClient0>commands</StepClient0 >`` → frame, (reward, done, sent), info; ``<StepServer></StepServer>`` → nothing;
- ``<Quit/>`` → 1; ``<Exit>NOW</Exit>`` → 1, and the program ends; ``<Disconnect/>`` → nothing, and the socket closes.

Frames are RGB with the bottom row first. MineRL starts its game as ``launchClient.sh -port N -env -runDir DIR ...`` and
waits for two lines of output. The same flags work here, and as in the game another port is chosen where N is in use.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreamenv.envs.minerl.fake_malmo_world import FakeMalmoWorld, Keys

__all__ = ["FakeMalmo", "Mission", "main"]

_TICK = 50  # milliseconds
_RANDOM_FRAMES = 16


@dataclass(frozen=True, kw_only=True)
class Mission:
    """The settings of a mission's XML.

    Attributes:
        width, height: of frames, in pixels.
        goal: whether there is a goal.
        dense, logs: whether coming nearer to the goal, and collecting logs, is rewarded.
        observes_inventory, observes_stats: whether info has the inventory, and the position.
        ticks: the time limit.
        inventory: the player's items at the start, number by item.
    """

    width: int
    height: int
    goal: bool = False
    dense: bool = False
    logs: bool = False
    observes_inventory: bool = False
    observes_stats: bool = False
    ticks: float = float("inf")
    inventory: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_xml(cls, xml: str) -> Mission:
        """Parse the XML, as far as is needed."""

        def number(tag: str) -> int:
            found = re.search(rf"<(?:\w+:)?{tag}>\s*(\d+)", xml)
            return int(found[1]) if found else 64

        items = [dict(re.findall(r'(\w+)="([^"]*)"', element)) for element in re.findall("<InventoryObject[^>]*>", xml)]
        limit = re.search(r'timeLimitMs="(\d+)', xml)
        return cls(
            width=number("Width"),
            height=number("Height"),
            goal="diamond_block" in xml,
            dense="RewardForDistanceTraveledToCompassTarget" in xml,
            logs="RewardForPossessingItem" in xml or "RewardForCollectingItem" in xml,
            observes_inventory="ObservationFromFullInventory" in xml,
            observes_stats="ObservationFromFullStats" in xml,
            ticks=int(limit[1]) / _TICK if limit else float("inf"),
            inventory={item["type"]: int(item.get("quantity", 1)) for item in items},
        )


class FakeMalmo:
    """A server that runs one mission at a time.

    Args:
        random_frames: return precomputed random frames and no rewards, for benchmarks: the game then takes no time.
        tick_ms: milliseconds of computation added to every tick.
        crash_at, hang_at: the step, counted from 1 over all missions, at which to exit or to stop answering.
        busy: how many missions to refuse as busy.
    """

    def __init__(
        self,
        *,
        random_frames: bool = False,
        tick_ms: float = 0.0,
        crash_at: int | None = None,
        hang_at: int | None = None,
        busy: int = 0,
    ) -> None:
        self.random_frames, self.tick_ms, self.busy = random_frames, tick_ms, busy
        self.crash_at, self.hang_at = crash_at, hang_at
        self._mission = Mission(width=64, height=64)
        self._world: FakeMalmoWorld | None = None
        self._frames: list[bytes] = []
        self._steps = self._ticks = 0
        self._done = True
        self._pending = ""
        self._lock = threading.Lock()

    def serve(self, listener: socket.socket) -> None:
        """Serve every client in a thread of its own, until the listener is shut down."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_client, args=(client,), daemon=True).start()

    def _serve_client(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client:
            hello = _receive(client)
            if hello is None or not hello.startswith(b"<MalmoEnv"):
                return
            while (message := _receive(client)) is not None:
                with self._lock:
                    if not self._answer(client, message.decode()):
                        return

    def _answer(self, client: socket.socket, message: str) -> bool:
        """Answer one message; return False if the socket is to be closed."""
        if message.startswith("<StepClient"):
            self._step(client, message[message.index(">") + 1 : message.rindex("</")])
        elif message.startswith("<StepServer"):
            pass
        elif message.startswith("<Peek"):
            _send(client, self._frame(), self._info(), struct.pack("!b", self._done))
        elif message.startswith("<Quit"):
            self._done = True
            _send(client, struct.pack("!I", 1))
        elif message.startswith("<Exit"):
            _send(client, struct.pack("!I", 1))
            os._exit(0)
        elif message.startswith("<Disconnect"):
            return False
        elif "MissionInit" in message[:200]:
            self._pending = message
        elif message.count(":") >= 4:
            self._start_mission(client, message)
        return True

    def _start_mission(self, client: socket.socket, token: str) -> None:
        if self.busy > 0:
            self.busy -= 1
            _send(client, struct.pack("!I", 0))
            return
        fields = token.split(":")
        seed = int(fields[5]) if len(fields) > 5 else time.time_ns()
        self._mission = mission = Mission.from_xml(self._pending)
        self._world = FakeMalmoWorld(seed, mission.width, mission.height, goal=mission.goal)
        self._world.inventory.update(mission.inventory)
        self._ticks, self._done = 0, False
        if self.random_frames:
            shape = (_RANDOM_FRAMES, mission.height, mission.width, 3)
            noise = np.random.default_rng(seed % 2**32).integers(256, size=shape, dtype=np.uint8)
            self._frames = [frame.tobytes() for frame in noise]
        _send(client, struct.pack("!I", 1))

    def _step(self, client: socket.socket, commands: str) -> None:
        world, mission = self._world, self._mission
        assert world is not None
        self._steps += 1
        self._ticks += 1
        if self._steps == self.crash_at:
            os._exit(3)
        if self._steps == self.hang_at:
            threading.Event().wait()
        reward = 0.0
        if not self.random_frames:
            tick = world.tick(_parse_keys(commands))
            reward = (tick.progress if mission.dense else 0.0) + (tick.logs if mission.logs else 0.0)
            if tick.goal_reached:
                reward += 100.0
            self._done = tick.goal_reached or (mission.logs and world.inventory.get("log", 0) >= 64)
        self._done = self._done or self._ticks >= mission.ticks
        finished = time.perf_counter() + self.tick_ms / 1000
        while time.perf_counter() < finished:  # like a game, compute; do not sleep
            pass
        _send(client, self._frame(), struct.pack("!dbb", reward, self._done, True), self._info())

    def _frame(self) -> bytes:
        if self.random_frames:
            return self._frames[self._ticks % _RANDOM_FRAMES]
        assert self._world is not None
        return self._world.render()[::-1].tobytes()

    def _info(self) -> bytes:
        assert self._world is not None
        info = self._world.info()
        if not self._mission.observes_inventory:
            del info["inventory"]
        if not self._mission.observes_stats:
            for key in ("xpos", "ypos", "zpos", "yaw", "pitch"):
                del info[key]
        life = {"life": 20.0, "score": 0, "food": 20, "saturation": 5.0, "xp": 0, "is_alive": True, "air": 300}
        held = {"type": "iron_axe", "damage": 0, "maxDamage": 250}
        rest = {"life_stats": life, "equipped_items": {"mainhand": held}, "isGuiOpen": False, "fake_malmo": True}
        return json.dumps({**info, **rest}).encode()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a client sends ``<Exit>``.

    If the port is in use, the program exits with status 1, or with ``-env`` chooses another port.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-port", "--port", type=int, default=9000, help="TCP port; 0 chooses a free one")
    parser.add_argument(
        "-env", action="store_true", help="choose another port if this one is in use, as when MineRL starts the game"
    )
    parser.add_argument("--random-frames", action="store_true", help="return precomputed frames, for benchmarks")
    parser.add_argument("--tick-ms", type=float, default=0.0, help="milliseconds of computation per tick")
    parser.add_argument("--crash-at", type=int, help="exit at this step")
    parser.add_argument("--hang-at", type=int, help="stop answering at this step")
    parser.add_argument("--busy", type=int, default=0, help="number of missions to refuse as busy")
    settings, _ = parser.parse_known_args(arguments)  # MineRL also passes flags of the Java program
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", settings.port))
    except OSError as error:
        if not settings.env:
            sys.exit(f"port {settings.port} cannot be used: {error.strerror}. Choose another, or --port 0.")
        listener.bind(("127.0.0.1", 0))
    listener.listen()
    print("dreamenv's fake Malmo server. It is not the game.")
    print(f"***** Start MalmoEnvServer on port {listener.getsockname()[1]}")
    print("CLIENT enter state: DORMANT", flush=True)
    server = FakeMalmo(
        random_frames=settings.random_frames,
        tick_ms=settings.tick_ms,
        crash_at=settings.crash_at,
        hang_at=settings.hang_at,
        busy=settings.busy,
    )
    server.serve(listener)


def _parse_keys(commands: str) -> Keys:
    keys: dict[str, Any] = {}
    for command in commands.splitlines():
        name, *values = command.split()
        if name == "camera":
            keys["turn"] = (float(values[0]), float(values[1]))
        elif name in Keys.__dataclass_fields__:
            keys[name] = values[0] == "1"
    return Keys(**keys)


def _send(client: socket.socket, *payloads: bytes) -> None:
    client.sendall(b"".join(struct.pack("!I", len(payload)) + payload for payload in payloads))


def _receive(client: socket.socket) -> bytes | None:
    head = _receive_exactly(client, 4)
    return None if head is None else _receive_exactly(client, struct.unpack("!I", head)[0])


def _receive_exactly(client: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        try:
            piece = client.recv(count - len(data))
        except OSError:
            return None
        if not piece:
            return None
        data += piece
    return data


if __name__ == "__main__":
    main()

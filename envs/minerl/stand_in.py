"""A stand-in for Minecraft: it speaks the protocol of MineRL's Java side, and shows a tiny world of its own.

    python -m dreamenv.envs.minerl.stand_in --port 9000

The game cannot be had without Mojang's servers, so tests drive MineRL's real Python client against this program. It
stands for the game; it is not Minecraft, and says so in what it prints and in the ``stand_in`` of its messages.

Messages are a 4-byte big-endian length and the payload; the client begins. After its hello ``<MalmoEnv0.37.0/>``:

- a mission, XML, then ``uid:role:0:agents:true[:seed]`` → 1 (0 while busy: the client waits and sends both again);
- ``<Peek/>`` → frame, info as JSON, done;
- ``<StepClient0>commands</StepClient0 >`` → frame, (reward, done, sent), info; ``<StepServer></StepServer>`` → nothing;
- ``<Quit/>`` → 1; ``<Exit>NOW</Exit>`` → 1, and the program ends; ``<Disconnect/>`` → nothing, and the line is closed.

Frames are RGB with the bottom row first. MineRL starts its game as ``launchClient.sh -port N -env -runDir DIR ...`` and
waits for two lines of output; the same flags work here, and as in the game another port is taken where N is in use.
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

from dreamenv.envs.minerl.stand_in_world import Keys, StandInWorld

__all__ = ["Mission", "StandIn", "main"]

_TICK = 50  # milliseconds
_STILL_PICTURES = 16


@dataclass(frozen=True, kw_only=True)
class Mission:
    """What a mission's XML asks for.

    Attributes:
        width, height: of pictures, in pixels.
        goal, dense, logs: whether there is a goal, and whether nearing it and gathering logs are paid.
        tells_inventory, tells_stats: what is told beside the picture.
        ticks: until the end.
        inventory: what the player has at the start, number by item.
    """

    width: int
    height: int
    goal: bool = False
    dense: bool = False
    logs: bool = False
    tells_inventory: bool = False
    tells_stats: bool = False
    ticks: float = float("inf")
    inventory: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, xml: str) -> Mission:
        """Read it from the XML, as little as is needed."""

        def number(tag: str) -> int:
            found = re.search(rf"<(?:\w+:)?{tag}>\s*(\d+)", xml)
            return int(found[1]) if found else 64

        given = [dict(re.findall(r'(\w+)="([^"]*)"', element)) for element in re.findall("<InventoryObject[^>]*>", xml)]
        limit = re.search(r'timeLimitMs="(\d+)', xml)
        return cls(
            width=number("Width"),
            height=number("Height"),
            goal="diamond_block" in xml,
            dense="RewardForDistanceTraveledToCompassTarget" in xml,
            logs="RewardForPossessingItem" in xml or "RewardForCollectingItem" in xml,
            tells_inventory="ObservationFromFullInventory" in xml,
            tells_stats="ObservationFromFullStats" in xml,
            ticks=int(limit[1]) / _TICK if limit else float("inf"),
            inventory={item["type"]: int(item.get("quantity", 1)) for item in given},
        )


class StandIn:
    """A server that plays one mission at a time.

    Args:
        still: show random pictures made beforehand and pay nothing, for benchmarks: the game then costs no time.
        tick_ms: milliseconds of work added to every tick.
        crash_at, hang_at: the step, counted from 1 over all missions, at which to die or to fall silent.
        busy: how often to call itself busy when a mission is sent.
    """

    def __init__(
        self,
        *,
        still: bool = False,
        tick_ms: float = 0.0,
        crash_at: int | None = None,
        hang_at: int | None = None,
        busy: int = 0,
    ) -> None:
        self.still, self.tick_ms, self.crash_at, self.hang_at, self.busy = still, tick_ms, crash_at, hang_at, busy
        self._mission = Mission(width=64, height=64)
        self._world: StandInWorld | None = None
        self._pictures: list[bytes] = []
        self._steps = self._ticks = 0
        self._done = True
        self._pending = ""
        self._lock = threading.Lock()

    def serve(self, listener: socket.socket) -> None:
        """Answer every client, each in a thread, until the listener is shut down."""
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(line,), daemon=True).start()

    def _talk(self, line: socket.socket) -> None:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with line:
            hello = _receive(line)
            if hello is None or not hello.startswith(b"<MalmoEnv"):
                return
            while (message := _receive(line)) is not None:
                with self._lock:
                    if not self._answer(line, message.decode()):
                        return

    def _answer(self, line: socket.socket, message: str) -> bool:
        """Answer one message; false if the line is to be closed."""
        if message.startswith("<StepClient"):
            self._step(line, message[message.index(">") + 1 : message.rindex("</")])
        elif message.startswith("<StepServer"):
            pass
        elif message.startswith("<Peek"):
            _send(line, self._frame(), self._info(), struct.pack("!b", self._done))
        elif message.startswith("<Quit"):
            self._done = True
            _send(line, struct.pack("!I", 1))
        elif message.startswith("<Exit"):
            _send(line, struct.pack("!I", 1))
            os._exit(0)
        elif message.startswith("<Disconnect"):
            return False
        elif "MissionInit" in message[:200]:
            self._pending = message
        elif message.count(":") >= 4:
            self._begin(line, message)
        return True

    def _begin(self, line: socket.socket, token: str) -> None:
        if self.busy > 0:
            self.busy -= 1
            _send(line, struct.pack("!I", 0))
            return
        fields = token.split(":")
        seed = int(fields[5]) if len(fields) > 5 else time.time_ns()
        self._mission = mission = Mission.read(self._pending)
        self._world = StandInWorld(seed, mission.width, mission.height, goal=mission.goal)
        self._world.inventory.update(mission.inventory)
        self._ticks, self._done = 0, False
        if self.still:
            shape = (_STILL_PICTURES, mission.height, mission.width, 3)
            noise = np.random.default_rng(seed % 2**32).integers(256, size=shape, dtype=np.uint8)
            self._pictures = [picture.tobytes() for picture in noise]
        _send(line, struct.pack("!I", 1))

    def _step(self, line: socket.socket, commands: str) -> None:
        world, mission = self._world, self._mission
        assert world is not None
        self._steps += 1
        self._ticks += 1
        if self._steps == self.crash_at:
            os._exit(3)
        if self._steps == self.hang_at:
            threading.Event().wait()
        reward = 0.0
        if not self.still:
            tick = world.tick(_keys(commands))
            reward = (tick.nearer if mission.dense else 0.0) + (tick.logs if mission.logs else 0.0)
            if tick.touched:
                reward += 100.0
            self._done = tick.touched or (mission.logs and world.inventory.get("log", 0) >= 64)
        self._done = self._done or self._ticks >= mission.ticks
        finished = time.perf_counter() + self.tick_ms / 1000
        while time.perf_counter() < finished:  # a game works; it does not sleep
            pass
        _send(line, self._frame(), struct.pack("!dbb", reward, self._done, True), self._info())

    def _frame(self) -> bytes:
        if self.still:
            return self._pictures[self._ticks % _STILL_PICTURES]
        assert self._world is not None
        return self._world.picture()[::-1].tobytes()

    def _info(self) -> bytes:
        assert self._world is not None
        message = self._world.message()
        if not self._mission.tells_inventory:
            del message["inventory"]
        if not self._mission.tells_stats:
            for key in ("xpos", "ypos", "zpos", "yaw", "pitch"):
                del message[key]
        life = {"life": 20.0, "score": 0, "food": 20, "saturation": 5.0, "xp": 0, "is_alive": True, "air": 300}
        held = {"type": "iron_axe", "damage": 0, "maxDamage": 250}
        facts = {"life_stats": life, "equipped_items": {"mainhand": held}, "isGuiOpen": False, "stand_in": True}
        return json.dumps({**message, **facts}).encode()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to go.

    A port that is in use ends the program with status 1, unless ``-env`` says that MineRL started it.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-port", "--port", type=int, default=9000, help="0 for any that is free")
    parser.add_argument("-env", action="store_true", help="MineRL started it")
    parser.add_argument("--still", action="store_true", help="costs no time, for benchmarks")
    parser.add_argument("--tick-ms", type=float, default=0.0, help="milliseconds of work added to every tick")
    parser.add_argument("--crash-at", type=int, help="die at this step")
    parser.add_argument("--hang-at", type=int, help="fall silent at this step")
    parser.add_argument("--busy", type=int, default=0, help="refuse so many missions at first")
    settings, _ = parser.parse_known_args(arguments)  # the flags of a Java program too
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", settings.port))
    except OSError as error:
        if not settings.env:
            sys.exit(f"port {settings.port} cannot be had: {error.strerror}. Choose another, or --port 0.")
        listener.bind(("127.0.0.1", 0))
    listener.listen()
    print("dreamenv's stand-in for Minecraft. It is not the game.")
    print(f"***** Start MalmoEnvServer on port {listener.getsockname()[1]}")
    print("CLIENT enter state: DORMANT", flush=True)
    stand_in = StandIn(
        still=settings.still,
        tick_ms=settings.tick_ms,
        crash_at=settings.crash_at,
        hang_at=settings.hang_at,
        busy=settings.busy,
    )
    stand_in.serve(listener)


def _keys(commands: str) -> Keys:
    held: dict[str, Any] = {}
    for command in commands.splitlines():
        name, *values = command.split()
        if name == "camera":
            held["turn"] = (float(values[0]), float(values[1]))
        elif name in Keys.__dataclass_fields__:
            held[name] = values[0] == "1"
    return Keys(**held)


def _send(line: socket.socket, *payloads: bytes) -> None:
    line.sendall(b"".join(struct.pack("!I", len(payload)) + payload for payload in payloads))


def _receive(line: socket.socket) -> bytes | None:
    head = _exactly(line, 4)
    return None if head is None else _exactly(line, struct.unpack("!I", head)[0])


def _exactly(line: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        try:
            piece = line.recv(count - len(data))
        except OSError:
            return None
        if not piece:
            return None
        data += piece
    return data


if __name__ == "__main__":
    main()

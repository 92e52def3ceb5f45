"""The process that plays Minecraft inside the user's MineRL interpreter, and the guard that never lets it outlive us.

One file that dreamenv starts there; it needs Python 3.7, numpy, gym and minerl, and nothing of dreamenv. Run as
``python worker.py REQUESTS REPLIES FRAME LIFE PARENT``: file descriptors of two pipes, of an anonymous file for the
frame and of a pipe that closes when dreamenv dies, and dreamenv's process id. Its working directory is private.

It forks: the child plays, the parent is the guard. When dreamenv or the player has died, the guard kills every process
that carries this worker's mark in its environment (Java and MineRL's watcher leave our process group, but inherit the
mark) and removes the working directory. Should the guard be killed, the player does the same.

Protocol, version 1: each message is a 4-byte big-endian length and that many bytes of JSON. A request is
``{"op": ..., ...}``; its answer ``{"ok": true, ...}`` or ``{"ok": false, "kind": ..., "message": ...}``.

- ``hello {protocol, env_id, port, measures}`` → ``{protocol, minerl, python, action_space, pov}``: the first message.
  ``port``: of a game that runs already, or null; ``measures``: of "logs" and "metres" what must be known.
- ``reset {seed}`` → ``{facts}``; ``step {action, ticks}`` → ``{ticks, reward, peak, done, facts, logs, metres}``;
  ``close {}`` → ``{}``, the last message.

After reset and step the frame, (height, width, 3) uint8 RGB with the top row first, lies in the shared file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import select
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from typing import Any, Sequence

__all__ = ["MARK", "PROTOCOL", "Line", "Meter", "Player", "RefusalError", "kill_marked", "main"]

PROTOCOL = 1
MARK = "DREAMENV_MINERL_WORKER"
"""The environment variable whose value names a worker and everything it started."""

LONGEST_TICK = 10.0
"""Metres; whoever moves further in one tick was carried (a respawn, a portal) and did not walk."""

BRIEF = 0.001
"""Seconds; a wait up to this is spent looking, not sleeping, if the last one was no longer."""

DISPLACED = 0.0005
"""Seconds between two looks that say that somebody else needed the core."""

CROWDED = 0.2
"""Seconds after that without looking; every try costs at most a turn of somebody else's, 3 ms on Linux."""

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
"""That we may use; with one, or where nobody says, all waits are slept."""


class RefusalError(Exception):
    """Something that dreamenv turns into its own error; ``kind`` says which."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


# The guard


def main(arguments: Sequence[str]) -> None:
    """Fork the player, then watch over it."""
    requests, replies, frame, life, parent = map(int, arguments)
    folder = os.getcwd()
    ended, playing = os.pipe()  # closes when the player ends
    guarded, guarding = os.pipe()  # closes when the guard ends
    player = os.fork()
    if player == 0:
        for unused in (life, ended, guarding):
            os.close(unused)
        status = 1
        try:
            threading.Thread(target=_watch_guard, args=(guarded, folder), daemon=True).start()
            _serve(Line(requests, replies), frame)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # no interpreter shutdown: MineRL's exit hooks wait for seconds, and the guard cleans up
    for unused in (requests, replies, frame, playing, guarded):
        os.close(unused)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while not select.select([life, ended], [], [], 1.0)[0] and os.getppid() == parent:
        pass
    kill_marked(os.environ[MARK])
    with contextlib.suppress(ChildProcessError):
        os.waitpid(player, 0)
    shutil.rmtree(folder, ignore_errors=True)


def _watch_guard(guarded: int, folder: str) -> None:
    """Do the guard's work if the guard dies."""
    os.read(guarded, 1)
    kill_marked(os.environ[MARK])
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def kill_marked(mark: str, seconds: float = 10.0) -> bool:
    """Kill every process of this user that carries a mark, but this one; again until none is left.

    A virtual display (``xvfb-run``) is asked first and killed after a second, so that it can remove its files in /tmp.

    Args:
        mark: the value of the environment variable.
        seconds: how long to try.

    Returns:
        Whether none is left.
    """
    entry = "{}={}".format(MARK, mark).encode()
    began = time.monotonic()
    while True:
        found = [pid for pid in _process_ids() if pid != os.getpid() and _carries(pid, entry)]
        for pid in found:
            ask = time.monotonic() < began + 1.0 and _read("/proc/{}/comm".format(pid)).strip() == b"Xvfb"
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM if ask else signal.SIGKILL)
        if not found or time.monotonic() > began + seconds:
            return not found
        time.sleep(0.01)


def _process_ids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []  # no /proc (macOS): MineRL's own watcher must do


def _carries(pid: int, entry: bytes) -> bool:
    return entry in _read("/proc/{}/environ".format(pid)).split(b"\0")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


# Messages


class Line:
    """One end of the two pipes: sends JSON behind its length, and receives it.

    Args:
        reads, writes: descriptors.
    """

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes = reads, writes
        self._swift = False  # whether the last wait was brief
        self._sleeps_until = 0.0

    def send(self, message: dict[str, Any]) -> None:
        """Send a message."""
        body = json.dumps(message).encode()
        os.write(self._writes, struct.pack("!I", len(body)) + body)

    def receive(self, seconds: float | None = None) -> Any:
        """Return the message that comes next. There is never a second one before the first is answered.

        Args:
            seconds: how long to wait for it; None waits for ever.

        Raises:
            EOFError: the other end is closed.
            TimeoutError: it did not come.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        data, size = b"", 4
        while len(data) < size:
            self._wait(deadline)
            piece = os.read(self._reads, 65536)
            if not piece:
                raise EOFError
            data += piece
            if size == 4 and len(data) >= 4:
                size += struct.unpack("!I", data[:4])[0]
        return json.loads(data[4:].decode())

    def _wait(self, deadline: float | None) -> None:
        """Wait until there is something to read.

        Who sleeps is woken late, 30 to 40 µs where the core slept too. So while messages come swiftly we look for the
        next one instead, and offer others the core between two looks. Where somebody takes it for long, there is more
        work than cores, and looking would keep the game and the other end from theirs (measured: a third slower than
        sleeping); then we sleep for a while.
        """
        began = now = time.monotonic()
        if self._swift and now >= self._sleeps_until:
            while now < began + BRIEF and (deadline is None or now < deadline):
                if select.select([self._reads], [], [], 0)[0]:
                    return
                os.sched_yield()
                looked, now = now, time.monotonic()
                if now > looked + DISPLACED:
                    self._sleeps_until = now + CROWDED
                    break
        left = None if deadline is None else max(0.0, deadline - now)
        if not select.select([self._reads], [], [], left)[0]:
            raise TimeoutError
        self._swift = CORES > 1 and time.monotonic() < began + BRIEF


# The player


def _serve(line: Line, frame: int) -> None:
    """Answer requests until the pipe closes or we are told to leave."""
    player = Player(frame)
    operations: dict[str, Any] = {
        "hello": player.hello,
        "reset": player.reset,
        "step": player.step,
        "close": player.close,
    }
    while not player.closed:
        try:
            request = line.receive()
        except EOFError:
            return
        try:
            answer = dict(operations[request.pop("op")](**request), ok=True)
        except RefusalError as refusal:
            answer = {"ok": False, "kind": refusal.kind, "message": str(refusal)}
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            answer = {"ok": False, "kind": "game", "message": "{}: {}".format(type(error).__name__, error)}
        line.send(answer)


class Player:
    """One MineRL environment.

    Args:
        frame: descriptor of the file that shows the frame.
    """

    def __init__(self, frame: int) -> None:
        self.closed = False
        self._frame_file = frame
        self._env: Any = None
        self._shared: Any = None
        self._meter = Meter(())
        self._claimed: socket.socket | None = None  # lets no other worker join our game
        self._joined = False  # plays in a game that was there before
        self._noop: dict[str, Any] = {}
        self._choices: dict[str, list[str]] = {}  # of native actions that are enumerations
        self._raw: str | None = None  # what Java said last, JSON

    def hello(self, protocol: int, env_id: str, port: int | None, measures: list[str]) -> dict[str, Any]:
        """Make the environment; the game itself starts on the first reset, unless it runs at ``port`` already."""
        if protocol != PROTOCOL:
            raise RefusalError("protocol", "dreamenv speaks version {}, the worker {}".format(protocol, PROTOCOL))
        minerl, gym = _load("minerl"), _load("gym")
        try:
            env = gym.make(env_id)
        except gym.error.UnregisteredEnv:
            raise RefusalError("unknown_env", "this MineRL has no {}".format(env_id)) from None
        base = env.unwrapped
        self._meter = Meter(measures)
        if measures:
            _ask_for_statistics(base.task)
        if hasattr(base, "_process_observation"):
            self._listen(base)
        if port is not None:
            self._claimed = _claim(port)
            base.instances, self._joined = [_existing(port)], True
        self._env = env
        self._noop = env.action_space.no_op() if hasattr(env.action_space, "no_op") else env.action_space.noop()
        spaces = env.action_space.spaces
        self._choices = {key: list(space.values) for key, space in spaces.items() if hasattr(space, "values")}
        shape = tuple(env.observation_space.spaces["pov"].shape)
        self._share(shape)
        return {
            "protocol": PROTOCOL,
            "minerl": _version(minerl),
            "python": "{}.{}.{}".format(*sys.version_info[:3]),
            "pov": list(shape),
            "action_space": {key: _describe(space) for key, space in spaces.items()},
        }

    def reset(self, seed: int) -> dict[str, Any]:
        """Start an episode."""
        self._env.seed(seed)
        self._raw = None
        observation = self._env.reset()
        self._show(observation["pov"])
        message: dict[str, Any] = json.loads(self._raw) if self._raw else {}
        self._meter.begin(observation, message)
        facts = _facts(observation)
        facts["stand_in"] = bool(message.get("stand_in", False))
        return {"facts": facts}

    def step(self, action: dict[str, Any], ticks: int) -> dict[str, Any]:
        """Hold keys for so many ticks, turn the camera in the first; stop where the episode ends."""
        held = dict(self._noop)
        for key, value in action.items():
            held[key] = self._choices[key][value] if key in self._choices else value
        total, peak, done, passed = 0.0, 0.0, False, 0
        self._meter.forget()
        while passed < ticks and not done:
            if passed == 1 and "camera" in action:
                held["camera"] = self._noop["camera"]
            observation, reward, done, info = self._env.step(held)
            if "error" in info:
                raise RefusalError("game", "the game does not answer ({})".format(info["error"]))
            total, peak, passed = total + float(reward), max(peak, float(reward)), passed + 1
            if self._meter.measures:
                self._meter.tick(observation, json.loads(self._raw) if self._raw else info)
        self._show(observation["pov"])
        answer = {"ticks": passed, "reward": total, "peak": peak, "done": bool(done), "facts": _facts(observation)}
        answer.update(self._meter.read())
        return answer

    def close(self) -> dict[str, Any]:
        """Take leave of a game that runs by itself; one that we started is killed by the guard."""
        self.closed = True
        if self._joined and self._env is not None:
            self._env.close()
        return {}

    def _listen(self, base: Any) -> None:
        """Keep what Java says: MineRL passes on only what the mission's observations name."""
        process = base._process_observation

        def listening(actor_name: str, pov: bytes, info: str) -> Any:
            self._raw = info
            return process(actor_name, pov, info)

        base._process_observation = listening

    def _share(self, shape: tuple[int, ...]) -> None:
        import numpy

        size = int(numpy.prod(shape))
        os.ftruncate(self._frame_file, size)
        self._shared = numpy.frombuffer(mmap.mmap(self._frame_file, size), numpy.uint8).reshape(shape)

    def _show(self, pov: Any) -> None:
        self._shared[...] = pov


class Meter:
    """Measures what the game does not reward: logs gained and metres walked.

    Args:
        measures: which of "logs" and "metres".
    """

    def __init__(self, measures: Sequence[str]) -> None:
        self.measures = measures
        self.logs = self.metres = 0.0
        self._held: int | None = None
        self._place: tuple[float, float] | None = None

    def begin(self, observation: Any, message: dict[str, Any]) -> None:
        """Look for the first time in an episode."""
        self._held, self._place = _logs(observation, message), _place(observation, message)
        for measure, known in (("logs", self._held), ("metres", self._place)):
            if measure in self.measures and known is None:
                what = "no inventory" if measure == "logs" else "no position"
                raise RefusalError("measure", "the client tells {}".format(what))
        self.forget()

    def forget(self) -> None:
        """Count from zero."""
        self.logs = self.metres = 0.0

    def tick(self, observation: Any, message: dict[str, Any]) -> None:
        """Look again, one tick later."""
        held, place = _logs(observation, message), _place(observation, message)
        if held is not None:
            self.logs += max(0, held - self._held) if self._held is not None else 0.0
            self._held = held
        if place is not None:
            if self._place is not None:
                moved = ((place[0] - self._place[0]) ** 2 + (place[1] - self._place[1]) ** 2) ** 0.5
                self.metres += moved if moved < LONGEST_TICK else 0.0
            self._place = place

    def read(self) -> dict[str, float]:
        """Return what was counted."""
        return {measure: getattr(self, measure) for measure in self.measures}


def _logs(observation: Any, message: dict[str, Any]) -> int | None:
    """How many logs are carried, of whatever wood; None if nobody says."""
    inventory = message.get("inventory")
    if inventory is not None:
        stacks = [(stack["type"], stack["quantity"]) for stack in inventory if "quantity" in stack and "type" in stack]
    elif "inventory" in observation:
        stacks = list(observation["inventory"].items())
    else:
        return None
    return sum(int(quantity) for item, quantity in stacks if item in ("log", "log2") or item.endswith("_log"))


def _place(observation: Any, message: dict[str, Any]) -> tuple[float, float] | None:
    """Where the player is, (x, z) in metres; None if nobody says."""
    for source in (message, message.get("location_stats", {}), observation.get("location_stats", {})):
        for x, z in (("xpos", "zpos"), ("XPos", "ZPos")):
            if x in source:
                return float(source[x]), float(source[z])
    return None


def _facts(observation: Any) -> dict[str, Any]:
    """What an observation says beside the picture, where it is cheap to say."""
    facts: dict[str, Any] = {}
    if "compass" in observation:
        facts["compass_angle"] = float(observation["compass"]["angle"])
    if "inventory" in observation:
        facts["inventory"] = {item: int(number) for item, number in observation["inventory"].items() if number}
    return facts


def _ask_for_statistics(task: Any) -> None:
    """Have the mission tell inventory and position, which MineRL's 1.0 missions leave out."""
    write = task.to_xml

    def to_xml() -> str:
        text = str(write())
        for tag, element in (
            ("<ObservationFromFullInventory", '<ObservationFromFullInventory flat="false"/>'),
            ("<ObservationFromFullStats", "<ObservationFromFullStats/>"),
        ):
            if tag not in text:
                text = text.replace("</AgentHandlers>", element + "</AgentHandlers>", 1)
        return text

    task.to_xml = to_xml


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if getattr(error, "name", None) == name:
            raise RefusalError("missing", "it has no package {}".format(name)) from None
        raise RefusalError("broken", "importing {} fails: {}".format(name, error)) from None
    except Exception as error:
        traceback.print_exc()
        raise RefusalError("broken", "importing {} fails: {}: {}".format(name, type(error).__name__, error)) from None


def _existing(port: int) -> Any:
    """Return MineRL's handle of a game that runs already."""
    manager = importlib.import_module("minerl.env.malmo").InstanceManager
    try:
        instance = manager.add_existing_instance(port)
    except AssertionError:
        raise RefusalError("no_game", "nothing listens on port {}".format(port)) from None
    instance.had_to_clean = False
    return instance


def _claim(port: int) -> socket.socket | None:
    """Make sure that no other worker plays in the game at a port; an abstract socket is free again when we end."""
    if not sys.platform.startswith("linux"):
        return None  # only Linux has abstract sockets
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind("\0dreamenv-minerl-{}".format(port))
    except OSError:
        claim.close()
        raise RefusalError("port_taken", "another environment plays in the game on port {}".format(port)) from None
    return claim


def _describe(space: Any) -> dict[str, Any]:
    """Describe one part of MineRL's action space in JSON."""
    if hasattr(space, "values"):
        names = [str(value) for value in space.values]
        return {"type": "Enum", "values": names}
    if hasattr(space, "n"):
        return {"type": "Discrete", "n": int(space.n)}
    return {"type": "Box", "low": float(space.low.min()), "high": float(space.high.max()), "shape": list(space.shape)}


def _version(minerl: Any) -> str:
    folder = os.path.dirname(os.path.dirname(os.path.abspath(minerl.__file__)))
    names = [name for name in os.listdir(folder) if name.startswith("minerl-") and name.endswith(".dist-info")]
    return names[0][len("minerl-") : -len(".dist-info")] if names else "unknown"


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder: its neighbours are dreamenv's and must not hide anybody's modules
    main(sys.argv[1:])

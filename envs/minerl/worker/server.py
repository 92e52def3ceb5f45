"""Serve one MineRL environment: make it, reset it, step it, and write its frames to shared memory."""

from __future__ import annotations

import importlib
import json
import mmap
import os
import socket
import sys
import traceback
from typing import Any

from dreamenv.envs.minerl.worker.messages import PROTOCOL, MessagePipe, RequestError
from dreamenv.envs.minerl.worker.meter import Meter, request_statistics

__all__ = ["EnvServer", "serve"]


def serve(pipe: MessagePipe, frame_fd: int) -> None:
    """Answer requests until the pipe closes or a request says so."""
    server = EnvServer(frame_fd)
    operations: dict[str, Any] = {
        "hello": server.hello,
        "reset": server.reset,
        "step": server.step,
        "close": server.close,
    }
    while not server.closed:
        try:
            request = pipe.receive()
        except EOFError:
            return
        try:
            answer = dict(operations[request.pop("op")](**request), ok=True)
        except RequestError as error:
            answer = {"ok": False, "kind": error.kind, "message": str(error)}
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            answer = {"ok": False, "kind": "game", "message": "{}: {}".format(type(error).__name__, error)}
        pipe.send(answer)


class EnvServer:
    """One MineRL environment.

    Args:
        frame_fd: file descriptor of the file that holds the frame.
    """

    def __init__(self, frame_fd: int) -> None:
        self.closed = False
        self._frame_fd = frame_fd
        self._env: Any = None
        self._frame: Any = None
        self._meter = Meter(())
        self._port_lock: socket.socket | None = None  # keeps other workers out of our game
        self._joined = False  # whether the game was running before
        self._noop: dict[str, Any] = {}
        self._enums: dict[str, list[str]] = {}  # the values of native actions that are enumerations
        self._raw_info: str | None = None  # the last info of the Java side, JSON

    def hello(self, protocol: int, env_id: str, port: int | None, measures: list[str]) -> dict[str, Any]:
        """Make the environment; the game itself starts on the first reset, unless it runs at ``port`` already."""
        if protocol != PROTOCOL:
            raise RequestError("protocol", "dreamenv speaks version {}, the worker {}".format(protocol, PROTOCOL))
        minerl, gym = _import("minerl"), _import("gym")
        try:
            env = gym.make(env_id)
        except gym.error.UnregisteredEnv:
            raise RequestError("unknown_env", "this MineRL has no {}".format(env_id)) from None
        base = env.unwrapped
        self._meter = Meter(measures)
        if measures:
            request_statistics(base.task)
        if hasattr(base, "_process_observation"):
            self._keep_raw_info(base)
        if port is not None:
            self._port_lock = _lock_port(port)
            base.instances, self._joined = [_running_instance(port)], True
        self._env = env
        self._noop = env.action_space.no_op() if hasattr(env.action_space, "no_op") else env.action_space.noop()
        spaces = env.action_space.spaces
        self._enums = {key: list(space.values) for key, space in spaces.items() if hasattr(space, "values")}
        shape = tuple(env.observation_space.spaces["pov"].shape)
        self._map_frame(shape)
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
        self._raw_info = None
        observation = self._env.reset()
        self._frame[...] = observation["pov"]
        message: dict[str, Any] = json.loads(self._raw_info) if self._raw_info else {}
        self._meter.reset(observation, message)
        return {"info": dict(_info(observation), fake_malmo=bool(message.get("fake_malmo", False)))}

    def step(self, action: dict[str, Any], ticks: int) -> dict[str, Any]:
        """Hold keys for some ticks, fewer if the episode ends; turn the camera in the first tick only."""
        native = dict(self._noop)
        for key, value in action.items():
            native[key] = self._enums[key][value] if key in self._enums else value
        total, max_reward, done, passed = 0.0, 0.0, False, 0
        self._meter.clear()
        while passed < ticks and not done:
            if passed == 1 and "camera" in action:
                native["camera"] = self._noop["camera"]
            observation, reward, done, info = self._env.step(native)
            if "error" in info:
                raise RequestError("game", "the game does not answer ({})".format(info["error"]))
            total, max_reward, passed = total + float(reward), max(max_reward, float(reward)), passed + 1
            if self._meter.measures:
                self._meter.update(observation, json.loads(self._raw_info) if self._raw_info else info)
        self._frame[...] = observation["pov"]
        answer = {
            "ticks": passed,
            "reward": total,
            "max_reward": max_reward,
            "done": bool(done),
            "info": _info(observation),
        }
        answer.update(self._meter.read())
        return answer

    def close(self) -> dict[str, Any]:
        """Disconnect from a game that was running before; the watchdog kills one that we started."""
        self.closed = True
        if self._joined and self._env is not None:
            self._env.close()
        return {}

    def _keep_raw_info(self, base: Any) -> None:
        """Keep all info of the Java side, of which MineRL passes on only what the mission's observations name."""
        process = base._process_observation

        def process_and_keep(actor_name: str, pov: bytes, info: str) -> Any:
            self._raw_info = info
            return process(actor_name, pov, info)

        base._process_observation = process_and_keep

    def _map_frame(self, shape: tuple[int, ...]) -> None:
        import numpy

        size = int(numpy.prod(shape))
        os.ftruncate(self._frame_fd, size)
        self._frame = numpy.frombuffer(mmap.mmap(self._frame_fd, size), numpy.uint8).reshape(shape)


def _info(observation: Any) -> dict[str, Any]:
    """Return the observation without its frame."""
    info: dict[str, Any] = {}
    if "compass" in observation:
        info["compass_angle"] = float(observation["compass"]["angle"])
    if "inventory" in observation:
        info["inventory"] = {item: int(number) for item, number in observation["inventory"].items() if number}
    return info


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if getattr(error, "name", None) == name:
            raise RequestError("missing", "it has no package {}".format(name)) from None
        raise RequestError("broken", "importing {} fails: {}".format(name, error)) from None
    except Exception as error:
        traceback.print_exc()
        raise RequestError("broken", "importing {} fails: {}: {}".format(name, type(error).__name__, error)) from None


def _running_instance(port: int) -> Any:
    """Return MineRL's handle of a running game."""
    manager = importlib.import_module("minerl.env.malmo").InstanceManager
    try:
        instance = manager.add_existing_instance(port)
    except AssertionError:
        raise RequestError("no_game", "nothing listens on port {}".format(port)) from None
    instance.had_to_clean = False
    return instance


def _lock_port(port: int) -> socket.socket | None:
    """Keep other workers out of the game at a port, by an abstract socket, which is free again when we end."""
    if not sys.platform.startswith("linux"):
        return None  # only Linux has abstract sockets
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind("\0dreamenv-minerl-{}".format(port))
    except OSError:
        lock.close()
        raise RequestError("port_taken", "another environment plays in the game on port {}".format(port)) from None
    return lock


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

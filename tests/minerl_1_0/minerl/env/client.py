"""An environment in the shape of MineRL 1.0's: a dictionary of keys and a camera, a picture of 360x640."""

from __future__ import annotations

import json
import struct
import types
import uuid
from typing import Any

import numpy as np

from minerl.env.malmo import Instance

__all__ = ["Client", "Dictionary"]

HEIGHT, WIDTH = 360, 640
_MISSION = """<MissionInit xmlns="http://ProjectMalmo.microsoft.com" PlatformVersion="0.37.0"><Mission><AgentSection>
<AgentHandlers><VideoProducer><Width>{width} </Width><Height>{height}</Height></VideoProducer>{asks}
<HumanLevelCommands/><CameraCommands/></AgentHandlers></AgentSection></Mission></MissionInit>"""


class Dictionary:
    """A space of spaces."""

    def __init__(self, spaces: dict[str, Any]) -> None:
        self.spaces = spaces

    def no_op(self) -> dict[str, Any]:
        """Return the action that does nothing."""
        return {key: np.zeros(2, np.float32) if key == "camera" else 0 for key in self.spaces}


class Client:
    """One environment.

    Args:
        keys: names of the keys.
        asks: elements of the mission by which it asks for more than the picture.
    """

    def __init__(self, keys: tuple[str, ...], asks: str) -> None:
        camera = types.SimpleNamespace(low=np.full(2, -180.0), high=np.full(2, 180.0), shape=(2,))
        picture = types.SimpleNamespace(shape=(HEIGHT, WIDTH, 3))
        self.action_space = Dictionary({"camera": camera, **{key: types.SimpleNamespace(n=2) for key in keys}})
        self.observation_space = Dictionary({"pov": picture})
        mission = _MISSION.format(width=WIDTH, height=HEIGHT, asks=asks)
        self.task = types.SimpleNamespace(to_xml=lambda: mission, name="a fake task")
        self.instances: list[Instance] = []
        self._seed: int | None = None

    @property
    def unwrapped(self) -> Client:
        """This environment: nothing is wrapped around it."""
        return self

    def seed(self, seed: int | None = None, seed_spaces: bool = True) -> None:
        """Fix the next episode's world."""
        self._seed = seed

    def reset(self) -> dict[str, Any]:
        """Begin an episode."""
        game = self.instances[0]
        game.connect()
        game.send("<Quit/>")
        game.receive()
        game.send(self.task.to_xml())
        game.send(f"{uuid.uuid4()}:0:0:1:true:{self._seed}")
        if struct.unpack("!I", game.receive()) != (1,):
            raise RuntimeError("the game is busy")
        game.send("<Peek/>")
        picture, message = game.receive(), game.receive().decode()
        game.receive()
        return self._process_observation("agent_0", picture, message)[0]

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        """Take one tick."""
        game = self.instances[0]
        lines = [f"{key} {value}" for key, value in action.items() if key != "camera"]
        pitch, yaw = np.asarray(action["camera"], np.float64).tolist()
        lines.append(f"camera {pitch} {yaw}")
        try:
            game.send("<StepClient0>" + "\n".join(lines) + "</StepClient0 >")
            picture = game.receive()
            reward, done, _ = struct.unpack("!dbb", game.receive())
            message = game.receive().decode()
            game.send("<StepServer></StepServer>")
        except OSError:
            return {"pov": np.zeros((HEIGHT, WIDTH, 3), np.uint8)}, 0.0, True, {"error": "Connection timed out!"}
        seen, info = self._process_observation("agent_0", picture, message)
        return seen, reward, bool(done), info

    def close(self) -> None:
        """Hang up."""
        for game in self.instances:
            game.hang_up()

    def _process_observation(self, actor_name: str, pov: bytes, info: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the observation, of the picture alone, and the monitor's facts."""
        picture = np.frombuffer(pov, np.uint8).reshape(HEIGHT, WIDTH, 3)[::-1]
        return {"pov": picture}, {"isGuiOpen": json.loads(info)["isGuiOpen"]}

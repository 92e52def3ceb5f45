"""The fake Malmo server speaks Malmo's protocol and never passes for Minecraft."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys

import numpy as np
import pytest
from minerl_games import fake_malmo

from dreamenv.envs.minerl.fake_malmo import Mission
from dreamenv.envs.minerl.fake_malmo_world import FakeMalmoWorld, Keys

XML = (
    '<MissionInit xmlns="http://ProjectMalmo.microsoft.com"><Mission>'
    "<VideoProducer><Width>32 </Width><Height>16</Height></VideoProducer>"
    '<InventoryObject slot="0" type="compass" quantity="2"/><ServerQuitFromTimeUp timeLimitMs="150"/>'
    "<ObservationFromFullInventory/></Mission></MissionInit>"
)


def send(line, *messages):
    for message in messages:
        line.sendall(struct.pack("!I", len(message)) + message.encode())


def receive(line, number=1):
    with line.makefile("rb", buffering=0) as file:

        def exactly(count):
            data = b""
            while len(data) < count:
                data += file.read(count - len(data))
            return data

        return [exactly(struct.unpack("!I", exactly(4))[0]) for _ in range(number)]


def test_a_mission_goes_as_the_protocol_says():
    with fake_malmo() as (port, game), socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        send(line, "<MalmoEnv0.37.0/>", "<Quit/>")
        assert receive(line) == [struct.pack("!I", 1)]
        send(line, XML, "uid:0:0:1:true:7")
        assert receive(line) == [struct.pack("!I", 1)]
        send(line, "<Peek/>")
        frame, info, done = receive(line, 3)
        assert (len(frame), done) == (16 * 32 * 3, b"\0")
        picture = np.frombuffer(frame, np.uint8).reshape(16, 32, 3)[::-1]  # the bottom row comes first
        np.testing.assert_array_equal(picture, FakeMalmoWorld(7, 32, 16, goal=False).render())
        message = json.loads(info)
        assert message["fake_malmo"] is True
        assert message["inventory"] == [{"type": "compass", "quantity": 2, "metadata": 0}]
        assert "xpos" not in message  # the mission did not ask
        for tick in (1, 2, 3):
            send(line, "<StepClient0>forward 1\ncamera 0.0 15.0</StepClient0 >", "<StepServer></StepServer>")
            frame, reply, info = receive(line, 3)
            assert struct.unpack("!dbb", reply) == (0.0, tick == 3, True)  # 150 ms
        send(line, "<Exit>NOW</Exit>")
        assert receive(line) == [struct.pack("!I", 1)]
        assert game.wait(20) == 0


def test_a_mission_is_read_from_its_xml():
    mission = Mission.from_xml(XML)
    assert (mission.width, mission.height, mission.ticks, mission.inventory) == (32, 16, 3.0, {"compass": 2})
    assert mission.observes_inventory
    assert not any((mission.goal, mission.dense, mission.logs, mission.observes_stats))


def test_a_port_in_use_is_named_but_minerl_gets_another():
    with fake_malmo() as (port, _):
        command = [sys.executable, "-m", "dreamenv.envs.minerl.fake_malmo", "-port", str(port)]
        refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.returncode == 1
        assert f"port {port} cannot be used" in refused.stderr
        with fake_malmo("--port", str(port), "-env", "-runDir", "anywhere", "-replaceable") as (other, _):
            assert other != port


def test_trees_stop_the_walker_and_attacks_fell_them():
    world = FakeMalmoWorld(0, 64, 64, goal=False)
    for _ in range(100):
        world.tick(Keys(forward=True))
    assert 37.4 < world.z < 37.7  # half a body, 0.3 m, before the trunk at 38
    ticks = [world.tick(Keys(attack=True)) for _ in range(40)]
    assert [index for index, tick in enumerate(ticks, 1) if tick.logs] == [8, 16, 24, 32]
    assert world.inventory == {"log": 4}
    for _ in range(10):
        world.tick(Keys(forward=True))
    assert world.z > 39


@pytest.mark.parametrize("seed", range(5))
def test_every_goal_can_be_seen_and_reached(seed):
    world = FakeMalmoWorld(seed, 64, 64, goal=True)
    world.tick(Keys(turn=(0.0, world.compass)))
    diamond = np.array([96, 219, 213])
    assert (np.abs(world.render().astype(int) - diamond).sum(-1) < 120).any()
    total, reached = 0.0, False
    while not reached:
        tick = world.tick(Keys(forward=True))
        total, reached = total + tick.progress, tick.goal_reached
        assert tick.progress > 0.1
    assert total == pytest.approx(16 - 1.2, abs=0.8)

"""Promises of ViZDoom scenarios that come from a configuration file."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import vizdoom
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from dreamenv.commands.places import RealSettings, real_maker
from dreamenv.data import Provenance
from dreamenv.envs import make_real
from dreamenv.envs.vizdoom.config import action_table, read_config
from dreamenv.errors import ConfigError, UnknownNameError

SCENARIOS = Path(vizdoom.scenarios_path)


@pytest.fixture
def config(tmp_path):
    """A scenario of a user's own: my_way_home's map, three buttons, 100 tics."""
    path = tmp_path / "mine.cfg"
    path.write_text(
        f"doom_scenario_path = {SCENARIOS / 'my_way_home.wad'}\ndoom_map = map01\nliving_reward = -0.5\n"
        "available_buttons = { TURN_LEFT TURN_RIGHT MOVE_FORWARD }\nepisode_timeout = 100\n"
    )
    return path


def test_the_buttons_of_a_file_become_a_table_of_actions(config):
    with make_real("vizdoom", config=config) as env:
        assert env.action_space.n == 6
        assert env.get_wrapper_attr("provenance").action_names == (
            "noop", "turn_left", "turn_right", "forward", "forward_turn_left", "forward_turn_right",
        )  # fmt: skip
        _, info = env.reset(seed=0)
        assert not any(info["native_action"])
        assert env.step(4)[4]["native_action"] == [1, 0, 1]
        check_for_sb3(env.unwrapped)


def test_every_action_presses_the_keys_of_its_name():
    names, table = action_table(["MOVE_BACKWARD", "ATTACK", "TURN_LEFT", "TURN_LEFT_RIGHT_DELTA"])
    assert dict(zip(names, table, strict=True)) == {
        "noop": (0, 0, 0, 0),
        "backward": (1, 0, 0, 0),
        "attack": (0, 1, 0, 0),
        "turn_left": (0, 0, 1, 0),
        "turn_left_right_delta_minus": (0, 0, 0, -5),
        "turn_left_right_delta_plus": (0, 0, 0, 5),
        "attack_turn_left": (0, 1, 1, 0),
        "attack_backward": (1, 1, 0, 0),
    }


def test_every_scenario_that_ships_with_its_game_can_be_read():
    commercial = {"doom", "doom2"}  # these need games that are not free
    maps_by_episode = {"freedoom1"}  # its file names no map, and the game has no map01
    for file in SCENARIOS.glob("*.cfg"):
        if file.stem in commercial | maps_by_episode:
            with pytest.raises(ConfigError, match="is not there" if file.stem in commercial else "doom_map = e1m1"):
                read_config(file)
        else:
            task = read_config(file.stem)
            assert len(set(task.action_names)) == len(task.action_table) > len(task.buttons)


def test_the_score_is_the_return_and_the_files_limit_truncates(config):
    env = make_real("vizdoom", config=config, size=16)
    env.reset(seed=0)
    rewards, truncated = [], False
    while not truncated:
        _, reward, _, truncated, info = env.step(0)
        rewards.append(reward)
    assert len(rewards) == 25
    assert sum(rewards) == pytest.approx(-50)
    assert info["score"] == pytest.approx(-50)
    assert info["success"] is False
    env.close()
    env = make_real("vizdoom", config=config, size=16, solved=-60.0)
    env.reset(seed=0)
    assert env.step(0)[4]["success"] is True
    env.close()


@pytest.mark.parametrize("own", [True, False])
def test_provenance_makes_it_again_from_anywhere(config, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = make_real("vizdoom", config="mine.cfg" if own else "basic", size=16, solved=3.0)
    provenance = Provenance.from_json(first.get_wrapper_attr("provenance").to_json())
    assert provenance.environment_kwargs["config"] == (str(config.resolve()) if own else "basic")
    monkeypatch.chdir("/")
    again = gym.make(provenance.environment_id, **provenance.environment_kwargs)
    assert again.get_wrapper_attr("provenance") == provenance
    assert again.get_wrapper_attr("task") == first.get_wrapper_attr("task")
    np.testing.assert_array_equal(first.reset(seed=3)[0], again.reset(seed=3)[0])
    first.close()
    again.close()


def test_the_command_line_hands_a_file_on_by_its_whole_path(config, monkeypatch):
    monkeypatch.chdir(config.parent)
    maker = real_maker("vizdoom", RealSettings(config="mine.cfg", size=16))
    monkeypatch.chdir("/")  # where a recording worker may be
    with maker() as env:
        assert env.action_space.n == 6


def test_an_unknown_return_solves_nothing():
    assert read_config("basic").solved == math.inf


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"mine\.cfg"):
        make_real("vizdoom", config=tmp_path / "mine.cfg")
    with pytest.raises(UnknownNameError, match="deadly_corridor"):
        make_real("vizdoom", config="deadly_corridr")
    with pytest.raises(ConfigError, match="config="):
        make_real("vizdoom")
    with pytest.raises(ConfigError, match="neither config nor solved"):
        make_real("take_cover", config="basic")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello world\n", "does not understand"),
        ("available_buttons = { TURN_LEFT JUMP_HIGH }\n", "does not understand"),
        ("episode_timeout = 300\n", "no buttons"),
        ("available_buttons = { TURN_LEFT }\ndoom_scenario_path = none.wad\n", r"none\.wad"),
        ("available_buttons = { TURN_LEFT }\ndoom_map = nowhere\n", "nowhere"),
    ],
)
def test_a_broken_file_is_refused_before_an_engine_starts(tmp_path, text, message):
    path = tmp_path / "broken.cfg"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        make_real("vizdoom", config=path)


def test_an_argument_that_an_environment_does_not_take_is_named():
    with pytest.raises(ConfigError, match=r"no argument sizes; it takes .*size"):
        make_real("take_cover", sizes=32)

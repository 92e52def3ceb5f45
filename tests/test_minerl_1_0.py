"""Minecraft's tasks of MineRL 1.0, against fakes of both that client and its game.

PyPI does not serve MineRL 1.0, so nothing here ran with it: these tests hold what dreamenv does with 360x640 pictures,
a Java side that pays nothing, missions that ask for the picture alone, and the larger set of keys.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from minerl_games import fake_malmo
from test_import_oasis import tiny_world

from dreamenv.agents import AgentConfig, ObservationConfig, PPOConfig, evaluate, train_agent
from dreamenv.agents.real import check_provenance
from dreamenv.dream import DreamConfig
from dreamenv.envs import make_real
from dreamenv.errors import DreamenvError, UnavailableError, WorkerError, WorldMismatchError

TASKS = ("minerl_find_cave", "minerl_survival")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An interpreter that finds the fakes of MineRL 1.0 and gym."""
    path = tmp_path_factory.mktemp("minerl-1.0") / "python"
    modules = Path(__file__).parent / "minerl_1_0"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{modules}" exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def port():
    with fake_malmo() as (port, _):
        yield port


def actions(env, *names):
    known = env.get_wrapper_attr("task").action_names
    return [known.index(name) for name in names]


@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_accepts_the_task_without_a_warning(task, python, port):
    env = make_real(task, minerl_python=python, port=port, size=32)
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_a_wide_picture_is_shrunk_by_area_to_a_square(python, port):
    env = make_real("minerl_find_cave", minerl_python=python, port=port, render_mode="rgb_array")
    frame, info = env.reset(seed=3)
    whole = env.render()
    assert whole.shape == (360, 640, 3)
    assert frame.shape == (64, 64, 3)
    blocks = whole.reshape(360, 64, 10, 3).mean(axis=2)  # 10 columns to one, exactly
    assert np.abs(blocks.mean(axis=0) - frame.astype(float).mean(axis=0)).max() < 1.5
    assert info["fake_malmo"]
    assert whole[:60, :, 2].mean() > whole[-60:, :, 2].mean() + 40  # the sky is above
    env.close()


def test_reward_distance_is_the_metres_walked(python, port):
    env = make_real("minerl_find_cave", minerl_python=python, port=port, size=16)
    noop, forward, turn = actions(env, "noop", "forward", "turn_right")
    env.reset(seed=3)
    walked = [env.step(action)[1] for action in (noop, forward, turn, forward)]
    assert walked[0] == walked[2] == 0.0
    assert walked[1] == pytest.approx(4 * 0.216, abs=1e-6)  # four ticks of the fake game's player
    *_, info = env.step(noop)
    assert info["score"] == pytest.approx(sum(walked))
    assert info["success"] is False
    env.reset(seed=3)
    assert env.step(noop)[4]["score"] == 0.0
    env.close()


def test_reward_logs_pays_every_log_once(python, port):
    env = make_real("minerl_survival", minerl_python=python, port=port, size=16)
    forward, attack = actions(env, "forward", "attack")
    env.reset(seed=3)
    for _ in range(7):  # to the tree straight ahead
        assert env.step(forward)[1] == 0.0
    rewards = [env.step(attack)[1] for _ in range(12)]
    *_, info = env.step(attack)
    assert sum(rewards) == info["score"] == 4.0  # a trunk of the fake game has four logs
    assert set(rewards) == {0.0, 1.0}
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_the_native_reward_is_always_zero(task, python, port):
    env = make_real(task, minerl_python=python, port=port, size=16, reward="native")
    forward, attack = actions(env, "forward", "attack")
    env.reset(seed=3)
    assert {env.step(action)[1] for action in [forward] * 7 + [attack] * 8} == {0.0}
    env.close()


def test_native_actions_are_the_keys_of_1_0_and_a_camera(python, port):
    env = make_real("minerl_survival", minerl_python=python, port=port, size=16, native_actions=True)
    keys = {"ESC", "drop", "inventory", "pickItem", "swapHands", "use", *(f"hotbar.{slot}" for slot in range(1, 10))}
    assert keys < set(env.action_space.keys())
    assert env.action_space["camera"].shape == (2,)
    env.action_space.seed(0)
    before, _ = env.reset(seed=3)
    still = {key: 0 for key in env.action_space.keys() if key != "camera"}
    turned, *_, info = env.step({**still, "camera": np.array([0.0, 30.0], np.float32)})
    again, *_ = env.step({**still, "camera": np.zeros(2, np.float32)})
    assert (turned != before).any()
    np.testing.assert_array_equal(turned, again)
    assert info["native_action"]["camera"].tolist() == [0.0, 30.0]
    env.step(env.action_space.sample())
    env.close()


def test_one_policy_plays_in_an_imported_oasis_world_and_in_the_game(python, port, tmp_path):
    world = tiny_world()
    config = AgentConfig(
        observation=ObservationConfig(kind="frame", stack=2), total_steps=16, num_envs=2,
        ppo=PPOConfig(n_steps=8, batch_size=8, n_epochs=1), dream=DreamConfig(horizon=4),
    )  # fmt: skip

    def brightness(frames, actions):
        assert len(actions) == len(frames)
        return frames.mean(axis=(1, 2, 3)) / 255

    policy = train_agent(config, out=tmp_path / "agent", world=world, reward_fn=brightness, progress=False)
    dreamt = evaluate(policy, world, episodes=2, horizon=4, reward_fn=brightness)
    assert dreamt.lengths == [4, 4]
    assert all(0 < total < 4 for total in dreamt.returns)
    maker = partial(make_real, "minerl_survival", minerl_python=python, port=port, size=(16, 32), frame_skip=1)
    outside = partial(gym.wrappers.TimeLimit, max_episode_steps=5)
    assert evaluate(policy, lambda: outside(maker()), episodes=1, num_envs=1).lengths == [5]
    with pytest.raises(WorldMismatchError, match=r"frame_size: \(16, 32\) against 16"):
        evaluate(policy, partial(maker, size=16), episodes=1, num_envs=1)


def test_its_own_keys_are_those_of_an_imported_oasis_world(python, port):
    env = make_real(
        "minerl_survival", minerl_python=python, port=port, size=(16, 32), frame_skip=1, native_actions=True
    )
    check_provenance(tiny_world("minerl"), env)
    env.close()


def test_the_death_of_the_game_is_an_error_and_the_next_reset_says_what_lacks(python):
    with fake_malmo("--crash-at", "9") as (port, _):
        env = make_real("minerl_survival", minerl_python=python, port=port, size=16)
        env.reset(seed=0)
        env.step(0)
        env.step(0)
        with pytest.raises(WorkerError, match=r"game.*reset"):
            env.step(0)
        with pytest.raises(DreamenvError, match=str(port)):
            env.reset(seed=0)
        env.close()


def test_a_task_of_the_other_client_says_so(python, port):
    with pytest.raises(UnavailableError, match=r"MineRLNavigateDense-v0.*DREAMENV_MINERL_PYTHON"):
        make_real("minerl_navigate_dense", minerl_python=python, port=port).reset(seed=0)

"""Promises of the real environments."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from dreamenv.data import ExplorerPolicy, Provenance
from dreamenv.envs import full_id, make_real, register
from dreamenv.envs.vizdoom.env import VizdoomEnv
from dreamenv.envs.vizdoom.tasks import VIZDOOM_TASKS
from dreamenv.errors import (
    ActionError,
    ConfigError,
    ResetNeededError,
    UnknownNameError,
    WorkerError,
    WorldMismatchError,
)


def play(env, seed, actions):
    """Return the frames, rewards and last info of an episode played until the actions or the episode end."""
    frame, info = env.reset(seed=seed)
    frames, rewards = [frame], []
    for action in actions:
        frame, reward, terminated, truncated, info = env.step(action)
        frames.append(frame)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.stack(frames), np.array(rewards), terminated, truncated, info


def play_on(env):
    """Step a few times more."""
    for _ in range(3):
        env.step(0)


@pytest.mark.parametrize("task", ["take_cover", "my_way_home", "health_gathering"])
def test_every_task_has_small_rgb_frames_and_a_noop_first(task):
    env = make_real(task, size=32)
    frame, info = env.reset(seed=0)
    assert frame.shape == (32, 32, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 5  # it shows something
    assert env.action_space.n == len(VIZDOOM_TASKS[task].action_names)
    _, _, _, _, info = env.step(0)
    assert not any(info["native_action"])
    assert info["success"] is False
    provenance = env.get_wrapper_attr("provenance")
    assert provenance.environment_id == full_id(task)
    assert (provenance.frame_size, provenance.frame_skip, provenance.max_episode_steps) == (32, 4, 525)
    assert provenance.frame_rate == pytest.approx(8.75)
    again = gym.make(provenance.environment_id, **provenance.environment_kwargs)
    assert again.get_wrapper_attr("provenance") == provenance
    again.close()
    env.close()


def test_gymnasium_accepts_a_real_environment_without_a_warning():
    env = make_real("take_cover", size=16)
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_gym_make_works_on_the_full_id():
    register()
    register()
    with gym.make("dreamenv/VizdoomTakeCover-v0", size=16) as env:
        assert env.reset(seed=1)[0].shape == (16, 16, 3)


def test_same_seed_gives_the_same_episode_whatever_went_before():
    actions = np.random.default_rng(0).integers(3, size=40)
    env = make_real("take_cover")
    first = play(env, 5, actions)
    play(env, 6, actions)
    second = play(env, 5, actions)
    other = make_real("take_cover")
    other.reset(seed=99)
    third = play(other, 5, actions)
    for again in (second, third):
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
    env.reset(seed=7)
    following = env.reset()[0]
    env.reset(seed=7)
    np.testing.assert_array_equal(following, env.reset()[0])
    assert play(env, 8, actions)[0].tobytes() != first[0].tobytes()
    env.close()
    other.close()


def test_take_cover_pays_and_scores_tics_and_ends_by_death():
    env = make_real("take_cover", size=16)
    frames, rewards, terminated, truncated, info = play(env, 3, [0] * 525)
    assert terminated
    assert not truncated
    assert rewards.sum() == info["score"]
    assert (rewards[:-1] == 4).all()
    np.testing.assert_array_equal(frames[-1], frames[-2])  # no frame after the end: the last one again
    with pytest.raises(ResetNeededError, match="reset"):
        env.unwrapped.step(0)
    env.close()


def test_the_time_limit_truncates_at_2100_tics():
    env = make_real("my_way_home", size=16, frame_skip=40)
    _, rewards, terminated, truncated, info = play(env, 3, [0] * 100)
    assert len(rewards) == 53  # 52 steps of 40 tics, one of 20
    assert truncated
    assert not terminated
    assert rewards.sum() == pytest.approx(-0.21, abs=1e-6)
    assert (info["score"], info["success"]) == (0.0, False)
    env.close()


def test_the_step_that_pays_for_the_goal_ends_the_episode():
    """The level itself ends a tic after it has paid, which at one tic per step would be another step."""
    env = make_real("my_way_home", frame_skip=1)
    walker = ExplorerPolicy(env.get_wrapper_attr("provenance").action_names)
    frame, _ = env.reset(seed=14)
    walker.reset(14)
    for _ in range(300):
        frame, reward, terminated, _, info = env.step(walker.act(frame))
        if terminated or reward > 0.5:
            break
    assert terminated
    assert reward == pytest.approx(0.9998, abs=1e-6)
    assert info["success"]
    env.close()


def test_medkit_reward_pays_for_rising_health_only():
    env = make_real("health_gathering", size=16, reward="medkit")
    paid = 0.0
    for seed in range(3):
        _, info = env.reset(seed=seed)
        rng = np.random.default_rng(seed)
        done = False
        while not done:
            health = info["health"]
            _, reward, terminated, truncated, info = env.step(int(rng.choice([1, 3, 3, 3, 4])))
            assert reward == float(info["health"] > health)
            paid += reward
            done = terminated or truncated
    assert paid >= 1
    assert env.get_wrapper_attr("provenance").environment_kwargs["reward"] == "medkit"
    env.close()


def test_health_reward_adds_three_tics_for_every_point_of_health() -> None:
    rewards = {}
    for reward in ("native", "health"):
        env = make_real("take_cover", size=16, reward=reward)
        try:
            _, rewards[reward], terminated, _, _ = play(env, 3, [0] * 525)
        finally:
            env.close()
    assert terminated
    assert rewards["health"].sum() == rewards["native"].sum() - 300  # all of the 100 points were lost
    assert rewards["health"].min() < -3


def test_health_gathering_native_reward_is_tics_minus_the_penalty_of_death():
    env = make_real("health_gathering", size=16)
    _, rewards, terminated, _, info = play(env, 3, [0] * 525)
    assert terminated
    assert rewards.sum() == info["score"] - 100
    env.close()


def test_environments_in_threads_do_not_disturb_each_other():
    actions = np.random.default_rng(0).integers(3, size=30)
    alone = make_real("take_cover", size=16)
    expected = [play(alone, seed, actions)[0] for seed in range(3)]
    alone.close()
    got = [None] * 3

    def work(index):
        env = make_real("take_cover", size=16)
        got[index] = play(env, index, actions)[0]
        env.close()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_is_left_in_the_working_directory_or_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = make_real("take_cover", size=16)
    env.reset(seed=0)
    folder = Path(env.unwrapped.working_directory)
    assert folder.is_dir()
    env.close()
    env.close()
    assert not folder.exists()
    assert os.listdir(tmp_path) == []


def test_render_shows_the_unshrunk_picture():
    env = make_real("take_cover", size=16, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (120, 160, 3)
    env.close()


def test_the_death_of_the_engine_is_a_worker_error():
    env = make_real("take_cover", size=16)
    env.reset(seed=0)
    folder = env.unwrapped.working_directory
    engines = [
        int(pid)
        for pid in os.listdir("/proc")
        if pid.isdigit() and os.path.exists(f"/proc/{pid}/cwd") and os.readlink(f"/proc/{pid}/cwd") == folder
    ]
    assert len(engines) == 1
    os.kill(engines[0], signal.SIGKILL)
    with pytest.raises(WorkerError, match="ViZDoom engine"):
        play_on(env)
    env.close()


def test_frames_may_be_as_wide_as_the_screen_is():
    env = make_real("take_cover", size=(24, 32), render_mode="rgb_array")
    frame, _ = env.reset(seed=0)
    assert frame.shape == (24, 32, 3)
    assert env.observation_space.contains(frame)
    assert np.abs(env.render().reshape(24, 5, 32, 5, 3).mean(axis=(1, 3)) - frame).max() <= 1
    provenance = env.get_wrapper_attr("provenance")
    assert provenance == Provenance.from_json(json.loads(json.dumps(provenance.to_json())))
    again = gym.make(provenance.environment_id, **provenance.environment_kwargs)
    assert again.observation_space == env.observation_space
    with pytest.raises(WorldMismatchError, match=r"frame_size: \(24, 32\) against 24"):
        provenance.check_matches(dataclasses.replace(provenance, frame_size=(24, 24)))
    env.close()
    again.close()


def test_bad_input_is_named():
    with pytest.raises(UnknownNameError, match="take_cover"):
        make_real("take_cove")
    with pytest.raises(UnknownNameError, match="native"):
        make_real("take_cover", reward="medkit")
    with pytest.raises(ConfigError, match="4"):
        make_real("take_cover", size=4)
    with pytest.raises(ConfigError, match=r"\(64, 641\)"):
        make_real("take_cover", size=(64, 641))
    with pytest.raises(ConfigError, match="frame_skip"):
        make_real("take_cover", frame_skip=0)
    with pytest.raises(ConfigError, match="render_mode"):
        VizdoomEnv("take_cover", render_mode="ansi")
    env = make_real("take_cover", size=16)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    with pytest.raises(ResetNeededError):
        env.unwrapped.step(0)
    env.reset(seed=0)
    for action in (3, -1, 0.5, "left"):
        with pytest.raises(ActionError, match="action"):
            env.unwrapped.step(action)
    env.close()

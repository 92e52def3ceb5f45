"""Whatever door a program comes through, the same seeds and actions give the same frames, rewards and infos."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from drifting import make_world
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from toy import empty_dataset, play

from dreamenv import make_real
from dreamenv.agents import DreamVecEnv
from dreamenv.data import RandomPolicy, collect
from dreamenv.dream import DreamEnv, DreamVectorEnv

ID = "dreamenv:dreamenv/Dream-v0"
ROWS, STEPS = 3, 14
SETTINGS = {"horizon": 4, "uncertainty_penalty": 0.5}


def actions() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (STEPS, ROWS))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("observation", ["frame", "latent"])
def test_the_native_vector_gives_what_gymnasiums_own_gives_to_the_type(mode, observation):
    settings = {"world": make_world(termination=0.1), "observation": observation, **SETTINGS}
    native = gym.make_vec(ID, ROWS, autoreset_mode=mode, **settings)
    stacked = gym.make_vec(ID, ROWS, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **settings)
    assert isinstance(stacked, gym.vector.SyncVectorEnv)
    assert native.single_observation_space == stacked.single_observation_space
    assert_same(native.reset(seed=5), stacked.reset(seed=5))
    for action in actions():
        assert_same(native.step(action), stacked.step(action))


def test_infos_of_resets_and_steps_have_the_same_names_and_types():
    env = DreamVectorEnv(make_world(), ROWS, **SETTINGS)
    _, first = env.reset(seed=0)
    *_, info = env.step([0] * ROWS)
    assert {name: value.dtype for name, value in first.items()} == {name: value.dtype for name, value in info.items()}
    assert set(info) >= {"start", "termination_probability", "uncertainty", "imagined_reward"}
    assert info["start"].tolist() == first["start"].tolist()


def test_stable_baselines3s_own_rows_and_ours_agree():
    world = make_world(termination=0.1)
    theirs = DummyVecEnv([lambda: DreamEnv(world, **SETTINGS)] * ROWS)
    ours = DreamVecEnv(world, ROWS, **SETTINGS)
    for env in (theirs, ours):
        env.seed(7)
    assert_same(theirs.reset(), ours.reset())
    assert theirs.reset_infos == ours.reset_infos
    for action in actions():
        left, right = theirs.step(action), ours.step(action)
        assert_same(left[:3], right[:3])
        for own in right[3]:
            own.pop("episode", None)  # which Monitor would add to theirs
        assert data_equivalence(left[3], right[3])
        assert [[type(value) for value in info.values()] for info in map(by_name, left[3])] == [
            [type(value) for value in info.values()] for info in map(by_name, right[3])
        ]
        assert theirs.reset_infos == ours.reset_infos


def by_name(info: dict) -> dict:
    return dict(sorted(info.items()))


def assert_same(left: tuple, right: tuple) -> None:
    """Equal to the last bit and of the same types."""
    assert data_equivalence(left, right, exact=True), f"{left}\nagainst\n{right}"


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_torchrl_rolls_out_the_native_vector(mode):
    """In the modes that it takes."""
    pytest.importorskip("torchrl", reason="torchrl is not installed")
    from torchrl.envs import GymWrapper

    env = GymWrapper(gym.make_vec(ID, ROWS, world=make_world(), autoreset_mode=mode, **SETTINGS))
    env.set_seed(0)
    rollout = env.rollout(STEPS, break_when_any_done=False)
    assert rollout.batch_size == (ROWS, STEPS)
    assert rollout["next", "truncated"].any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are spawned here")
@pytest.mark.parametrize("world", ["None", "World.default()"])
def test_asynchronous_vectors_step_on_several_threads(world):
    """A fork does not copy torch's threads; whoever waits for them waits for ever."""
    code = f"""
import warnings
from functools import partial
import gymnasium as gym, torch
from dreamenv import World
torch.ones(500, 500) @ torch.ones(500, 500)
env = gym.make_vec("{ID}", num_envs=2, vectorization_mode="async", world={world}, horizon=8)
env.reset(seed=0)
for _ in range(3):
    env.step(env.action_space.sample())
env.close()
print("stepped", torch.get_num_threads())
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert "stepped 2" in done.stdout, done.stderr[-2000:]


def test_stable_baselines3_reads_one_rows_spaces_and_the_worlds_rate():
    env = DreamVecEnv(make_world(), ROWS)
    assert env.get_attr("action_space") == [env.action_space] * ROWS == [gym.spaces.Discrete(3)] * ROWS
    assert env.get_attr("observation_space", [1]) == [env.observation_space]
    assert env.metadata["render_fps"] == 8.75


def test_a_monitor_around_dreams_has_nothing_to_warn_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = VecMonitor(DreamVecEnv(make_world(), ROWS, horizon=2))
    env.reset()
    env.step(np.zeros(ROWS, int))
    *_, infos = env.step(np.ones(ROWS, int))
    assert infos[0]["episode"]["l"] == 2


def test_each_row_of_stable_baselines3_takes_its_own_options():
    env = DreamVecEnv(make_world(), ROWS)
    env.set_options([{"start": 3}, {"start": "episode"}, {}])
    env.reset()
    starts = [info["start"] for info in env.reset_infos]
    assert starts[0] == 3
    assert starts[1] % 4 == 1
    env.set_options([{"start": 999}] * ROWS)
    with pytest.raises(ValueError, match="no start 999"):
        env.reset()
    env.reset()  # the options that could not be are forgotten


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_dreams_are_pickled_in_the_middle(chunk, render_mode):
    env = gym.make(ID, world=make_world(chunk=chunk), render_mode=render_mode)
    copy = pickle.loads(pickle.dumps(env))
    assert data_equivalence(env.reset(), copy.reset())
    env.step(1)
    copy = pickle.loads(pickle.dumps(env))
    for action in (2, 0, 1):
        assert data_equivalence(env.step(action), copy.step(action))


@pytest.mark.parametrize("task", ["take_cover", "crafter", "minigrid_door_key"])
def test_real_environments_are_pickled_before_and_within_an_episode(task):
    for package in ("vizdoom", "crafter", "minigrid"):
        pytest.importorskip(package)
    env = make_real(task)
    copy = pickle.loads(pickle.dumps(env))
    assert data_equivalence(env.reset(), copy.reset())
    assert data_equivalence(env.step(1), copy.step(1))
    again = pickle.loads(pickle.dumps(env))
    assert again.spec == env.spec
    assert data_equivalence(env.reset(), again.reset())
    for one in (env, copy, again):
        one.close()


def test_minari_makes_the_environment_of_a_recording_again(tmp_path):
    import minari

    pytest.importorskip("crafter")
    collect(
        partial(make_real, "crafter", size=32, frame_skip=2), partial(RandomPolicy, gym.spaces.Discrete(17)),
        tmp_path / "recording", steps=5, num_workers=0, progress=False,
    )  # fmt: skip
    env = minari.MinariDataset(tmp_path / "recording" / "data").recover_environment()
    assert env.observation_space.shape == (32, 32, 3)
    assert env.unwrapped.frame_skip == 2
    env.reset(seed=0)
    env.close()


def test_a_recording_of_what_gymnasium_cannot_make_has_no_spec(tmp_path):
    import minari

    dataset = empty_dataset(tmp_path / "recording")
    dataset.append(play(0))
    assert minari.MinariDataset(dataset.path / "data").env_spec is None

"""A vector environment of dreams refuses bad settings, actions, seeds, options and states by name."""

from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_world

from dreamenv.dream import DreamVectorEnv, load_state, save_state
from dreamenv.errors import (
    ActionError,
    ConfigError,
    DeviceError,
    InputError,
    ResetNeededError,
    SeedError,
    StateError,
    StorageError,
    UnknownNameError,
)


@pytest.fixture(autouse=True, params=[1, 3], ids=["frame_by_frame", "in_chunks"])
def _chunk(request, monkeypatch):
    """Everything here holds as well in a world that imagines several frames at once."""
    monkeypatch.setitem(globals(), "make_world", functools.partial(make_world, chunk=request.param))


@pytest.fixture
def env() -> DreamVectorEnv:
    return DreamVectorEnv(make_world(), 4)


def actions(env: DreamVectorEnv, rng: np.random.Generator) -> np.ndarray:
    return np.repeat(rng.integers(0, 3), env.num_envs)


KEYS = gym.spaces.Dict({"turn": gym.spaces.Box(-1, 1, (1,)), "jump": gym.spaces.Discrete(2)})


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (gym.spaces.Discrete(3), [0, 3], "action 3 of row 1"),
        (gym.spaces.Discrete(3), [-1, 0], "action -1 of row 0"),
        (gym.spaces.Discrete(3), [0], r"\(2,\) integers"),
        (gym.spaces.Discrete(3), [0.0, 1.0], "float64"),
        (gym.spaces.Discrete(3), [True, False], "bool"),
        (gym.spaces.MultiDiscrete([3, 2]), [[0, 0], [2, 2]], r"action \[2 2\] of row 1"),
        (gym.spaces.Box(-1, 1, (1,), np.float32), [[0.0], [1.5]], r"action \[1.5\] of row 1"),
        (gym.spaces.Box(-1, 1, (1,), np.float32), [[np.nan], [0.0]], r"action \[nan\] of row 0"),
        (gym.spaces.Discrete(3), torch.tensor([0, 5]), "action 5 of row 1"),
        (KEYS, {"jump": [0, 1], "turn": [[0.0], [2.0]]}, r"action \[1. 2.\] of row 1"),
        (KEYS, {"jump": [0, 1]}, "lacks 'turn'"),
        (KEYS, {"jump": [0], "turn": [[0.0]]}, r"actions must be \(2, 2\) numbers"),
        (KEYS, {"jump": [0, 1, 1], "turn": [[0.0], [0.0]]}, r"have \[2, 3\] rows"),
        (KEYS, [[0.5, 0.0], [1.0, 0.0]], r"action \[0.5 0. \] of row 0"),
    ],
)
def test_actions_outside_the_space_are_refused_and_change_nothing(space, actions, message):
    env = DreamVectorEnv(make_world(space=space), 2)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ActionError, match=message):
        env.step(actions)
    assert (env.get_state() == before).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 0}, "num_envs must be a whole number, at least 1, not 0"),
        ({"horizon": 0}, "horizon must be a whole number, at least 1, or None, not 0"),
        ({"config": {"horizon": 3}}, "config must be a DreamConfig"),
        ({"observation": "pixels"}, "'frame' or 'latent', not 'pixels'"),
        ({"output": "jax"}, "'numpy' or 'torch', not 'jax'"),
        ({"autoreset_mode": "Never"}, "autoreset_mode"),
        ({"render_mode": "ansi"}, "render_mode"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DreamVectorEnv(make_world(), **{"num_envs": 1, **settings})


def test_a_device_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(DeviceError, match=r"'cuda:77' is not available here. Available: cpu"):
        DreamVectorEnv(make_world(), 1, device="cuda:77")
    with pytest.raises(DeviceError, match="'quantum' is not the name"):
        DreamVectorEnv(make_world(), 1, device="quantum")


def test_a_step_before_the_first_reset_is_refused(env):
    for call in (lambda: env.step([0] * 4), env.get_state, DreamVectorEnv(env.world, render_mode="rgb_array").render):
        with pytest.raises(ResetNeededError):
            call()
    with pytest.raises(gym.error.ResetNeeded):
        env.step([0] * 4)


@pytest.mark.parametrize("seed", [[1, 2, 3], [1, 2, 3, -4], -1, 1.5, "seed", [1, 2, 3, 2**63], [True] * 4])
def test_seeds_that_make_no_sense_are_refused(env, seed):
    with pytest.raises(SeedError):
        env.reset(seed=seed)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strat": 1}, UnknownNameError, "'start'"),
        ({"start": 20}, InputError, "no start 20: this world has 20"),
        ({"start": -1}, InputError, "no start -1"),
        ({"start": [1, 2]}, InputError, "4 integers"),
        ({"start": "beginning"}, InputError, "'beginning'"),
        ({"start": 1.5}, InputError, "1.5"),
        ({"reset_mask": np.array([True])}, InputError, r"\(4,\) bool"),
        ({"reset_mask": np.ones(4)}, InputError, "float64"),
        ({"reset_mask": np.zeros(4, dtype=bool)}, InputError, "no row"),
    ],
)
def test_reset_options_that_make_no_sense_are_refused(env, options, error, message):
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        env.reset(options=options)


def test_the_first_reset_is_of_all_rows(env):
    with pytest.raises(ResetNeededError, match="all rows"):
        env.reset(options={"reset_mask": np.array([True, False, False, False])})


def test_states_that_do_not_fit_are_refused(env, tmp_path):
    env.reset(seed=0)
    state = env.get_state()
    other = make_world()
    other.model.scale.data += 1
    with pytest.raises(StateError, match="another world"):
        DreamVectorEnv(other, 4).set_state(state)
    with pytest.raises(StateError, match=r"\[3\] rows and the environment 4"):
        env.set_state(state[:3])
    with pytest.raises(StateError, match="no state of an environment"):
        env.set_state(state["dream"])
    latent = DreamVectorEnv(env.world, 4, observation="latent")
    latent.reset(seed=0)
    with pytest.raises(StateError, match="no frames"):
        env.set_state(latent.get_state())
    latent.set_state(state)  # the other way round, nothing is missing
    with pytest.raises(StateError, match="no state at"):
        load_state(tmp_path / "none")
    (tmp_path / "half").write_bytes(b"12345678")
    with pytest.raises(StateError, match="damaged"):
        load_state(tmp_path / "half")


def test_a_state_that_was_cut_short_or_altered_is_refused(env, tmp_path):
    env.reset(seed=0)
    path = tmp_path / "dream.safetensors"
    save_state(env.get_state(), path)
    whole = path.read_bytes()
    flipped = [whole[:place] + bytes((whole[place] ^ 1,)) + whole[place + 1 :] for place in range(0, len(whole), 101)]
    for damaged in (*flipped, whole[:-1], b""):
        path.write_bytes(damaged)
        with pytest.raises(StateError, match=r"dream.safetensors is damaged"):
            load_state(path)
    path.write_bytes(whole)
    env.set_state(load_state(path))


def test_branching_a_row_that_is_not_there_is_refused(env):
    env.reset(seed=0)
    for rows in (4, [-1], [0, 9]):
        with pytest.raises(InputError, match="no row"):
            env.branch(rows)
    with pytest.raises(InputError, match="single row"):
        env.branch([1, 2], 3)
    with pytest.raises(SeedError):
        env.branch(0, seed=-1)


def test_a_full_disk_leaves_the_state_that_was_there(env, tmp_path, monkeypatch):
    env.reset(seed=0)
    path = tmp_path / "dream.safetensors"
    save_state(env.get_state(), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        save_state(env.get_state(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

"""States of a vector environment of dreams are saved, restored and branched."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from drifting import make_world

from dreamenv.dream import DreamVectorEnv, load_state, save_state


@pytest.fixture(autouse=True, params=[1, 3], ids=["frame_by_frame", "in_chunks"])
def _chunk(request, monkeypatch):
    """Everything here holds as well in a world that imagines several frames at once."""
    monkeypatch.setitem(globals(), "make_world", functools.partial(make_world, chunk=request.param))


@pytest.fixture
def env() -> DreamVectorEnv:
    return DreamVectorEnv(make_world(), 4)


def roll(env: DreamVectorEnv, steps: int, seed: int = 0) -> list[np.ndarray]:
    """Step under the same actions every time; observations, rewards and terminations."""
    rng = np.random.default_rng(seed)
    return [np.concatenate([np.ravel(part) for part in env.step(actions(env, rng))[:4]]) for _ in range(steps)]


def actions(env: DreamVectorEnv, rng: np.random.Generator) -> np.ndarray:
    return np.repeat(rng.integers(0, 3), env.num_envs)


def test_a_restored_state_replays_exactly_across_autoresets_and_files(env, tmp_path):
    env = DreamVectorEnv(make_world(termination=0.05), 4, horizon=9)
    env.reset(seed=0)
    roll(env, 8)
    state = env.get_state()
    first = roll(env, 100, seed=1)
    save_state(state, tmp_path / "dream.safetensors")
    other = DreamVectorEnv(make_world(termination=0.05), 4, horizon=9)
    other.set_state(load_state(tmp_path / "dream.safetensors"))
    np.testing.assert_array_equal(first, roll(other, 100, seed=1))


def test_a_restored_state_returns_the_same_observation(env):
    env.reset(seed=0)
    shown = env.step([1, 2, 1, 2])[0]
    state = env.get_state()
    roll(env, 3)
    np.testing.assert_array_equal(env.set_state(state), shown)


def test_stepping_on_leaves_a_state_taken_before_as_it_was(env):
    env.reset(seed=0)
    state = env.get_state()
    copy = state.clone()
    roll(env, 60)
    assert (state == copy).all()


def test_branches_agree_without_a_seed_and_differ_with_one(env):
    env.reset(seed=0)
    env.set_state(env.branch(2))
    same = env.step([1] * 4)[0]
    assert (same == same[:1]).all()
    env.set_state(env.branch([2, 2, 2, 2], seed=5))
    different = env.step([1] * 4)[0]
    assert len({frame.tobytes() for frame in different}) == 4


def test_branches_fit_environments_with_as_many_rows(env):
    env.reset(seed=0)
    wide = DreamVectorEnv(env.world, 7)
    wide.set_state(env.branch(1, 7))
    np.testing.assert_array_equal(wide.step([1] * 7)[0][3], env.step([1] * 4)[0][1])

"""Many dreams as one vector environment."""

from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import Drifting, make_starts, make_world
from gymnasium.vector import AutoresetMode

from dreamenv.dream import DreamVectorEnv
from dreamenv.dream.chunking import frame_by_frame
from dreamenv.errors import (
    ConfigError,
    ResetNeededError,
)


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


def test_observations_rewards_and_flags_have_the_shapes_and_types_of_their_spaces(env):
    observations, _ = env.reset(seed=0)
    assert observations in env.observation_space
    assert observations.shape == (4, 16, 16, 3)
    assert observations.dtype == np.uint8
    observations, rewards, terminated, truncated, _ = env.step(np.array([0, 1, 2, 0]))
    assert observations in env.observation_space
    assert rewards.tolist() == [0, 1, 2, 0]
    assert terminated.dtype == truncated.dtype == np.bool_
    assert rewards.shape == terminated.shape == truncated.shape == (4,)


def test_a_dream_begins_with_the_last_real_frame_of_its_start(env):
    observations, info = env.reset(options={"start": np.array([1, 7, 3, 8])})
    assert info["start"].tolist() == [1, 7, 3, 8]
    assert [int(frame.mean()) for frame in observations] == [1, 7, 3, 8]


def test_the_frame_is_the_models_rounded_to_the_nearest():
    env = DreamVectorEnv(make_world(noise=0.0), 1)
    env.reset(options={"start": 5})
    frames = [int(env.step([1])[0].max()) for _ in range(9)]
    assert frames == [round(5 + 255 * 0.01 * step) for step in range(1, 10)]


def test_the_same_seed_dreams_the_same_dreams(env):
    env.reset(seed=3)
    first = roll(env, 60)
    env.reset(seed=3)
    again = roll(env, 60)
    env.reset(seed=4)
    other = roll(env, 60)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_row_is_the_same_whatever_its_companions():
    world = make_world(termination=0.1)
    many = DreamVectorEnv(world, 5, horizon=7)
    one = DreamVectorEnv(world, 1, horizon=7)
    many.reset(seed=[9, 8, 7, 6, 5])
    one.reset(seed=[7])
    for _ in range(40):
        batch, single = many.step([1] * 5), one.step([1])
        for left, right in zip(batch[:4], single[:4], strict=True):
            np.testing.assert_array_equal(left[2], right[0])


def test_an_integer_seed_gives_consecutive_seeds_to_the_rows(env):
    env.reset(seed=10)
    whole = roll(env, 5)
    env.reset(seed=[10, 11, 12, 13])
    np.testing.assert_array_equal(whole, roll(env, 5))


def test_a_reset_without_seed_continues_the_rows_streams(env):
    env.reset(seed=1)
    second, _ = env.reset()
    env.reset(seed=1)
    np.testing.assert_array_equal(second, env.reset()[0])
    starts = [tuple(env.reset()[1]["start"]) for _ in range(10)]
    assert len(set(starts)) > 5


def test_unseeded_environments_dream_different_dreams():
    world = make_world()
    starts = [tuple(DreamVectorEnv(world, 6).reset()[1]["start"]) for _ in range(4)]
    assert len(set(starts)) > 1


def test_starts_are_chosen_evenly():
    env = DreamVectorEnv(make_world(starts=4), 256)
    _, info = env.reset(seed=0)
    counts = np.bincount(info["start"], minlength=4)
    assert ((counts - 64) ** 2 / 64).sum() < 16.3  # chi-squared with 3 degrees of freedom, p = 0.001


def test_next_step_autoreset_shows_the_last_frame_then_the_first_of_the_next_dream():
    env = DreamVectorEnv(make_world(noise=0.0), 2, horizon=3)
    env.reset(seed=0)
    steps = [env.step([1, 1]) for _ in range(5)]
    assert [step[3].tolist() for step in steps] == [[False] * 2, [False] * 2, [True] * 2, [False] * 2, [False] * 2]
    observations, rewards, _, _, info = steps[3]
    assert rewards.tolist() == [0, 0]
    assert info["_start"].all()
    assert not info["termination_probability"].any()
    assert [int(frame.mean()) for frame in observations] == info["start"].tolist()
    assert "final_obs" not in steps[2][4]
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_same_step_autoreset_hands_over_the_final_observation_and_info():
    env = DreamVectorEnv(make_world(), 2, horizon=3, autoreset_mode=AutoresetMode.SAME_STEP)
    twin = DreamVectorEnv(make_world(), 2, horizon=3)
    env.reset(seed=0)
    twin.reset(seed=0)
    for _ in range(2):
        _, _, _, truncated, info = env.step([1, 2])
        twin.step([1, 2])
        assert not truncated.any()
        assert "final_obs" not in info
    observations, rewards, _, truncated, info = env.step([1, 2])
    final, *_ = twin.step([1, 2])
    stepped, *_ = twin.step([1, 2])
    assert truncated.all()
    assert rewards.tolist() == [1, 2]
    np.testing.assert_array_equal(np.stack(info["final_obs"]), final)
    np.testing.assert_array_equal(observations, stepped)
    assert info["_final_obs"].all()
    assert info["_final_info"].all()
    assert info["final_info"]["_termination_probability"].all()
    assert (info["final_info"]["uncertainty"] == 0.25).all()
    assert info["_start"].all()
    assert not info["uncertainty"].any()


def test_final_infos_are_only_of_rows_that_ended():
    env = DreamVectorEnv(make_world(), 3, horizon=4, autoreset_mode="SameStep")
    env.reset(seed=0)
    env.step([0] * 3)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    for _ in range(2):
        env.step([0] * 3)
    _, _, _, truncated, info = env.step([0] * 3)
    assert truncated.tolist() == [True, False, True]
    assert info["_final_obs"].tolist() == [True, False, True]
    assert info["final_obs"][1] is None
    assert info["final_info"]["_uncertainty"].tolist() == [True, False, True]
    assert info["final_info"]["uncertainty"].tolist() == [0.25, 0, 0.25]
    assert info["uncertainty"].tolist() == [0, 0.25, 0]


def test_disabled_autoreset_asks_for_a_reset_of_the_rows_that_ended():
    env = DreamVectorEnv(make_world(), 2, horizon=2, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.step([0, 0])
    env.reset(options={"reset_mask": np.array([True, False])})
    env.step([0, 0])
    with pytest.raises(ResetNeededError, match=r"rows \[1\] have ended"):
        env.step([0, 0])
    env.reset(options={"reset_mask": np.array([False, True])})
    env.step([0, 0])


def test_resetting_one_row_leaves_the_others_bit_identical(env):
    env.reset(seed=0)
    roll(env, 3)
    state = env.get_state()
    undisturbed = roll(env, 5)
    env.set_state(state)
    env.reset(options={"reset_mask": np.array([False, True, False, False])})
    assert (env.get_state()["dream"][[0, 2, 3]] == state["dream"][[0, 2, 3]]).all()
    disturbed = roll(env, 5)
    kept = np.stack(disturbed)[:, :-12].reshape(5, 4, -1)[:, [0, 2, 3]]
    np.testing.assert_array_equal(kept, np.stack(undisturbed)[:, :-12].reshape(5, 4, -1)[:, [0, 2, 3]])


def test_the_horizon_is_counted_per_row(env):
    env = DreamVectorEnv(make_world(), 2, horizon=4)
    env.reset(seed=0)
    env.step([0, 0])
    env.reset(options={"reset_mask": np.array([True, False])})
    ends = [env.step([0, 0])[3].tolist() for _ in range(4)]
    assert ends == [[False, False], [False, False], [False, True], [True, False]]


def test_the_default_horizon_is_the_real_time_limit(env):
    assert env.horizon == 50
    world = make_world()
    world.provenance = None
    assert DreamVectorEnv(world, 1).horizon == 256


def test_terminations_are_as_frequent_as_predicted_and_no_truncations():
    env = DreamVectorEnv(make_world(termination=0.25), 200, horizon=10_000, autoreset_mode="SameStep")
    env.reset(seed=0)
    ends = [env.step([0] * 200)[2].mean() for _ in range(150)]
    assert abs(np.mean(ends) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 30_000)


def test_a_step_that_terminates_the_dream_pays_the_terminal_reward():
    env = DreamVectorEnv(make_world(termination=0.5, terminal_reward=7.0), 200, autoreset_mode="SameStep")
    env.reset(seed=0)
    _, rewards, terminated, _, _ = env.step([1] * 200)
    assert 50 < terminated.sum() < 150
    assert rewards.dtype == np.float64
    assert (rewards == np.where(terminated, 7.0, 1.0)).all()


def test_a_termination_at_the_horizon_is_no_truncation():
    env = DreamVectorEnv(make_world(termination=1.0), 2, horizon=1)
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step([0, 0])
    assert terminated.all()
    assert not truncated.any()
    assert info["termination_probability"].tolist() == [1, 1]


def test_a_temperature_of_zero_takes_the_noise_away():
    env = DreamVectorEnv(make_world(), 2, temperature=0.0)
    env.reset(options={"start": 3})
    frames = env.step([0, 0])[0]
    assert (frames == 3).all()


def test_a_range_of_temperatures_samples_one_per_dream():
    env = DreamVectorEnv(make_world(), 500, temperature=(0.5, 1.5), horizon=1)
    env.reset(seed=0)
    first = env.get_state()["dream", "temperature"]
    assert 0.5 <= first.min() < 0.52
    assert 1.48 < first.max() <= 1.5
    env.step([0] * 500)
    env.step([0] * 500)
    assert not torch.equal(first, env.get_state()["dream", "temperature"])


def test_latent_observations_are_the_models_embedding():
    env = DreamVectorEnv(make_world(), 3, observation="latent", horizon=2, autoreset_mode="SameStep")
    observations, _ = env.reset(seed=0)
    assert observations in env.observation_space
    assert observations.shape == (3, 2)
    env.step([0] * 3)
    observations, _, _, _, info = env.step([0] * 3)
    assert (info["final_obs"][0] != observations[0]).any()
    observations, *_ = env.step([0] * 3)
    state = env.get_state()
    np.testing.assert_array_equal(observations, frame_by_frame(env.world.model).embed(state["dream"]))
    np.testing.assert_array_equal(env.set_state(state), observations)


def test_a_model_without_embedding_offers_no_latent_observations(monkeypatch):
    world = make_world()
    monkeypatch.delattr(Drifting, "embed")
    with pytest.raises(ConfigError, match="no embedding"):
        DreamVectorEnv(world, 1, observation="latent")


def test_uncertainty_is_reported_penalised_and_truncates_dreams():
    env = DreamVectorEnv(make_world(doubt=0.25), 2, uncertainty_penalty=2.0)
    env.reset(seed=0)
    _, rewards, _, truncated, info = env.step([1, 2])
    assert info["uncertainty"].tolist() == [0.25, 0.25]
    assert rewards.tolist() == [0.5, 1.5]
    assert info["imagined_reward"].tolist() == [1, 2]
    assert not truncated.any()
    doubting = DreamVectorEnv(make_world(doubt=0.25), 2, max_uncertainty=0.2)
    doubting.reset(seed=0)
    assert doubting.step([1, 2])[3].all()


def test_episode_starts_begin_on_an_episodes_first_frame_with_an_empty_memory(env):
    observations, info = env.reset(seed=0, options={"start": "episode"})
    assert (info["start"] % 4 == 1).all()
    assert (observations == 200).all()
    only = DreamVectorEnv(make_world(), 8, episode_starts_only=True, horizon=2)
    observations, _ = only.reset(seed=0)
    assert (observations == 200).all()
    assert (only.get_state()["dream", "rng_counter"] == 0).all()
    for _ in range(3):
        observations = only.step([0] * 8)[0]
    assert (observations == 200).all()


def test_a_world_without_episode_starts_says_so():
    world = make_world()
    starts = make_starts()
    starts.at_episode_start[:] = False
    with pytest.raises(ConfigError, match="episode_starts_only"):
        DreamVectorEnv(world, 1, starts=starts, episode_starts_only=True)


def test_torch_output_is_equal_and_may_enter_gradients():
    world = make_world(termination=0.1)
    numpy = DreamVectorEnv(world, 3, observation="latent", autoreset_mode="SameStep", horizon=5)
    tensor = DreamVectorEnv(
        world, 3, observation="latent", autoreset_mode="SameStep", horizon=5, output="torch", device="cpu"
    )
    np.testing.assert_array_equal(numpy.reset(seed=0)[0], tensor.reset(seed=0)[0].numpy())
    for _ in range(10):
        left, right = numpy.step(np.array([0, 1, 2])), tensor.step(torch.tensor([0, 1, 2]))
        for a, b in zip(left[:4], right[:4], strict=True):
            assert isinstance(b, torch.Tensor)
            np.testing.assert_array_equal(a, b.numpy())
    layer = torch.nn.Linear(2, 1)
    layer(right[0]).sum().backward()
    assert layer.weight.grad is not None


def test_returned_arrays_are_the_callers_to_change(env):
    observations, _ = env.reset(seed=0)
    state = env.get_state()
    expected = env.step([1] * 4)[0].copy()
    env.set_state(state)
    observations[:] = 0
    changed = env.step([1] * 4)
    np.testing.assert_array_equal(changed[0], expected)
    changed[0][:] = 0
    assert env.get_state()["frame"].any()


def test_make_vec_gives_the_native_batch():
    env = gym.make_vec("dreamenv:dreamenv/Dream-v0", num_envs=3, world=make_world(), horizon=5)
    assert isinstance(env, DreamVectorEnv)
    assert env.num_envs == 3
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()


def test_gymnasiums_vector_wrappers_work():
    env = gym.wrappers.vector.RecordEpisodeStatistics(DreamVectorEnv(make_world(), 2, horizon=3))
    env = gym.wrappers.vector.DictInfoToList(env)
    env.reset(seed=0)
    for _ in range(3):
        infos = env.step(np.array([1, 2]))[4]
    assert [info["episode"]["r"] for info in infos] == [3.0, 6.0]
    assert [info["episode"]["l"] for info in infos] == [3, 3]


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(4, start=-1),
        gym.spaces.MultiDiscrete([3, 2]),
        gym.spaces.MultiBinary([2, 2]),
        gym.spaces.Box(-1, 1, (2,), np.float32),
        gym.spaces.Dict({"camera": gym.spaces.Box(-10, 10, (2,)), "jump": gym.spaces.Discrete(2)}),
    ],
)
def test_every_kind_of_action_space_works(space):
    env = DreamVectorEnv(make_world(space=space), 3)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())

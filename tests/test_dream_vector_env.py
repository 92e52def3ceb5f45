"""Many dreams as one vector environment."""

from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import Drifting, make_starts, make_world
from gymnasium.vector import AutoresetMode

from dreamenv.dream import DreamVectorEnv, load_state, save_state
from dreamenv.dream.chunking import frame_by_frame
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


def roll(env: DreamVectorEnv, steps: int, seed: int = 0) -> list[np.ndarray]:
    """Step under the same actions every time; observations, rewards and endings."""
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
    world = make_world(ending=0.1)
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


def test_a_reset_without_seed_goes_on_with_the_rows_streams(env):
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
    assert not info["_termination_probability"].any()
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
    begun, *_ = twin.step([1, 2])
    assert truncated.all()
    assert rewards.tolist() == [1, 2]
    np.testing.assert_array_equal(np.stack(info["final_obs"]), final)
    np.testing.assert_array_equal(observations, begun)
    assert info["_final_obs"].all()
    assert info["_final_info"].all()
    assert info["final_info"]["_termination_probability"].all()
    assert info["_start"].all()
    assert not info["_termination_probability"].any()


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
    assert info["_uncertainty"].tolist() == [False, True, False]


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


def test_endings_come_as_often_as_the_model_says_and_are_no_truncations():
    env = DreamVectorEnv(make_world(ending=0.25), 200, horizon=10_000, autoreset_mode="SameStep")
    env.reset(seed=0)
    ends = [env.step([0] * 200)[2].mean() for _ in range(150)]
    assert abs(np.mean(ends) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 30_000)


def test_a_step_that_ends_the_dream_pays_the_reward_of_endings():
    env = DreamVectorEnv(make_world(ending=0.5, terminal_reward=7.0), 200, autoreset_mode="SameStep")
    env.reset(seed=0)
    _, rewards, terminated, _, _ = env.step([1] * 200)
    assert 50 < terminated.sum() < 150
    assert rewards.dtype == np.float32
    assert (rewards == np.where(terminated, 7.0, 1.0)).all()


def test_an_ending_at_the_horizon_is_no_truncation():
    env = DreamVectorEnv(make_world(ending=1.0), 2, horizon=1)
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step([0, 0])
    assert terminated.all()
    assert not truncated.any()
    assert info["termination_probability"].tolist() == [1, 1]


def test_a_restored_state_replays_exactly_across_autoresets_and_files(env, tmp_path):
    env = DreamVectorEnv(make_world(ending=0.05), 4, horizon=9)
    env.reset(seed=0)
    roll(env, 8)
    state = env.get_state()
    first = roll(env, 100, seed=1)
    save_state(state, tmp_path / "dream.safetensors")
    other = DreamVectorEnv(make_world(ending=0.05), 4, horizon=9)
    other.set_state(load_state(tmp_path / "dream.safetensors"))
    np.testing.assert_array_equal(first, roll(other, 100, seed=1))


def test_a_restored_state_shows_what_was_shown(env):
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


def test_a_temperature_of_zero_takes_the_noise_away():
    env = DreamVectorEnv(make_world(), 2, temperature=0.0)
    env.reset(options={"start": 3})
    frames = env.step([0, 0])[0]
    assert (frames == 3).all()


def test_a_range_of_temperatures_draws_one_per_dream():
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


def test_doubt_is_told_taken_off_the_reward_and_ends_dreams():
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


def test_episode_starts_begin_on_an_episodes_first_frame_with_nothing_remembered(env):
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
    world = make_world(ending=0.1)
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
        ({"num_envs": 0}, "num_envs must be at least 1, not 0"),
        ({"horizon": 0}, "horizon must be a whole number of steps, at least 1, or None, not 0"),
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

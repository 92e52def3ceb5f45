"""Promises of the frame store and of training windows."""

from __future__ import annotations

import dataclasses
import os
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy import empty_dataset, random_episode, toy_dataset

from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.episode import Episode
from dreamenv.data.provenance import Provenance
from dreamenv.data.store import FrameStore
from dreamenv.data.windows import WindowSampler, read_windows, windows_for_evaluation
from dreamenv.errors import ConfigError, DatasetError, StorageError

LENGTHS = (1, 3, 4, 5, 9, 20)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Episodes of several lengths; a step's reward is 100 times its episode's number plus its own."""
    dataset = empty_dataset(tmp_path_factory.mktemp("recorded") / "d")
    for number, length in enumerate(LENGTHS):
        rewards = 100 * number + np.arange(length)
        dataset.append(random_episode(length, seed=number, rewards=rewards, terminated=number % 2 == 0))
    return dataset


def test_the_store_holds_every_frame_and_the_step_that_led_to_it(recorded):
    store = FrameStore(recorded)
    assert store.total_steps == sum(LENGTHS)
    assert len(store.frames) == sum(LENGTHS) + len(LENGTHS)
    for episode, start, length in zip(recorded, store.starts, store.lengths, strict=True):
        np.testing.assert_array_equal(store.frames[start : start + length + 1], episode.frames)
        for name in ("actions", "rewards"):
            np.testing.assert_array_equal(getattr(store, name)[start + 1 : start + length + 1], getattr(episode, name))
        ends = store.terminated[start : start + length + 1]
        assert ends.sum() == ends[-1] == episode.terminated
    assert isinstance(store.frames, np.memmap)


def test_a_view_shares_the_cache_and_lists_its_own_episodes(recorded):
    train, held_out = recorded.split(0.4, 0)
    stores = [FrameStore(part) for part in (train, held_out, recorded)]
    assert len(os.listdir(recorded.path / "cache")) == 1
    assert [len(s.lengths) for s in stores] == [len(train), len(held_out), len(recorded)]
    for store, part in zip(stores, (train, held_out, recorded), strict=True):
        for episode, start in zip(part, store.starts, strict=True):
            np.testing.assert_array_equal(store.frames[start], episode.frames[0])


def test_the_cache_is_made_once_and_again_when_more_is_recorded(tmp_path):
    dataset = toy_dataset(tmp_path / "d", 2)
    FrameStore(dataset)
    (cache,) = (tmp_path / "d" / "cache").iterdir()
    made = (cache / "frames.npy").stat().st_mtime_ns
    FrameStore(EpisodeDataset.open(tmp_path / "d"))
    assert (cache / "frames.npy").stat().st_mtime_ns == made
    dataset.append(random_episode(5))
    assert FrameStore(dataset).total_steps == dataset.total_steps
    (again,) = (tmp_path / "d" / "cache").iterdir()
    assert again != cache


def test_a_full_disk_leaves_no_half_cache(tmp_path, monkeypatch):
    dataset = toy_dataset(tmp_path / "d", 2)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(StorageError, match="No space left"):
            FrameStore(dataset)
    assert os.listdir(tmp_path / "d" / "cache") == []
    assert FrameStore(dataset).total_steps == dataset.total_steps


@pytest.mark.parametrize("name", ["frames.npy", "actions.npy", "rewards.npy", "terminated.npy", "cache.json"])
def test_a_damaged_cache_is_built_again_with_a_message(tmp_path, name):
    dataset = toy_dataset(tmp_path / "d", 2)
    before = {key: np.array(value) for key, value in vars(FrameStore(dataset)).items() if isinstance(value, np.ndarray)}
    (cache,) = (tmp_path / "d" / "cache").iterdir()
    whole = (cache / name).read_bytes()
    flipped = whole[:-9] + bytes((whole[-9] ^ 1,)) + whole[-8:]
    for damaged in (flipped, whole[:-5], whole + b"0", b""):
        (cache / name).write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{cache / name} is damaged.* built again"):
            store = FrameStore(dataset)
        for key, value in before.items():
            np.testing.assert_array_equal(getattr(store, key), value)
        assert (cache / name).read_bytes() == whole
    (cache / name).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FrameStore(dataset)
    assert (cache / name).read_bytes() == whole


def test_an_empty_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no episodes"):
        FrameStore(empty_dataset(tmp_path / "d"))


def test_statistics_equal_those_of_the_episodes(recorded):
    train, _ = recorded.split(0.4, 0)
    found = FrameStore(train).statistics()
    frames = np.concatenate([episode.frames for episode in train]) / 255.0
    rewards = np.concatenate([episode.rewards for episode in train])
    np.testing.assert_allclose(found.frame_mean.numpy(), frames.mean(0).transpose(2, 0, 1), atol=1e-6)
    assert found.frame_mean.dtype == torch.float32
    assert found.reward_mean == pytest.approx(rewards.mean())
    assert found.reward_std == pytest.approx(rewards.std())
    assert (found.reward_min, found.reward_max) == (rewards.min(), rewards.max())
    assert found.termination_rate == pytest.approx(sum(e.terminated for e in train) / train.total_steps)


def test_a_window_is_a_stretch_of_one_episode(recorded):
    store = FrameStore(recorded)
    batch = WindowSampler(store, batch_size=64, sequence_length=4, seed=1).batch(0)
    assert batch.first_frame.shape == (64, 3, 16, 16)
    assert batch.frames.shape == (64, 4, 3, 16, 16)
    assert batch.frames.dtype == torch.float32
    assert batch.actions.dtype == torch.int64
    assert (batch.frames.min(), batch.frames.max()) == (0, 1)
    padded = 0
    for row in range(64):
        real = int((batch.weight[row] > 0).sum())
        number, step = divmod(int(batch.rewards[row, 0]), 100)
        episode = recorded[number]
        assert real == min(4, len(episode))
        stretch = slice(step, step + real)
        frames = torch.from_numpy(episode.frames[step : step + real + 1]).movedim(-1, -3) / 255
        torch.testing.assert_close(batch.first_frame[row], frames[0])
        torch.testing.assert_close(batch.frames[row, :real], frames[1:])
        np.testing.assert_array_equal(batch.actions[row, :real], episode.actions[stretch])
        np.testing.assert_array_equal(batch.rewards[row, :real], episode.rewards[stretch])
        ends = episode.terminated and step + real == len(episode)
        assert batch.terminated[row].nonzero().flatten().tolist() == ([real - 1] if ends else [])
        if real < 4:
            padded += 1
            torch.testing.assert_close(batch.frames[row, real:], frames[-1:].expand(4 - real, -1, -1, -1))
            assert batch.rewards[row, real:].abs().sum() == 0
    assert 0 < padded < 64


@pytest.mark.parametrize("length", [1, 4, 7, 20, 30])
def test_every_recorded_step_counts_equally(recorded, length):
    sampler = WindowSampler(FrameStore(recorded), batch_size=4000, sequence_length=length, seed=0)
    sampler.features = np.zeros((len(sampler.store.frames), 1), np.float16)  # saves reading frames
    total = dict.fromkeys((100 * e + i for e, n in enumerate(LENGTHS) for i in range(n)), 0.0)
    draws = 0
    for step in range(15):
        batch = sampler.batch(step)
        draws += 4000
        for reward, weight in zip(batch.rewards.flatten().tolist(), batch.weight.flatten().tolist(), strict=True):
            if weight:
                total[int(reward)] += weight
    values = np.array(list(total.values()))
    raw = sum(n + length - 1 for n in LENGTHS)
    expected = draws * length / raw  # by the formula: draws x coverage / raw starts x weight
    # Each step is a sum of bounded terms; 6 standard deviations of the rarest: a Poisson count of expected / weight.
    assert np.abs(values / expected - 1).max() < 6 / np.sqrt(draws / raw)
    assert values.std() / values.mean() < 2 / np.sqrt(draws / raw)


def test_coverage_is_exact():
    """Against a count over all raw starts."""
    from dreamenv.data.windows import _weights

    for steps in (1, 2, 5, 6, 7, 12, 30):
        for length in (1, 2, 5, 6, 13):
            raw = np.arange(-(length - 1), steps)
            begins = np.clip(raw, 0, max(steps - length, 0))
            weights = _weights(begins, np.full(len(raw), steps), length)
            counted = np.zeros(steps)
            for begin, row in zip(begins, weights, strict=True):
                for offset in range(length):
                    if begin + offset < steps:
                        counted[begin + offset] += row[offset]
                    else:
                        assert row[offset] == 0
            np.testing.assert_allclose(counted, length, rtol=1e-5)


def test_a_batch_is_a_pure_function_of_seed_and_step(recorded):
    store = FrameStore(recorded)

    def batch(seed, step):
        return WindowSampler(store, batch_size=3, sequence_length=4, seed=seed).batch(step)

    sampler = WindowSampler(store, batch_size=3, sequence_length=4, seed=5)
    for step in (7, 0, 3):
        one, other = sampler.batch(step), batch(5, step)
        for field in dataclasses.fields(one):
            if isinstance(getattr(one, field.name), torch.Tensor):
                assert torch.equal(getattr(one, field.name), getattr(other, field.name))
        assert torch.equal(torch.rand(3, generator=one.generator), torch.rand(3, generator=other.generator))
    assert not torch.equal(batch(5, 1).rewards, batch(5, 2).rewards)
    assert not torch.equal(batch(5, 1).rewards, batch(6, 1).rewards)
    draws = [torch.rand(1, generator=batch(5, step).generator).item() for step in range(5)]
    assert len(set(draws)) == 5


def test_features_stand_in_for_frames(recorded):
    store = FrameStore(recorded)
    plain = WindowSampler(store, batch_size=8, sequence_length=4, seed=0).batch(2)
    features = store.frames[:, 0, 0].astype(np.float16)
    batch = WindowSampler(store, batch_size=8, sequence_length=4, seed=0, features=features).batch(2)
    assert batch.features.shape == (8, 5, 3)
    assert batch.features.dtype == torch.float32
    frames = torch.cat((plain.first_frame[:, None], plain.frames), 1)[..., 0, 0]
    torch.testing.assert_close(batch.features / 255, frames)
    assert batch.frames.numel() == batch.first_frame.numel() == 0
    assert batch.frames.shape[:2] == (8, 4)
    whole = WindowSampler(store, batch_size=8, sequence_length=4, seed=0, features=features.astype(np.int32)).batch(2)
    assert whole.features.dtype == torch.int64
    with pytest.raises(DatasetError, match="features for"):
        WindowSampler(store, batch_size=8, sequence_length=4, seed=0, features=features[1:])


def test_box_actions_come_as_float(tmp_path):
    space = gym.spaces.Box(-1, 1, (2,), np.float32)
    dataset = EpisodeDataset.create(tmp_path / "d", Provenance(environment_id="x"), space, (4, 4, 1))
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 2)).astype(np.float32)
    frames = np.zeros((6, 4, 4, 1), np.uint8)
    dataset.append(Episode(frames=frames, actions=actions, rewards=[0] * 5, terminated=True, truncated=False))
    batch = WindowSampler(FrameStore(dataset), batch_size=2, sequence_length=5, seed=0).batch(0)
    np.testing.assert_array_equal(batch.actions[0], actions)


def test_evaluation_windows_fit_and_differ(recorded):
    store = FrameStore(recorded)
    rows = windows_for_evaluation(store, 4, 10, seed=0)
    assert len(set(rows.tolist())) == 10
    for row in rows:
        start = store.starts[store.starts <= row].max()
        length = store.lengths[store.starts == start][0]
        assert row + 4 <= start + length
    everything = windows_for_evaluation(store, 4, 1000, seed=0)
    assert len(everything) == sum(max(n - 3, 0) for n in LENGTHS)
    np.testing.assert_array_equal(rows, windows_for_evaluation(store, 4, 10, seed=0))
    batch = read_windows(store, rows, 4)
    assert batch.weight.min() == 1
    torch.testing.assert_close(
        batch.frames[3, 2], torch.from_numpy(store.frames[rows[3] + 3]).movedim(-1, 0).float() / 255
    )
    np.testing.assert_array_equal(batch.rewards[3], store.rewards[rows[3] + 1 : rows[3] + 5])


def test_too_long_a_horizon_is_refused(recorded):
    with pytest.raises(DatasetError, match=r"no episode .* has 21 steps; the longest of these has 20"):
        windows_for_evaluation(FrameStore(recorded), 21, 5, seed=0)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"sequence_length": 0}, {"seed": -1}])
def test_settings_that_cannot_work_are_refused(recorded, wrong):
    with pytest.raises(ConfigError, match="at least"):
        WindowSampler(FrameStore(recorded), **{"batch_size": 1, "sequence_length": 1, "seed": 0, **wrong})


def test_windows_cropped_at_episode_ends_say_nothing_by_their_length(tmp_path):
    """A termination is about as likely at every step of a window."""
    dataset = empty_dataset(tmp_path / "long")
    for number in range(3):
        dataset.append(random_episode(40, seed=number, terminated=True))
    store, length = FrameStore(dataset), 6
    sampler = WindowSampler(store, batch_size=64, sequence_length=length, seed=0, crop_at_episode_ends=True)
    ends, seen = np.zeros(length), np.zeros(length)
    for step in range(200):
        batch = sampler.batch(step)
        weight = batch.weight.numpy()
        assert set(np.unique(weight)) <= {0.0, 1.0}
        assert (np.diff(weight, axis=1) <= 0).all()  # what is real comes first
        assert not (batch.terminated.numpy() & (weight == 0)).any()
        ends += batch.terminated.numpy().sum(0)
        seen += weight.sum(0)
    rates = ends / seen
    assert rates.max() < 1.5 * rates.min()
    whole = WindowSampler(store, batch_size=64, sequence_length=length, seed=0)
    last = sum(whole.batch(step).terminated.numpy().sum(0) for step in range(20))
    assert last[:-1].sum() < last[-1]  # windows that are clamped into the episode do


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("length", [2, 40])
def test_a_share_of_windows_starts_shortly_before_a_reward(tmp_path, length, crop):
    dataset = empty_dataset(tmp_path / "d")
    for number in range(4):  # of 100 steps; those of odd numbers find something at step 50 + number
        rewards = np.full(100, -0.1)
        rewards[50 + number] += number % 2
        dataset.append(random_episode(100, seed=number, rewards=rewards, terminated=False))
    store = FrameStore(dataset)

    def rewarded(share):
        sampler = WindowSampler(
            store, batch_size=2000, sequence_length=length, seed=0, before_reward=share, crop_at_episode_ends=crop
        )
        return (sampler.batch(0).rewards > 0.5).any(dim=1).float().mean().item()

    usual, all_of_them = rewarded(0.0), rewarded(1.0)
    assert usual < 0.3
    # A window of 2 steps that starts up to 31 steps before a reward reaches it in 2 of 32 cases.
    assert all_of_them == pytest.approx(1.0 if length == 40 else 2 / 32, abs=0.02)
    assert rewarded(0.5) == pytest.approx((usual + all_of_them) / 2, abs=0.03)


def test_windows_of_a_view_start_before_its_own_rewards_only(recorded):
    train, held_out = recorded.split(0.4, 0)
    own = {float(reward) for episode in train for reward in episode.rewards}
    batch = WindowSampler(FrameStore(train), batch_size=200, sequence_length=3, seed=0, before_reward=1.0).batch(0)
    assert set(batch.rewards[batch.weight > 0].tolist()) <= own
    assert len(held_out) > 0


def test_windows_before_rewards_are_refused_of_a_recording_without_rewards(tmp_path):
    dataset = empty_dataset(tmp_path / "d")
    dataset.append(random_episode(9, seed=0, rewards=np.zeros(9), terminated=True))
    store = FrameStore(dataset)
    with pytest.raises(DatasetError, match=r"before_reward=0.5 has no effect: .*leave it at 0"):
        WindowSampler(store, batch_size=5, sequence_length=3, seed=1, before_reward=0.5)
    with pytest.raises(ConfigError, match="before_reward"):
        WindowSampler(store, batch_size=5, sequence_length=3, seed=1, before_reward=1.5)

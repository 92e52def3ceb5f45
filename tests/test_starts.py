"""Promises of the segments that dreams start from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from toy import empty_dataset, random_episode

from dreamenv.data.starts import Starts
from dreamenv.errors import ConfigError, DatasetError, FrameError, WorldDamagedError


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    dataset = empty_dataset(tmp_path_factory.mktemp("recorded") / "d")
    for number, length in enumerate((1, 2, 9, 30, 30, 30)):
        dataset.append(random_episode(length, seed=number, terminated=number != 4))
    return dataset


def where(dataset, frame):
    """The episode and step of a frame; frames of random_episode are all different."""
    for number, episode in enumerate(dataset):
        for step, other in enumerate(episode.frames):
            if np.array_equal(frame, other):
                return number, step
    raise AssertionError("not a recorded frame")


def test_segments_are_real_and_never_end_an_episode(recorded):
    starts = Starts.from_dataset(recorded, count=40, context=4, seed=0)
    assert len(starts) == 40
    assert starts.frames.shape == (40, 4, 16, 16, 3)
    for row in range(40):
        number, step = where(recorded, starts.first_frames[row])
        episode, length = recorded[number], starts.lengths[row]
        np.testing.assert_array_equal(starts.frames[row, :length], episode.frames[step + 1 : step + 1 + length])
        np.testing.assert_array_equal(starts.actions[row, :length], episode.actions[step : step + length])
        assert starts.at_episode_start[row] == (step == 0)
        if length < 4:
            assert step == 0  # only what had not lasted longer is shorter
            last = starts.frames[row, length - 1] if length else starts.first_frames[row]
            assert (starts.frames[row, length:] == last).all()
        assert step + length < len(episode) or not episode.terminated
    assert 6 <= starts.at_episode_start.sum() < 40


def test_the_seed_decides(recorded):
    one, other = (Starts.from_dataset(recorded, count=8, context=2, seed=1) for _ in range(2))
    np.testing.assert_array_equal(one.frames, other.frames)
    different = Starts.from_dataset(recorded, count=8, context=2, seed=2)
    assert not np.array_equal(one.frames, different.frames)


def test_episode_starts_only(recorded):
    starts = Starts.from_dataset(recorded, count=40, context=4, seed=0, episode_starts_only=True)
    assert len(starts) == 6  # no more than there are
    assert starts.at_episode_start.all()
    assert sorted(starts.lengths) == [0, 1, 4, 4, 4, 4]


def test_a_share_ends_shortly_before_a_reward(tmp_path):
    dataset = empty_dataset(tmp_path / "d")
    for seed, rewarded in enumerate(([20, 90], [], [5])):
        episode = random_episode(100, seed=seed)
        rewards = np.where(np.isin(np.arange(100), rewarded), 1.0, -0.1)
        dataset.append(dataclasses.replace(episode, rewards=rewards.astype(episode.rewards.dtype)))
    near = {}
    for share in (0.0, 0.5):
        starts = Starts.from_dataset(dataset, count=60, context=4, seed=0, before_reward=share, max_steps_to_reward=8)
        assert len(starts) == 60
        near[share] = 0
        for first, length in zip(starts.first_frames, starts.lengths, strict=True):
            number, step = where(dataset, first)
            near[share] += bool((dataset[number].rewards[step + length :][:8] > 0).any())
            assert length == min(4, step + length)
    # 8 steps lie before either of the first episode's rewards, 5 before the third's: 21 places of 300.
    assert near[0.5] >= 21 > 10 > near[0.0]


def test_starts_before_rewards_are_refused_of_a_recording_without_rewards(tmp_path):
    dataset = empty_dataset(tmp_path / "d")
    episode = random_episode(50, seed=0)
    dataset.append(dataclasses.replace(episode, rewards=np.zeros_like(episode.rewards)))
    with pytest.raises(DatasetError, match=r"before_reward=0.5 has no effect on .*leave it at 0"):
        Starts.from_dataset(dataset, count=20, context=2, seed=0, before_reward=0.5)


def test_without_context_there_is_only_a_first_frame(recorded):
    starts = Starts.from_dataset(recorded, count=10, context=0, seed=0)
    assert starts.frames.shape[:2] == (10, 0)
    assert (starts.lengths == 0).all()


def test_one_start_of_the_shortest_episode(tmp_path):
    dataset = empty_dataset(tmp_path / "d")
    dataset.append(random_episode(1, terminated=True))
    starts = Starts.from_dataset(dataset, count=5, context=3, seed=0)
    assert (len(starts), starts.lengths.tolist()) == (1, [0])


def test_starts_survive_the_disk_exactly_and_can_be_chosen(recorded, tmp_path):
    starts = Starts.from_dataset(recorded, count=12, context=3, seed=0)
    starts.save(tmp_path / "world" / "starts")
    again = Starts.load(tmp_path / "world" / "starts")
    for name in ("first_frames", "actions", "frames", "lengths", "at_episode_start"):
        np.testing.assert_array_equal(getattr(again, name), getattr(starts, name))
        assert getattr(again, name).dtype == getattr(starts, name).dtype
    chosen = again[again.at_episode_start]
    assert chosen.at_episode_start.all()
    assert 0 < len(chosen) < 12
    assert len(again[2:5]) == 3
    with pytest.raises(TypeError, match="slice or an array"):
        again[0]


@pytest.mark.parametrize("file", ["frames.npy.zst", "segments.npz"])
def test_damaged_starts_are_named(recorded, tmp_path, file):
    Starts.from_dataset(recorded, count=5, context=2, seed=0).save(tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WorldDamagedError, match=str(tmp_path)):
        Starts.load(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(WorldDamagedError, match=file):
        Starts.load(tmp_path)


def test_bad_input_is_named(recorded, tmp_path):
    with pytest.raises(DatasetError, match="no episodes"):
        Starts.from_dataset(empty_dataset(tmp_path / "d"), count=1, context=1, seed=0)
    with pytest.raises(ConfigError, match="count"):
        Starts.from_dataset(recorded, count=0, context=1, seed=0)
    with pytest.raises(ConfigError, match=r"before_reward must be .*at most 0.75, not 0.9"):
        Starts.from_dataset(recorded, count=4, context=1, seed=0, before_reward=0.9)
    with pytest.raises(ConfigError, match=r"max_steps_to_reward must be a whole number, at least 1, not 0"):
        Starts.from_dataset(recorded, count=4, context=1, seed=0, before_reward=0.5, max_steps_to_reward=0)
    good = Starts.from_dataset(recorded, count=4, context=2, seed=0)
    with pytest.raises(FrameError, match="lengths"):
        Starts(**{**vars(good), "lengths": good.lengths + 3})
    with pytest.raises(FrameError, match="actions"):
        Starts(**{**vars(good), "actions": good.actions[:, :1]})

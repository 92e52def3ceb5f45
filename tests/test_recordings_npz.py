"""Npz files become episodes, for either action timing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest

from dreamenv.cli import main
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.readers import NpzKeys, NpzSettings, convert, open_npz
from dreamenv.errors import ConfigError, DatasetError, RecordingError

ROWS = 6


def write(file: Path, **changes: Any) -> Path:
    """Frame i is i bright; row i has the action i / 10 and the reward i."""
    arrays = {
        "image": np.broadcast_to(np.arange(ROWS, dtype=np.uint8)[:, None, None, None], (ROWS, 8, 8, 3)),
        "action": np.stack([np.arange(ROWS) / 10, -np.arange(ROWS)], axis=1).astype(np.float32),
        "reward": np.arange(ROWS, dtype=np.float32),
        **changes,
    }
    np.savez_compressed(file, **{key: value for key, value in arrays.items() if value is not None})
    return file


def read(tmp_path: Path, file: Path, **settings: Any) -> EpisodeDataset:
    return convert(open_npz([file], NpzSettings(**settings)), tmp_path / "data", progress=False).dataset


def shown(episode: Any) -> list[int]:
    return episode.frames[:, 0, 0, 0].tolist()


def test_an_action_before_its_frame_led_to_its_rows_frame(tmp_path):
    [episode] = read(tmp_path, write(tmp_path / "a.npz"))
    assert shown(episode) == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(episode.actions[:, 0], [0.1, 0.2, 0.3, 0.4, 0.5])
    assert episode.rewards.tolist() == [1, 2, 3, 4, 5]
    assert (episode.policy, episode.seed, episode.truncated) == ("a", 0, True)


def test_an_action_after_its_frame_led_to_the_next_rows_frame(tmp_path):
    [episode] = read(tmp_path, write(tmp_path / "a.npz"), actions_are="taken")
    assert shown(episode) == [0, 1, 2, 3, 4, 5, 5]  # no row shows the frame after the last, rewarded action
    np.testing.assert_allclose(episode.actions[:, 0], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert episode.rewards.tolist() == [0, 1, 2, 3, 4, 5]
    assert not episode.terminated


def test_a_last_action_whose_frame_is_missing_is_kept_only_if_it_was_rewarded_or_ended_the_task(tmp_path):
    last = np.arange(ROWS) == ROWS - 1
    zero = np.zeros(ROWS)
    for name, changes, steps, ended in (
        ("ended", {"reward": zero, "is_terminal": last}, 6, True),
        ("rewarded", {"reward": last.astype(float)}, 6, False),
        ("neither", {"reward": zero}, 5, False),
        ("unknown", {"reward": None}, 5, False),
        ("discount", {"reward": None, "discount": 1.0 - last}, 6, True),
    ):
        file = write(tmp_path / f"{name}.npz", **changes)
        [episode] = convert(open_npz([file], NpzSettings(actions_are="taken")), tmp_path / name, progress=False).dataset
        assert (len(episode), episode.terminated, episode.truncated) == (steps, ended, not ended), name
        assert shown(episode) == ([0, 1, 2, 3, 4, 5, 5] if steps == 6 else [0, 1, 2, 3, 4, 5])


def test_no_episode_of_a_file_loses_its_ending_or_takes_a_frame_of_the_next(tmp_path):
    """Three episodes in one file, cut into pieces of two steps; each ends with a reward of 1 in its last row."""
    first, last = np.array([1, 0, 0, 1, 0, 1], bool), np.array([0, 0, 1, 0, 1, 1], bool)
    file = write(tmp_path / "a.npz", is_first=first, is_terminal=last, reward=last.astype(float))
    dataset = read(tmp_path, file, actions_are="taken", max_steps=2)
    assert [shown(episode) for episode in dataset] == [[0, 1, 2], [2, 2], [3, 4, 4], [5, 5]]
    assert [episode.rewards.tolist() for episode in dataset] == [[0, 0], [1], [0, 1], [1]]
    assert [episode.terminated for episode in dataset] == [False, True, True, True]
    again = read(tmp_path, file, actions_are="taken", max_steps=2)
    assert len(again) == 4


@pytest.mark.parametrize("timing", ["arrived", "taken"])
def test_with_one_frame_more_than_actions_nothing_is_ambiguous(tmp_path, timing):
    file = write(tmp_path / "a.npz", action=np.arange(5) % 4, reward=np.arange(5.0), is_terminal=np.arange(6) == 5)
    dataset = read(tmp_path, file, actions_are=timing)
    assert dataset.action_space == gym.spaces.Discrete(4)
    [episode] = dataset
    assert episode.actions.tolist() == [0, 1, 2, 3, 0]
    assert episode.rewards.tolist() == [0, 1, 2, 3, 4]
    assert episode.terminated


def test_stacked_pictures_give_the_newest_and_channels_may_come_first(tmp_path):
    stacked = np.zeros((ROWS, 9, 8, 8), np.uint8)
    stacked[:, 6:] = 10 * np.arange(ROWS, dtype=np.uint8)[:, None, None, None]
    stacked[:, 8] += 1
    [episode] = read(tmp_path, write(tmp_path / "a.npz", image=stacked), stack=3)
    assert shown(episode) == [0, 10, 20, 30, 40, 50]
    assert episode.frames[2, 3, 3].tolist() == [20, 20, 21]
    grey = np.zeros((ROWS, 8, 8, 4), np.uint8)
    grey[..., 3] = 7
    [episode] = convert(
        open_npz([write(tmp_path / "b.npz", image=grey)], NpzSettings(size=4, stack=4)), tmp_path / "b"
    ).dataset
    assert episode.frames.shape == (6, 4, 4, 1)
    assert episode.frames.min() == 7


def test_alpha_is_dropped_and_colour_kept(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8, 4), dtype=np.uint8)
    with pytest.raises(RecordingError, match=r"stack=1 for RGBA.* stack=4 for four grey"):
        open_npz([write(tmp_path / "unclear.npz", image=rgba)])
    [episode] = convert(open_npz([tmp_path / "unclear.npz"], NpzSettings(stack=1)), tmp_path / "told").dataset
    np.testing.assert_array_equal(episode.frames, rgba[..., :3])
    rgba[..., 3] = 255
    for name, image in (("last", rgba), ("first", rgba.transpose(0, 3, 1, 2))):
        [episode] = convert(open_npz([write(tmp_path / f"{name}.npz", image=image)]), tmp_path / name).dataset
        np.testing.assert_array_equal(episode.frames, rgba[..., :3])
    two = np.concatenate((rgba[..., ::-1], rgba), axis=-1)
    [episode] = convert(
        open_npz([write(tmp_path / "two.npz", image=two)], NpzSettings(stack=2)), tmp_path / "2"
    ).dataset
    np.testing.assert_array_equal(episode.frames, rgba[..., :3])


@pytest.mark.parametrize("channels", [2, 5, 6, 9, 12])
def test_frames_of_any_other_number_of_channels_are_refused(tmp_path, channels):
    file = write(tmp_path / "a.npz", image=np.zeros((ROWS, 16, 16, channels), np.uint8))
    with pytest.raises(RecordingError, match=f"has {channels} channels.*stack"):
        open_npz([file])


DISCRETE = {"action": np.arange(ROWS) % 3}
REAL = {"action": np.linspace(-1, 1, ROWS * 2).reshape(ROWS, 2)}


@pytest.mark.parametrize(
    ("changes", "before", "after"),
    [
        (DISCRETE, {"actions_are": "arrived"}, {"actions_are": "taken"}),
        (DISCRETE, {"max_steps": 1000}, {"max_steps": 3}),
        (DISCRETE, {"size": None}, {"size": 8}),
        (DISCRETE, {"size": 8}, {"size": 4}),
        (DISCRETE, {"frame_rate": 10.0}, {"frame_rate": 20.0}),
        (DISCRETE, {"environment": "One-v0"}, {"environment": "Two-v0"}),
        (DISCRETE, {"stack": None}, {"stack": 1}),
        (DISCRETE, {"keys": NpzKeys()}, {"keys": NpzKeys(reward="prize")}),
        (REAL, {"low": -1.0, "high": 1.0}, {"low": -2.0, "high": 1.0}),
        (REAL, {"low": -1.0, "high": 1.0}, {"low": -1.0, "high": 2.0}),
        ({"action": np.eye(4)[np.arange(ROWS) % 4]}, {"one_hot": False}, {"one_hot": True}),
    ],
)
def test_a_recording_holds_episodes_that_were_read_in_one_way(tmp_path, changes, before, after):
    files = [write(tmp_path / f"{name}.npz", prize=np.ones(ROWS), **changes) for name in "ab"]
    convert(open_npz(files[:1], NpzSettings(**before)), tmp_path / "data", progress=False)
    with pytest.raises(DatasetError, match=" against ") as error:
        convert(open_npz(files, NpzSettings(**after)), tmp_path / "data", progress=False)
    [name] = set(after) - {name for name in after if before.get(name) == after[name]}
    if name != "keys":
        assert f"{after[name]} against {before[name]}" in str(error.value)
    assert len(convert(open_npz(files, NpzSettings(**before)), tmp_path / "data", progress=False).dataset) == 2


def test_rewards_or_endings_that_only_some_files_tell_do_not_mix(tmp_path):
    full, bare = write(tmp_path / "a.npz", is_terminal=np.zeros(ROWS)), write(tmp_path / "b.npz", reward=None)
    with pytest.raises(RecordingError, match=r"\['reward', 'terminal'\] beside frames and actions, .*b\.npz \[\]"):
        open_npz([full, bare])
    convert(open_npz([full]), tmp_path / "data", progress=False)
    with pytest.raises(DatasetError, match=r"arrays: \[\] against \['reward', 'terminal'\]"):
        convert(open_npz([bare]), tmp_path / "data", progress=False)


def test_another_file_of_a_name_that_was_converted_is_not_taken_for_the_same(tmp_path):
    read(tmp_path, write(tmp_path / "a.npz"))
    longer = {"image": np.zeros((9, 8, 8, 3), np.uint8), "action": np.tile([[0.1, -5], [0.5, -1]], (5, 1))[:9]}
    write(tmp_path / "a.npz", reward=np.zeros(9), **longer)
    with pytest.raises(RecordingError, match=r"a\.npz gives 8 steps from frame 0 on, but .* has 5"):
        read(tmp_path, tmp_path / "a.npz", low=None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_file_with_a_reward_that_is_no_number_is_named_and_can_be_skipped(tmp_path, value):
    rewards = np.where(np.arange(ROWS) == 3, value, 1.0)
    files = [write(tmp_path / "e0.npz"), write(tmp_path / "e1.npz", reward=rewards), write(tmp_path / "e2.npz")]
    with pytest.raises(RecordingError, match=r"e1\.npz .*reward of step 2"):
        convert(open_npz(files), tmp_path / "stopped", progress=False)
    done = convert(open_npz(files, skip_damaged=True), tmp_path / "data", progress=False)
    assert [record.policy for record in done.dataset.records] == ["e0", "e2"]
    assert ["e1.npz" in str(error) for error in done.damaged] == [True]
    unused = np.where(np.arange(ROWS) == 0, value, 1.0)  # no action led to the first row
    assert len(read(tmp_path / "unused", write(tmp_path / "e3.npz", reward=unused))) == 1


def test_a_file_of_many_episodes_is_cut_where_they_begin(tmp_path):
    first = np.array([1, 0, 0, 1, 0, 0], bool)
    terminal = np.array([0, 0, 1, 0, 0, 0], bool)
    dataset = read(tmp_path, write(tmp_path / "a.npz", is_first=first, is_terminal=terminal))
    assert [shown(episode) for episode in dataset] == [[0, 1, 2], [3, 4, 5]]
    assert [episode.rewards.tolist() for episode in dataset] == [[1, 2], [4, 5]]
    assert [episode.terminated for episode in dataset] == [True, False]
    with pytest.raises(RecordingError, match=r"terminates at step 1 and continues to step 4.*keys\.first"):
        read(tmp_path, write(tmp_path / "b.npz", is_terminal=terminal))


def test_a_discount_of_zero_ends_the_task_and_long_episodes_are_cut(tmp_path):
    discount = np.array([1, 1, 1, 1, 1, 0], np.float32)[:, None]
    one, two = read(tmp_path, write(tmp_path / "a.npz", discount=discount), max_steps=3)
    assert (shown(one), shown(two)) == ([0, 1, 2, 3], [3, 4, 5])
    assert (one.terminated, two.terminated) == (False, True)


def test_real_actions_lie_between_their_extremes_or_the_bounds_given(tmp_path):
    files = [write(tmp_path / "a.npz"), write(tmp_path / "b.npz", action=np.full((ROWS, 2), 2.0))]
    space = open_npz(files).action_space
    np.testing.assert_allclose(space.low, [0.1, -5])  # the first row's action led nowhere
    np.testing.assert_allclose(space.high, [2, 2])
    dataset = read(tmp_path, files[0], low=-1.0, high=1.0)
    assert dataset.action_space == gym.spaces.Box(-1, 1, (2,), np.float32)
    np.testing.assert_allclose(dataset[0].actions[-1], [0.5, -1])
    constant = open_npz(files[1:]).action_space
    assert (constant.low < constant.high).all()


def test_whole_actions_become_discrete_or_multidiscrete(tmp_path):
    several = np.stack([np.arange(ROWS) % 3, np.arange(ROWS) % 2], axis=1)
    assert open_npz([write(tmp_path / "a.npz", action=several)]).action_space == gym.spaces.MultiDiscrete([3, 2])
    column = np.arange(ROWS)[:, None] % 3
    dataset = read(tmp_path, write(tmp_path / "b.npz", action=column))
    assert dataset.action_space == gym.spaces.Discrete(3)
    assert dataset[0].actions.tolist() == [1, 2, 0, 1, 2]
    one_hot = np.eye(4, dtype=np.float32)[np.arange(ROWS) % 4]
    chosen = convert(open_npz([write(tmp_path / "c.npz", action=one_hot)], NpzSettings(one_hot=True)), tmp_path / "c")
    assert chosen.dataset.action_space == gym.spaces.Discrete(4)
    assert chosen.dataset[0].actions.tolist() == [1, 2, 3, 0, 1]


def test_minari_loads_a_converted_recording(tmp_path):
    dataset = read(tmp_path, write(tmp_path / "a.npz"))
    [theirs] = minari.MinariDataset(tmp_path / "data" / "data")
    np.testing.assert_array_equal(theirs.actions, dataset[0].actions)
    np.testing.assert_array_equal(theirs.observations, dataset[0].frames)
    np.testing.assert_array_equal(theirs.rewards, dataset[0].rewards)


def test_keys_can_be_mapped_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.npz", image=None, agentview=np.zeros((ROWS, 8, 8, 3), np.uint8))
    arguments = ["convert", "npz", "a.npz", "--out", "data"]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "a.npz has none of 'image', 'observation'" in message
    assert "it has 'action', 'agentview', 'reward'" in message
    assert not Path("data").exists()
    assert main([*arguments, "--keys.frames", "agentview", "--environment", "Robot-v1"]) == 0
    assert "1 episodes, 5 steps\nWrote data" in capsys.readouterr().out
    assert EpisodeDataset.open("data").provenance.environment_id == "Robot-v1"


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"action": None}, {}, r"none of 'action', 'actions'.*keys\.action"),
        ({}, {"keys": NpzKeys(reward="prize")}, "no array 'prize'; it has 'action', 'image', 'reward'"),
        ({"action": np.zeros((4, 2))}, {}, "6 frames and 4 actions"),
        ({"action": np.full((ROWS, 2), np.nan)}, {}, "must be finite"),
        ({"action": np.full(ROWS, -1)}, {}, "go down to -1"),
        ({"action": np.array([None] * ROWS)}, {}, "Object arrays cannot be loaded"),
        ({"image": np.zeros((ROWS, 8, 8, 3))}, {}, "is float64; frames must be uint8"),
        ({"image": np.zeros((ROWS, 64), np.uint8)}, {}, r"is \(6, 64\); frames must be"),
        ({"image": np.zeros((1, 8, 8, 3), np.uint8), "action": np.zeros((1, 2))}, {}, "too few for a step"),
        ({"reward": np.zeros(3)}, {}, "'reward' in .* has 3 rows for 6 frames"),
        ({"action": np.float64(1)}, {}, "6 frames and 0 actions"),
        ({"action": np.array(["left"] * ROWS)}, {}, "must be numbers"),
        ({"action": np.zeros((ROWS, 0))}, {}, "must be numbers"),
        ({"action": np.full(ROWS, 1e39)}, {}, "float32"),
        ({"action": np.full(ROWS, 2**63, np.uint64)}, {}, "int32"),
        ({"reward": np.zeros((ROWS, 2))}, {}, "must hold a number per row"),
        ({"reward": np.array(["a"] * ROWS)}, {}, "must hold a number per row"),
        ({"is_terminal": np.full(ROWS, np.nan)}, {}, "is_terminal' in .* holds nan; it must be 0 or 1"),
        ({"is_first": np.full(ROWS, 2)}, {}, "is_first' in .* holds 2; it must be 0 or 1"),
        ({"discount": np.full(ROWS, np.nan)}, {}, r"'discount' in .* leaves \[0, 1\]"),
        ({"action": np.full((ROWS, 3), 0.5)}, {"one_hot": True}, "not one-hot"),
        ({"action": np.zeros((ROWS, 3))}, {"one_hot": True}, "not one-hot"),
        ({"image": np.zeros((0, 8, 8, 3), np.uint8), "action": np.zeros((0, 2))}, {}, "too few for a step"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, changes, settings, message):
    with pytest.raises(RecordingError, match=message):
        read(tmp_path, write(tmp_path / "a.npz", **changes), **settings)


def test_files_that_do_not_go_together_are_refused(tmp_path):
    one = write(tmp_path / "a.npz")
    with pytest.raises(RecordingError, match=r"a\.npz has frames of \(8, 8, 3\), .*b\.npz of \(4, 4, 3\)"):
        open_npz([one, write(tmp_path / "b.npz", image=np.zeros((ROWS, 4, 4, 3), np.uint8))])
    with pytest.raises(RecordingError, match="of one kind in all files"):
        open_npz([one, write(tmp_path / "c.npz", action=np.zeros((ROWS, 3)))])
    with pytest.raises(ConfigError, match="both low and high"):
        NpzSettings(low=1.0)
    half = tmp_path / "half.npz"
    half.write_bytes(one.read_bytes()[: one.stat().st_size // 2])
    with pytest.raises(RecordingError, match=r"half\.npz cannot be read .*cut short"):
        open_npz([half])
    with pytest.raises(RecordingError, match=r"there is no .*none\.npz"):
        open_npz([tmp_path / "none.npz"])


def test_a_damaged_file_can_be_skipped_and_is_named_at_the_end(tmp_path):
    half, good = tmp_path / "half.npz", write(tmp_path / "a.npz")
    half.write_bytes(good.read_bytes()[:300])
    done = convert(open_npz([half, good], skip_damaged=True), tmp_path / "data", progress=False)
    assert [record.policy for record in done.dataset.records] == ["a"]
    assert len(done.damaged) == 1
    assert "half.npz cannot be read" in str(done.damaged[0])
    with pytest.raises(RecordingError, match=r"half\.npz cannot be read"):
        open_npz([half], skip_damaged=True)


@pytest.mark.parametrize(
    ("timing", "expected"),
    [
        # Row 1 timed out, row 3 terminated: frames, steps' actions and endings of each episode.
        ("taken", [([0, 1, 1], [0.0, 0.1], False), ([2, 3, 3], [0.2, 0.3], True), ([4, 5, 5], [0.4, 0.5], False)]),
        ("arrived", [([0, 1], [0.1], False), ([2, 3], [0.3], True), ([4, 5], [0.5], False)]),
    ],
)
def test_a_time_limit_truncates_and_the_next_row_begins_another_episode(tmp_path, timing, expected):
    """D4RL has "terminals" and "timeouts", and no array of first rows."""
    rows = np.arange(ROWS)
    file = write(tmp_path / "a.npz", terminals=rows == 3, timeouts=rows == 1)
    dataset = read(tmp_path, file, actions_are=timing)
    found = [(shown(e), [round(float(a), 1) for a in e.actions[:, 0]], e.terminated) for e in dataset]
    assert found == expected
    assert [e.truncated for e in dataset] == [not ended for _, _, ended in expected]
    assert all(record.at_episode_start for record in dataset.records)


def test_a_step_that_timed_out_and_terminated_has_terminated(tmp_path):
    ends = np.arange(ROWS) == ROWS - 1
    [episode] = read(tmp_path, write(tmp_path / "a.npz", terminals=ends, timeouts=ends))
    assert (episode.terminated, episode.truncated) == (True, False)

"""MineRL's recordings become episodes with a dictionary of actions; states, actions and rewards stay together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from vpt_files import numbers, write_video

from dreamenv.cli import main
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.readers import MineRLSettings, convert, open_minerl
from dreamenv.dream import DreamEnv
from dreamenv.errors import ConfigError, DatasetError, RecordingError
from dreamenv.presets import make_config
from dreamenv.training import TrainConfig, train

SMALL = MineRLSettings(size=8, max_steps=6)


def write(folder: Path, steps: int = 10, *, before: int = 3, frames: int | None = None, **changes: Any) -> Path:
    """A recording whose video shows ``before`` frames more than there are states; the reward of step i is i."""
    folder.mkdir(parents=True)
    count = before + steps + 1
    write_video(folder / "recording.mp4", count if frames is None else frames)
    place = np.array(["none", "dirt", "none", "cobblestone", *["none"] * steps][:steps])
    arrays = {
        "reward": np.arange(steps, dtype=np.float32),
        "action$attack": np.arange(steps) % 2,
        "action$camera": np.stack([np.arange(steps), -np.arange(steps)], axis=1).astype(np.float32) / 2,
        "action$place": place,
        "observation$inventory$dirt": np.zeros(steps + 1, np.int64),
        **changes,
    }
    np.savez(folder / "rendered.npz", **{key: value for key, value in arrays.items() if value is not None})
    facts = {"success": True, "true_video_frame_count": count, "duration_steps": steps}
    (folder / "metadata.json").write_text(json.dumps(facts))
    return folder


def test_states_are_the_videos_last_frames_and_the_last_one_repeats(tmp_path):
    dataset = convert(open_minerl([write(tmp_path / "a")], SMALL), tmp_path / "data", progress=False).dataset
    one, two = dataset
    assert numbers(one.frames).tolist() == [3, 4, 5, 6, 7, 8, 9]  # the first three are no states
    assert numbers(two.frames).tolist() == [9, 0, 1, 2, 2]
    assert one.rewards.tolist() == [0, 1, 2, 3, 4, 5]
    assert two.rewards.tolist() == [6, 7, 8, 9]
    assert (one.terminated, one.truncated, one.success) == (False, True, None)
    assert (two.terminated, two.truncated, two.success) == (True, False, True)
    assert [dataset.action_layout.unpack(action)["attack"] for action in one.actions] == [0, 1, 0, 1, 0, 1]


def test_actions_are_a_dictionary(tmp_path):
    dataset = convert(open_minerl([write(tmp_path / "a")], SMALL), tmp_path / "data", progress=False).dataset
    assert dataset.action_space == gym.spaces.Dict(
        {
            "attack": gym.spaces.Discrete(2),
            "camera": gym.spaces.Box(-180, 180, (2,), np.float32),
            "place": gym.spaces.Discrete(3),
        }
    )
    action = dataset.action_layout.unpack(dataset[0].actions[3])
    assert action["attack"] == 1
    assert action["camera"].tolist() == [1.5, -1.5]
    assert action["place"] == 1  # none, cobblestone, dirt
    assert dataset.provenance.environment_kwargs["enum_values"] == {"place": ["none", "cobblestone", "dirt"]}


def test_minari_loads_a_converted_recording(tmp_path):
    dataset = convert(open_minerl([write(tmp_path / "a")], SMALL), tmp_path / "data", progress=False).dataset
    theirs = minari.MinariDataset(tmp_path / "data" / "data")
    assert theirs.total_steps == dataset.total_steps == 10
    for episode, their in zip(dataset, theirs, strict=True):
        np.testing.assert_array_equal(their.observations, episode.frames)
        np.testing.assert_array_equal(their.rewards, episode.rewards)
        steps = len(episode)
        actions = their.actions
        packed = dataset.action_layout.pack_rows(actions) if isinstance(actions, dict) else actions
        np.testing.assert_array_equal(packed, episode.actions)
        assert len(packed) == steps


def test_all_recordings_of_a_conversion_share_one_space(tmp_path):
    folders = [
        write(tmp_path / "a"),
        write(tmp_path / "b", **{"action$place": np.array(["none", "torch"] * 5), "action$attack": np.arange(10) % 3}),
    ]
    sources = open_minerl(folders, SMALL)
    assert sources.action_space["place"] == gym.spaces.Discrete(4)
    assert sources.action_space["attack"] == gym.spaces.Discrete(3)
    assert len(convert(sources, tmp_path / "data", progress=False).dataset) == 4


def test_enum_values_can_be_given_so_that_later_recordings_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a")
    values = ["--enum-values", "place=none,dirt,cobblestone,torch"]
    assert main(["convert", "minerl", "a", "--out", "data", "--size", "8", *values]) == 0
    write(tmp_path / "b", **{"action$place": np.array(["torch"] * 10)})
    assert main(["convert", "minerl", "b/rendered.npz", "--out", "data", "--size", "8", *values]) == 0
    dataset = EpisodeDataset.open("data")
    assert [record.policy for record in dataset.records] == ["a", "b"]
    assert dataset.action_layout.unpack(dataset[1].actions[0])["place"] == 3
    with pytest.raises(ConfigError, match=r"the values of 'place' lack cobblestone, dirt"):
        open_minerl(["a"], MineRLSettings(enum_values=("place=none,torch",)))
    with pytest.raises(ConfigError, match="'place=none,dirt,stone', not 'place'"):
        MineRLSettings(enum_values=("place",))


def test_a_task_that_was_not_solved_ran_out_of_time(tmp_path):
    folder = write(tmp_path / "a", 4)
    (folder / "metadata.json").write_text(json.dumps({"success": False}))  # and the video's own count is taken
    [episode] = convert(open_minerl([folder], SMALL), tmp_path / "data", progress=False).dataset
    assert (episode.terminated, episode.truncated, episode.success) == (False, True, False)
    assert numbers(episode.frames).tolist() == [3, 4, 5, 6, 6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": None}, r"has no array 'reward'; it has 'action\$attack'"),
        ({"action$attack": np.zeros(7, np.int64)}, r"7 values of 'action\$attack' for 10 rewards"),
        ({"action$attack": np.array([None] * 10)}, r"'action\$attack' in .* cannot be read \(Object arrays"),
        ({"action$attack": np.full(10, -1)}, "which no MineRL recording has"),
        ({"before": -4}, "has 7 frames for 10 steps, which need 11"),
        ({"frames": 9}, "holds 9 of the 14 frames"),
    ],
)
def test_a_recording_that_does_not_fit_is_named(tmp_path, changes, message):
    folder = write(tmp_path / "a", **changes)
    with pytest.raises(RecordingError, match=message):
        convert(open_minerl([folder], SMALL), tmp_path / "data", progress=False)
    assert not (tmp_path / "data").exists()


def test_a_file_that_is_cut_or_missing_is_named(tmp_path):
    folder = write(tmp_path / "a")
    with pytest.raises(RecordingError, match="different tasks into different datasets"):
        open_minerl([folder, write(tmp_path / "b", **{"action$jump": np.zeros(10, np.int64)})], SMALL)
    npz = folder / "rendered.npz"
    npz.write_bytes(npz.read_bytes()[:-200])
    with pytest.raises(RecordingError, match=r"rendered\.npz cannot be read .*cut short"):
        open_minerl([folder], SMALL)
    npz.unlink()
    with pytest.raises(RecordingError, match=r"there is no .*rendered\.npz, which a MineRL recording"):
        open_minerl([folder], SMALL)
    (tmp_path / "b" / "metadata.json").write_text("{")
    with pytest.raises(RecordingError, match=r"metadata\.json is damaged"):
        open_minerl([tmp_path / "b"], SMALL).sources[0].segments()


def test_a_damaged_recording_can_be_skipped_and_is_named_at_the_end(tmp_path):
    folders = [write(tmp_path / "short", frames=9), write(tmp_path / "half"), write(tmp_path / "good")]
    npz = folders[1] / "rendered.npz"
    npz.write_bytes(npz.read_bytes()[:300])
    done = convert(open_minerl(folders, SMALL, skip_damaged=True), tmp_path / "data", progress=False)
    assert {record.policy for record in done.dataset.records} == {"good"}
    half, short = map(str, done.damaged)  # what cannot be opened is reported first
    assert "half/rendered.npz cannot be read" in half
    assert "short/recording.mp4 holds 9 of the 14 frames" in short


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": np.where(np.arange(10) == 7, np.nan, 0.0)}, r"bad.*reward of step 7 is nan"),
        ({"reward": np.array(["much"] * 10)}, "bad.*rewards must be"),
        ({"action$camera": np.full((10, 2), np.inf)}, r"camera' in .*bad.* NaN or infinite"),
        ({"action$camera": np.zeros((10, 3))}, "camera' as real numbers .3,., and those before as real numbers .2,."),
        ({"action$attack": np.array(["none"] * 10)}, "attack' as words, and those before as whole numbers"),
    ],
)
def test_a_recording_with_values_that_cannot_be_is_named_and_can_be_skipped(tmp_path, changes, message):
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad", **changes)
    with pytest.raises(RecordingError, match=message):
        convert(open_minerl([good, bad], SMALL), tmp_path / "stopped", progress=False)
    done = convert(open_minerl([good, bad], SMALL, skip_damaged=True), tmp_path / "data", progress=False)
    assert {record.policy for record in done.dataset.records} == {"good"}
    assert len(done.damaged) == 1


@pytest.mark.parametrize("facts", [{"success": "no"}, {"true_video_frame_count": "many"}])
def test_facts_that_cannot_be_are_refused(tmp_path, facts):
    folder = write(tmp_path / "a")
    (folder / "metadata.json").write_text(json.dumps(facts))
    with pytest.raises(RecordingError, match=rf"{next(iter(facts))}.*metadata\.json"):
        convert(open_minerl([folder], SMALL), tmp_path / "data", progress=False)


def test_recordings_read_in_another_way_are_refused(tmp_path):
    folder = write(tmp_path / "a")
    convert(open_minerl([folder], SMALL), tmp_path / "data", progress=False)
    for name, value in (("max_steps", 5), ("size", 16), ("environment", "MineRLTreechop-v0")):
        other = dataclasses.replace(SMALL, **{name: value})
        with pytest.raises(DatasetError, match=f": {value} against {getattr(SMALL, name)}"):
            convert(open_minerl([folder], other), tmp_path / "data", progress=False)


@pytest.mark.filterwarnings("ignore:.*we recommend using a symmetric and normalized space")  # MineRL's is in degrees
def test_a_world_learns_from_a_converted_recording_and_dreams(tmp_path):
    dataset = convert(
        open_minerl([write(tmp_path / "a", 30)], MineRLSettings(size=16)), tmp_path / "data", progress=False
    ).dataset
    config = TrainConfig(
        steps={"joint": 2, "dynamics": 2}, starts=4, start_context=3, eval_windows=2, eval_horizon=3, holdout=0.0,
        progress=False,
    )  # fmt: skip
    world = train(config, make_config("rssm", "tiny"), dataset, tmp_path / "run")
    assert world.spec.action_space == dataset.action_space
    env = DreamEnv(world, horizon=5)
    check_env(env, skip_render_check=True)
    frame, _ = env.reset(seed=0)
    assert frame.shape == (16, 16, 3)
    env.step({"attack": 1, "camera": np.array([15.0, -15.0], np.float32), "place": 2})

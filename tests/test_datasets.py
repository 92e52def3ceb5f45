"""Promises of datasets on disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest
from minari.data_collector.episode_buffer import EpisodeBuffer
from toy import ToyEnv, empty_dataset, play, random_episode, toy_dataset

from dreamenv import storage
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.episode import Episode
from dreamenv.data.minari_import import from_minari
from dreamenv.data.provenance import Provenance
from dreamenv.data.store import FrameStore
from dreamenv.errors import ActionError, ConfigError, DatasetError, EpisodeError, StorageError


def same(one: Episode, other: Episode) -> bool:
    facts = ("policy", "seed", "score", "success")
    return one.digest() == other.digest() and all(getattr(one, name) == getattr(other, name) for name in facts)


def listing(path: Path) -> set[str]:
    return {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}


def test_episodes_come_back_exactly(tmp_path):
    dataset = toy_dataset(tmp_path / "toy", 3)
    again = EpisodeDataset.open(tmp_path / "toy")
    assert len(again) == 3
    assert again.total_steps == sum(len(play(seed)) for seed in range(3)) == again.lengths.sum()
    assert all(same(episode, play(seed)) for seed, episode in enumerate(again))
    assert same(again[-1], play(2))
    assert again.provenance == ToyEnv().provenance
    assert again.action_space == gym.spaces.Discrete(3)
    assert again.frame_shape == (16, 16, 3)
    assert again.content_hash() == dataset.content_hash()
    assert again.records[1].score == play(1).score
    with pytest.raises(IndexError):
        again[3]


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (gym.spaces.Box(-1, 1, (2,), np.float32), np.array([[0.5, -1], [1, 0]], np.float32)),
        (gym.spaces.MultiDiscrete([3, 4]), np.array([[2, 3], [0, 1]])),
        (gym.spaces.MultiBinary(2), np.array([[1, 0], [0, 1]])),
        (gym.spaces.Discrete(3, start=5), np.array([7, 5])),
    ],
    ids=str,
)
def test_every_kind_of_action_comes_back_and_minari_reads_it(tmp_path, space, actions):
    dataset = EpisodeDataset.create(tmp_path / "d", Provenance(environment_id="x"), space, (4, 4, 3))
    frames = np.arange(3 * 48, dtype=np.uint8).reshape(3, 4, 4, 3)
    dataset.append(Episode(frames=frames, actions=actions, rewards=[1, 2], terminated=True, truncated=False))
    np.testing.assert_array_equal(dataset[0].actions, actions)
    theirs = minari.MinariDataset(tmp_path / "d" / "data")
    np.testing.assert_array_equal(theirs[0].actions, actions)
    assert theirs.action_space == space


def test_minari_loads_it_without_loss(tmp_path):
    dataset = toy_dataset(tmp_path / "toy", 4)
    theirs = minari.MinariDataset(tmp_path / "toy" / "data")
    assert theirs.id == "dreamenv/Toy-v0"
    assert (len(theirs), theirs.total_steps) == (4, dataset.total_steps)
    for episode, their in zip(dataset, theirs, strict=True):
        np.testing.assert_array_equal(their.observations, episode.frames)
        np.testing.assert_array_equal(their.actions, episode.actions)
        np.testing.assert_array_equal(their.rewards, episode.rewards)
        assert (their.terminations[-1], their.truncations[-1]) == (episode.terminated, episode.truncated)
        assert not their.terminations[:-1].any()


def test_a_dataset_made_by_minari_can_be_copied(tmp_path):
    played = [play(seed) for seed in range(2)]
    buffers = [
        EpisodeBuffer(
            id=None, seed=e.seed, options=None, observations=e.frames, actions=e.actions, rewards=e.rewards.tolist(),
            terminations=[False] * (len(e) - 1) + [e.terminated], truncations=[False] * (len(e) - 1) + [e.truncated],
            infos={},
        )
        for e in played
    ]  # fmt: skip
    space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for authors
        theirs = minari.create_dataset_from_buffers(
            "toy/foreign-v0", buffers, observation_space=space, action_space=gym.spaces.Discrete(3), data_format="arrow"
        )  # with frames as JPEG, which is its way
    ours = from_minari(theirs, tmp_path / "ours")
    assert len(ours) == 2
    np.testing.assert_array_equal(ours[1].frames, theirs[1].observations)
    np.testing.assert_array_equal(ours[1].actions, played[1].actions)
    assert (ours[1].seed, ours[1].terminated) == (1, played[1].terminated)
    copied = from_minari(minari.MinariDataset(tmp_path / "ours" / "data"), tmp_path / "copy")
    assert copied.content_hash() == ours.content_hash()
    with pytest.raises(DatasetError, match="frame_key"):
        from_minari(theirs, tmp_path / "other", frame_key="screen")


def test_the_hash_follows_the_content_and_the_order(tmp_path):
    one, other = empty_dataset(tmp_path / "one"), empty_dataset(tmp_path / "other")
    for seed in (0, 1):
        one.append(play(seed))
        other.append(play(1 - seed))
    assert one.content_hash() != other.content_hash()
    before = one.content_hash()
    one.append(play(2))
    assert one.content_hash() != before


def test_no_episode_moves_between_the_sides_of_a_split_when_more_are_recorded(tmp_path):
    dataset = empty_dataset(tmp_path / "d")
    held: set[int] | None = None
    for count in range(30):
        dataset.append(random_episode(1, seed=count))
        if count < 9:
            continue
        train, held_out = dataset.split(0.2, seed=3)
        assert sorted([*train.indices, *held_out.indices]) == list(range(count + 1))
        assert held is None or held <= set(held_out.indices) <= held | {count}
        held = set(held_out.indices)
        assert abs(len(held_out) - 0.2 * (count + 1)) <= 1
    assert same(held_out[0], dataset[int(held_out.indices[0])])
    assert train.content_hash() != held_out.content_hash()
    assert len({tuple(dataset.split(0.2, seed=seed)[1].indices) for seed in range(9)}) > 1
    with pytest.raises(DatasetError, match="view of a dataset"):
        train.append(play(0))
    assert len(train.whole()) == 30


def test_both_sides_of_a_split_have_episodes_where_there_are_two(tmp_path):
    dataset = toy_dataset(tmp_path / "d", 2)
    for seed in range(5):
        for holdout in (0.01, 0.99):
            assert [len(side) for side in dataset.split(holdout, seed)] == [1, 1]
    assert [len(side) for side in dataset.split(0, 0)] == [2, 0]
    with pytest.raises(ConfigError, match="holdout"):
        dataset.split(1.0, 0)


def test_the_only_episode_is_never_held_out(tmp_path):
    dataset = toy_dataset(tmp_path / "d", 1)
    for seed in range(40):
        for holdout in (0.1, 0.5, 0.99):
            training, held_out = dataset.split(holdout, seed)
            assert (len(training), len(held_out)) == (1, 0)
            assert FrameStore(training).total_steps == dataset.total_steps
    assert [len(side) for side in empty_dataset(tmp_path / "none").split(0.1, 0)] == [0, 0]


def test_totals_run_and_no_append_walks_the_records(tmp_path):
    dataset = empty_dataset(tmp_path / "d")

    class Counted(list):
        walks = 0

        def __iter__(self):
            Counted.walks += 1
            return super().__iter__()

    dataset.records = Counted()
    for count in range(1, 21):
        dataset.append(random_episode(count))
    assert Counted.walks == 0
    assert dataset.total_steps == 210 == EpisodeDataset.open(dataset.path).total_steps
    training, held_out = dataset.split(0.2, 0)
    assert training.total_steps + held_out.total_steps == 210
    assert json.loads((dataset.path / "data" / "metadata.json").read_text())["total_steps"] == 210


def test_frames_of_another_size_are_refused_and_nothing_is_written(tmp_path):
    dataset = toy_dataset(tmp_path / "d", 1)
    before = listing(tmp_path)
    with pytest.raises(EpisodeError, match=r"\(32, 32, 3\).*\(16, 16, 3\)"):
        dataset.append(random_episode(3, size=32))
    assert listing(tmp_path) == before


def test_actions_outside_the_space_are_refused(tmp_path):
    dataset = toy_dataset(tmp_path / "d", 1)
    episode = random_episode(3)
    for actions, message in (
        (np.array([0, 3, 1]), "step 1 is 3"),
        (np.zeros(3, np.float32), "float32"),
        (np.zeros((3, 1), int), r"\(3, 1\)"),
    ):
        wrong = Episode(
            frames=episode.frames, actions=actions, rewards=episode.rewards, terminated=True, truncated=False
        )
        with pytest.raises(ActionError, match=message):
            dataset.append(wrong)
    assert len(dataset) == 1


def test_a_missing_dataset_is_named_with_near_names(tmp_path):
    empty_dataset(tmp_path / "take_cover")
    with pytest.raises(DatasetError, match=r"take_cove.*Did you mean 'take_cover'"):
        EpisodeDataset.open(tmp_path / "take_cove")
    with pytest.raises(DatasetError, match="has a dataset already"):
        empty_dataset(tmp_path / "take_cover")
    with pytest.raises(DatasetError, match="from_minari"):
        EpisodeDataset.open(tmp_path / "take_cover" / "data")


def test_a_dataset_of_a_newer_format_is_refused(tmp_path):
    empty_dataset(tmp_path / "d")
    file = tmp_path / "d" / "data" / "metadata.json"
    values = json.loads(file.read_text())
    values["dreamenv"] = storage.seal({**values["dreamenv"], "version": 99})
    file.write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=r"newer dreamenv.*pip install -U"):
        EpisodeDataset.open(tmp_path / "d")


def test_damage_is_found_and_named(tmp_path):
    path = tmp_path / "d"
    toy_dataset(path, 3)
    arrow = path / "data" / "1" / "part-0.arrow"
    whole = arrow.read_bytes()
    arrow.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=f"{arrow.parent} is damaged"):
        EpisodeDataset.open(path)[1]
    shutil.copy(path / "data" / "2" / "part-0.arrow", arrow)
    with pytest.raises(DatasetError, match=f"{arrow.parent} (was changed|is damaged)"):
        EpisodeDataset.open(path)[1]
    (path / "data" / "1" / "metadata.json").write_text("{")
    with pytest.raises(DatasetError, match=r"1/metadata.json is damaged"):
        EpisodeDataset.open(path)
    shutil.rmtree(path / "data" / "1")
    with pytest.raises(DatasetError, match=r"should have 3 episodes.*1 is missing"):
        EpisodeDataset.open(path)
    (path / "data" / "metadata.json").write_text("[]")
    with pytest.raises(DatasetError, match="damaged"):
        EpisodeDataset.open(path)


@pytest.mark.parametrize(
    ("name", "value"), [("terminated", 2), ("total_reward", 9.5), ("seed", 7), ("score", 1.0), ("policy", "another")]
)
def test_an_episodes_facts_cannot_be_edited(tmp_path, name, value):
    toy_dataset(tmp_path / "d", 2)
    file = tmp_path / "d" / "data" / "1" / "metadata.json"
    values = json.loads(file.read_text())
    assert values[name] != value
    file.write_text(json.dumps({**values, name: value}))
    with pytest.raises(DatasetError, match=r"1/metadata.json is damaged or was altered.*Restore the folder"):
        EpisodeDataset.open(tmp_path / "d")


def test_a_datasets_environment_cannot_be_edited(tmp_path):
    path = tmp_path / "d"
    toy_dataset(path, 1)
    file = path / "data" / "metadata.json"
    values = json.loads(file.read_text())
    values["dreamenv"]["provenance"]["frame_skip"] += 1
    file.write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=r"metadata.json is damaged or was altered"):
        EpisodeDataset.open(path)
    with pytest.raises(DatasetError, match=r"metadata.json is damaged or was altered"):
        from_minari(minari.MinariDataset(path / "data"), tmp_path / "copy")


def test_two_writers_lose_nothing(tmp_path):
    one = empty_dataset(tmp_path / "d")
    other = EpisodeDataset.open(tmp_path / "d")
    for seed in range(4):
        (one, other)[seed % 2].append(play(seed))
    both = EpisodeDataset.open(tmp_path / "d")
    assert all(same(episode, play(seed)) for seed, episode in enumerate(both))
    assert len(minari.MinariDataset(tmp_path / "d" / "data")) == 4


def test_a_full_disk_harms_nothing(tmp_path, monkeypatch):
    """The system itself refuses here: a limit on the size of files stands for the end of the disk."""
    dataset = toy_dataset(tmp_path / "d", 2)
    before, content = listing(tmp_path), dataset.content_hash()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(StorageError, match=r"50 steps.*unharmed"):
            dataset.append(random_episode(50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert listing(tmp_path) == before
    assert EpisodeDataset.open(tmp_path / "d").content_hash() == content == dataset.content_hash()

    def full(*args):
        raise OSError(28, "No space left on device")

    sync, calls = os.fsync, []
    for allowed in range(4):  # at each write before the episode is in its place
        calls.clear()

        def sync_some(handle, allowed=allowed):
            calls.append(handle)
            return sync(handle) if len(calls) <= allowed else full()

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", sync_some)
            with pytest.raises(StorageError, match=r"No space left on device. Free some space"):
                dataset.append(play(5))
    whole = len(EpisodeDataset.open(tmp_path / "d"))
    dataset.append(play(6))
    again = EpisodeDataset.open(tmp_path / "d")
    assert len(again) == whole + 1
    assert [same(e, play(s)) for e, s in zip(again, (0, 1, *[5] * (whole - 2), 6), strict=True)] == [True] * len(again)
    assert len(minari.MinariDataset(tmp_path / "d" / "data")) == len(again)


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from toy import EpisodeDataset, play
dataset = EpisodeDataset.open({path!r})
for seed in range(10_000):
    dataset.append(play(seed))
    print(len(dataset), flush=True)
"""


def test_a_killed_writer_leaves_whole_episodes_only(tmp_path):
    path = tmp_path / "d"
    empty_dataset(path)
    script = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            printed = int(line)
            if printed >= 7:
                process.kill()
                break
    dataset = EpisodeDataset.open(path)
    assert len(dataset) >= printed
    assert all(same(episode, play(seed)) for seed, episode in enumerate(dataset))
    dataset.append(play(0))
    assert len(EpisodeDataset.open(path)) == len(minari.MinariDataset(path / "data")) == len(dataset)
    assert os.listdir(path / "data" / "0")

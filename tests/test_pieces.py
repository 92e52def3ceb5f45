"""Pieces of an episode that a limit of steps cut do not pose as starts of episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from minari import MinariDataset
from toy import empty_dataset, random_episode
from vpt_files import line, write_lines, write_recording, write_video

from dreamenv.data import Episode, EpisodeDataset, from_minari
from dreamenv.data.readers import MineRLSettings, NpzSettings, VPTSettings, convert, open_minerl, open_npz, open_vpt
from dreamenv.data.readers.source import Sources
from dreamenv.data.starts import Starts
from dreamenv.errors import DatasetError


def npz_file(tmp_path: Path) -> Sources:
    """Two episodes of 5 and 4 steps."""
    first = np.arange(11) % 6 == 0
    np.savez(tmp_path / "a.npz", image=np.zeros((11, 8, 8, 3), np.uint8), action=np.arange(11) % 2, is_first=first)
    return open_npz([tmp_path / "a.npz"], NpzSettings(max_steps=3))


def minerl_folder(tmp_path: Path) -> Sources:
    """One episode of 9 steps."""
    place = tmp_path / "a"
    place.mkdir()
    write_video(place / "recording.mp4", 10)
    np.savez(place / "rendered.npz", reward=np.zeros(9, np.float32), **{"action$attack": np.arange(9) % 2})
    return open_minerl([place], MineRLSettings(size=8, max_steps=4))


def vpt_film(tmp_path: Path) -> Sources:
    """One episode of 40 steps, or 39."""
    return open_vpt([write_recording(tmp_path, "a", np.zeros((40, 25), np.float32))], VPTSettings(size=8, max_steps=16))


@pytest.mark.parametrize(
    ("source", "expected"),
    [(npz_file, [True, False, True, False]), (minerl_folder, [True, False, False]), (vpt_film, [True, False, False])],
)
def test_readers_say_which_pieces_begin_an_episode(tmp_path: Path, source, expected: list[bool]) -> None:
    dataset = convert(source(tmp_path), tmp_path / "data", progress=False).dataset
    assert [record.at_episode_start for record in EpisodeDataset.open(dataset.path).records] == expected
    assert [episode.at_episode_start for episode in dataset] == expected


def test_what_follows_frames_that_were_cut_out_begins_no_episode(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 30)
    write_lines(tmp_path / "a.jsonl", (line(gui=10 <= number < 15) for number in range(30)))
    dataset = convert(open_vpt([tmp_path / "a.mp4"], VPTSettings(size=8, gui="cut")), tmp_path / "data").dataset
    assert [record.at_episode_start for record in dataset.records] == [True, False]


@pytest.fixture
def pieces(tmp_path: Path) -> EpisodeDataset:
    """Three episodes of two pieces each."""
    dataset = empty_dataset(tmp_path / "d")
    for number in range(3):
        for piece in halves(random_episode(20, seed=number)):
            dataset.append(piece)
    return dataset


def halves(whole: Episode) -> Iterator[Episode]:
    for first, last in ((0, 10), (10, 20)):
        yield dataclasses.replace(
            whole, frames=whole.frames[first : last + 1], actions=whole.actions[first:last],
            rewards=whole.rewards[first:last], terminated=whole.terminated and last == 20, truncated=last < 20,
            at_episode_start=first == 0,
        )  # fmt: skip


def test_dreams_that_begin_as_episodes_do_begin_at_a_reset(pieces: EpisodeDataset) -> None:
    resets = [pieces[number].frames[0] for number in (0, 2, 4)]
    only = Starts.from_dataset(pieces, count=9, context=4, seed=0, episode_starts_only=True)
    assert len(only) == 3
    mixed = Starts.from_dataset(pieces, count=50, context=4, seed=0)
    for starts in (only, mixed):
        for frame, begins in zip(starts.first_frames, starts.at_episode_start, strict=True):
            assert bool(begins) == any(np.array_equal(frame, reset) for reset in resets)


def test_a_recording_without_any_start_of_an_episode_says_so(pieces: EpisodeDataset, tmp_path: Path) -> None:
    later = empty_dataset(tmp_path / "later")
    later.append(pieces[1])
    with pytest.raises(DatasetError, match=r"none of the 1 episodes .* begins with a reset"):
        Starts.from_dataset(later, count=4, context=2, seed=0, episode_starts_only=True)
    assert not Starts.from_dataset(later, count=4, context=2, seed=0).at_episode_start.any()


def test_a_copy_by_way_of_minari_keeps_what_is_a_piece(pieces: EpisodeDataset, tmp_path: Path) -> None:
    copied = from_minari(MinariDataset(pieces.path / "data"), tmp_path / "copy")
    assert [record.at_episode_start for record in copied.records] == [True, False] * 3

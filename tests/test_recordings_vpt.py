"""VPT's recordings become episodes: the stream comes back, frame and action stay together, quirks are mended."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from vpt_files import line, lines_of, numbers, real_stream, write_lines, write_recording, write_video

from dreamenv.cli import main
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.readers import VPTSettings, convert, open_vpt
from dreamenv.data.readers.minecraft import ACTION_KEYS, camera_value, key_index
from dreamenv.data.readers.vpt_lines import read_actions
from dreamenv.errors import ConfigError, DatasetError, RecordingError

SMALL = VPTSettings(size=8, max_steps=16)


def counted(steps: int) -> np.ndarray:
    """A stream whose i-th action turns by i mod 40 half degrees, so that every action tells its number."""
    stream = np.zeros((steps, 25), np.float32)
    stream[:, key_index("cameraY")] = (np.arange(steps) % 40) / np.float32(40)
    return stream


def marks_of(actions: np.ndarray) -> list[int]:
    return np.rint(actions[:, key_index("cameraY")] * 40).astype(int).tolist()


def read(tmp_path: Path, lines: list[dict[str, Any]], **settings: Any) -> np.ndarray:
    write_lines(tmp_path / "lines.jsonl", lines)
    return read_actions(tmp_path / "lines.jsonl", **settings)[0]


def values(actions: np.ndarray, name: str) -> list[float]:
    return actions[:, key_index(name)].tolist()


# What comes back


def test_the_order_of_the_keys_is_that_of_the_public_worlds():
    assert len(ACTION_KEYS) == 25
    assert ACTION_KEYS[:3] == ("inventory", "ESC", "hotbar.1")
    assert ACTION_KEYS[10:18] == ("hotbar.9", "forward", "back", "left", "right", "cameraX", "cameraY", "jump")
    assert ACTION_KEYS[18:] == ("sneak", "sprint", "swapHands", "attack", "use", "pickItem", "drop")


def test_a_real_players_stream_comes_back_exactly(tmp_path):
    stream = real_stream()
    assert (np.abs(stream).sum(axis=0) > 0).sum() > 10  # it walks, jumps, looks, strikes, uses and chooses slots
    np.testing.assert_array_equal(read(tmp_path, lines_of(stream)), stream)


def test_a_recording_becomes_episodes_in_which_action_i_leads_to_frame_i_plus_1(tmp_path):
    file = write_recording(tmp_path, "walk", counted(40))
    dataset = convert(open_vpt([file], SMALL), tmp_path / "data", progress=False).dataset
    assert dataset.lengths.tolist() == [16, 16, 7]  # 40 frames, 39 steps
    step = 0
    for episode in dataset:
        n = len(episode)
        assert numbers(episode.frames).tolist() == [i % 10 for i in range(step, step + n + 1)]
        assert marks_of(episode.actions) == list(range(step, step + n))
        assert episode.truncated
        assert not episode.terminated
        assert (episode.policy, episode.seed) == ("walk", step)
        assert episode.frames.shape[1:] == (8, 8, 3)
        step += n


def test_minari_loads_a_converted_recording(tmp_path):
    file = write_recording(tmp_path, "walk", real_stream()[:30])
    dataset = convert(open_vpt([file], SMALL), tmp_path / "data", progress=False).dataset
    theirs = minari.MinariDataset(tmp_path / "data" / "data")
    assert theirs.total_steps == 29
    assert theirs.action_space == dataset.action_space
    for episode, their in zip(dataset, theirs, strict=True):
        np.testing.assert_array_equal(their.actions, episode.actions)
        np.testing.assert_array_equal(their.observations, episode.frames)


def test_frames_may_be_wide(tmp_path):
    file = write_recording(tmp_path, "walk", counted(4))
    settings = VPTSettings(size=9, width=16)
    dataset = convert(open_vpt([file], settings), tmp_path / "data", progress=False).dataset
    assert dataset[0].frames.shape == (4, 9, 16, 3)


def test_a_long_video_is_never_held_whole(tmp_path):
    write_video(tmp_path / "long.mp4", 600, size=64)
    write_lines(tmp_path / "long.jsonl", [line() for _ in range(600)])
    sources = open_vpt([tmp_path / "long.mp4"], VPTSettings(size=64, max_steps=20))
    source = sources.sources[0]
    segments = source.segments()
    tracemalloc.start()
    try:
        steps = sum(len(episode) for episode in source.episodes(segments))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert steps == 599
    assert peak < 3_000_000  # all frames take 7.4 MB, those of a piece 0.26 MB


# Quirks


def test_attack_that_is_stuck_from_the_start_counts_only_once_it_was_let_go(tmp_path):
    stuck = [line(buttons=[0], new_buttons=[0]), line(buttons=[0]), line(buttons=[0], dx=10)]
    freed = [line(), line(buttons=[0], new_buttons=[0]), line(buttons=[0])]
    assert values(read(tmp_path, stuck + freed), "attack") == [0, 0, 0, 0, 1, 1]
    pressed = [line(buttons=[0], new_buttons=[0]), line(buttons=[0]), line(buttons=[0]), line()]
    assert values(read(tmp_path, stuck + pressed), "attack") == [0, 0, 0, 1, 1, 1, 0]
    # Other buttons are believed.
    assert values(read(tmp_path, [line(buttons=[1], new_buttons=[1])]), "use") == [1]


def test_a_slot_chosen_with_the_wheel_counts_as_its_key(tmp_path):
    actions = read(tmp_path, [line(hotbar=slot) for slot in (2, 2, 3, 3, 0)])
    assert values(actions, "hotbar.3") == [1, 0, 0, 0, 0]  # of the first line too, as in the public streams
    assert values(actions, "hotbar.4") == [0, 0, 1, 0, 0]
    assert values(actions, "hotbar.1") == [0, 0, 0, 0, 1]


def test_a_slots_key_counts_while_it_chooses_that_slot(tmp_path):
    key = "key.keyboard.2"
    lines = [line(), line(keys=[key], new_keys=[key]), line(keys=[key], hotbar=1), line(keys=[key], hotbar=1)]
    assert values(read(tmp_path, [*lines, line(hotbar=1)]), "hotbar.2") == [0, 1, 1, 1, 0]


def test_a_stuck_hotbar_key_does_not_count(tmp_path):
    key = "key.keyboard.2"
    never_pressed = [line(keys=[key], new_keys=[key]), line(keys=[key]), line(keys=[key])]
    assert values(read(tmp_path, never_pressed), "hotbar.2") == [0, 0, 0]
    # Pressed, then down for ever while the wheel chooses another slot.
    lines = [line(), line(keys=[key], new_keys=[key]), line(keys=[key], hotbar=1), line(keys=[key], hotbar=4)]
    actions = read(tmp_path, [*lines, line(keys=[key], hotbar=4)])
    assert values(actions, "hotbar.2") == [0, 1, 1, 0, 0]
    assert values(actions, "hotbar.5") == [0, 0, 0, 1, 0]


def test_the_mouse_turns_the_view_by_360_degrees_in_2400_pixels(tmp_path):
    actions = read(tmp_path, [line(dx=10, dy=-20), line(dx=1), line(dx=5000, dy=-5000)])
    np.testing.assert_allclose(values(actions, "cameraY"), [1.5 / 20, 0, 1], atol=1e-6)  # 1 pixel is 0.15 degrees
    np.testing.assert_allclose(values(actions, "cameraX"), [-3.0 / 20, 0, -1], atol=1e-6)
    assert not np.signbit(camera_value(np.array([-0.1])))[0]


def test_with_a_screen_open_the_mouse_moves_no_view(tmp_path):
    lines = [line(dx=10), line(dx=10, gui=True), line(dx=10)]
    turn = pytest.approx(1.5 / 20)
    assert values(read(tmp_path, lines), "cameraY") == [turn, 0, turn]
    assert values(read(tmp_path, lines, gui="mouse"), "cameraY") == [turn, turn, turn]
    assert values(read(tmp_path, lines, gui="mouse", gui_scale=2.0), "cameraY") == [turn, pytest.approx(3 / 20), turn]


def test_frames_with_a_screen_can_be_left_out(tmp_path):
    stream = counted(12)
    file = write_recording(tmp_path, "craft", stream)
    lines = lines_of(stream)
    for number in (0, 5, 6, 10):
        lines[number]["isGuiOpen"] = True
    write_lines(tmp_path / "craft.jsonl", lines)
    settings = dataclasses.replace(SMALL, gui="cut")
    episodes = list(convert(open_vpt([file], settings), tmp_path / "data", progress=False).dataset)
    assert [numbers(episode.frames).tolist() for episode in episodes] == [[1, 2, 3, 4], [7, 8, 9]]
    assert [marks_of(episode.actions) for episode in episodes] == [[1, 2, 3], [7, 8]]


@pytest.mark.parametrize(
    ("offset", "frames", "actions"),
    [(0, range(10), range(9)), (2, range(9), range(2, 10)), (-2, range(2, 10), range(7))],
)
def test_actions_that_are_out_of_step_can_be_moved(tmp_path, offset, frames, actions):
    file = write_recording(tmp_path, "late", counted(10))
    settings = dataclasses.replace(SMALL, offset=offset)
    [episode] = convert(open_vpt([file], settings), tmp_path / "data", progress=False).dataset
    assert numbers(episode.frames).tolist() == list(frames)
    assert marks_of(episode.actions) == list(actions)


@pytest.mark.parametrize(("lines", "steps"), [(10, 9), (9, 9), (11, 9)])
def test_a_line_may_be_missing_or_too_many(tmp_path, lines, steps):
    file = write_recording(tmp_path, "walk", counted(lines), frames=10)
    [episode] = convert(open_vpt([file], SMALL), tmp_path / "data", progress=False).dataset
    assert numbers(episode.frames).tolist() == list(range(steps + 1))
    assert marks_of(episode.actions) == list(range(steps))


# Bad input


@pytest.mark.parametrize("lines", [8, 12, 40])
def test_frames_and_actions_that_do_not_go_together_are_refused(tmp_path, lines):
    file = write_recording(tmp_path, "walk", counted(lines), frames=10)
    with pytest.raises(
        RecordingError, match=rf"walk\.mp4 has 10 frames and walk\.jsonl {lines} lines; .*leave them out"
    ):
        convert(open_vpt([file], SMALL), tmp_path / "data", progress=False)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("first_moov", [False, True])
def test_a_truncated_video_is_refused_and_converted_episodes_stay(tmp_path, first_moov, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_recording(tmp_path, "good", counted(30))
    bad = write_recording(tmp_path, "half", counted(30))
    if first_moov:
        write_video(bad, 30, first_moov=True)
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2 if not first_moov else len(whole) - 800])
    arguments = ["convert", "vpt", "good.mp4", "half.mp4", "--out", "data", "--size", "8"]
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert "half.mp4" in shown
    assert "cut short" in shown
    assert "leave it out" in shown
    dataset = EpisodeDataset.open("data")
    assert dataset.total_steps == 29
    assert marks_of(dataset[0].actions) == list(range(29))
    # With the damaged one skipped, the rest is done and the damage reported.
    write_recording(tmp_path, "later", counted(5))
    assert main([*arguments[:4], "later.mp4", *arguments[4:], "--skip-damaged"]) == 0
    captured = capsys.readouterr()
    assert "skipped: the video half.mp4" in captured.err
    assert "2 episodes, 33 steps" in captured.out


def test_a_video_that_is_damaged_inside_is_refused_after_its_good_part(tmp_path):
    file = write_recording(tmp_path, "walk", counted(200))
    content = bytearray(file.read_bytes())
    begin = content.index(b"mdat") - 4  # a box of mp4: its size, its name, and here the pictures
    end = begin + int.from_bytes(content[begin : begin + 4])
    content[(begin + end) // 2 : end] = bytes(end - (begin + end) // 2)
    file.write_bytes(content)
    with pytest.raises(RecordingError, match=r"walk\.mp4 is damaged: .*leave it out"):
        convert(open_vpt([file], SMALL), tmp_path / "data", progress=False)
    dataset = EpisodeDataset.open(tmp_path / "data")
    assert 0 < len(dataset) < 13
    for number, episode in enumerate(dataset):
        assert marks_of(episode.actions) == [i % 40 for i in range(16 * number, 16 * number + 16)]
        assert numbers(episode.frames).tolist() == [i % 10 for i in range(16 * number, 16 * number + 17)]


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ('{"mouse": {"dx": 0, "dy', "line 3, is no action in JSON"),
        ("[]", "line 3, is no action in JSON"),
        ("", "line 3, is no action in JSON"),
        (json.dumps({"keyboard": {"keys": []}}), "line 3, lacks 'mouse'"),
        (json.dumps({"mouse": {"dx": 0, "dy": 0, "buttons": []}}), "line 3, lacks 'keyboard'"),
    ],
)
def test_a_line_that_is_no_json_is_named(tmp_path, spoilt, message):
    file = write_recording(tmp_path, "walk", counted(5))
    lines = (tmp_path / "walk.jsonl").read_text().splitlines()
    lines[2] = spoilt
    (tmp_path / "walk.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordingError, match=rf"walk\.jsonl, {message}.*correct or delete"):
        convert(open_vpt([file], SMALL), tmp_path / "data", progress=False)


def test_a_recording_without_its_other_half_is_named(tmp_path):
    file = write_recording(tmp_path, "walk", counted(5))
    (tmp_path / "walk.jsonl").unlink()
    with pytest.raises(RecordingError, match=r"there is no .*walk\.jsonl"):
        open_vpt([file], SMALL).sources[0].segments()
    write_lines(tmp_path / "talk.jsonl", [line()] * 5)
    with pytest.raises(RecordingError, match=r"there is no video .*talk\.mp4"):
        open_vpt([tmp_path / "talk.jsonl"], SMALL).sources[0].segments()


def test_no_recordings_two_of_one_name_and_bad_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="nothing to convert"):
        open_vpt([])
    with pytest.raises(ConfigError, match="have the same name, 'x'"):
        open_vpt([tmp_path / "a" / "x.mp4", tmp_path / "b" / "x.mp4"])
    for settings in ({"size": 0}, {"gui": "open"}, {"gui_scale": 0.0}, {"gui_scale": 2.0}, {"max_steps": 0}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            VPTSettings(**settings)
    file = write_recording(tmp_path, "walk", counted(5))
    with pytest.raises(RecordingError, match="leave no step"):
        open_vpt([file], VPTSettings(offset=5)).sources[0].segments()


# Going on


def test_a_killed_conversion_resumes_without_duplicates(tmp_path, monkeypatch):
    files = [write_recording(tmp_path, name, counted(40)) for name in ("one", "two")]
    whole = convert(open_vpt(files, SMALL), tmp_path / "whole", progress=False).dataset

    append, left = EpisodeDataset.append, [4]

    def killed(self: EpisodeDataset, episode: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        append(self, episode)

    monkeypatch.setattr(EpisodeDataset, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(open_vpt(files, SMALL), tmp_path / "unfinished", progress=False)
    assert len(EpisodeDataset.open(tmp_path / "unfinished")) == 4
    left[0] = 100
    resumed = convert(open_vpt(files, SMALL), tmp_path / "unfinished", progress=False).dataset
    assert resumed.content_hash() == whole.content_hash()
    again = convert(open_vpt(files, SMALL), tmp_path / "unfinished", progress=False).dataset
    assert len(again) == len(whole) == 6


def test_recordings_read_otherwise_do_not_go_into_one_dataset(tmp_path):
    file = write_recording(tmp_path, "walk", counted(5))
    convert(open_vpt([file], SMALL), tmp_path / "data", progress=False)
    with pytest.raises(DatasetError, match="frames: "):
        convert(open_vpt([file], VPTSettings(size=16)), tmp_path / "data", progress=False)
    for name, value, before in (
        ("gui", "cut", "still"),
        ("offset", 1, 0),
        ("max_steps", 7, SMALL.max_steps),
        ("width", 16, 8),
    ):
        other = dataclasses.replace(SMALL, **{name: value})
        with pytest.raises(DatasetError, match=f"{name}: {value} against {before}"):
            convert(open_vpt([file], other), tmp_path / "data", progress=False)
    mouse = VPTSettings(size=SMALL.size, gui="mouse")
    convert(open_vpt([file], mouse), tmp_path / "mouse", progress=False)
    with pytest.raises(DatasetError, match=r"gui_scale: 2\.0 against 1\.0"):
        convert(open_vpt([file], dataclasses.replace(mouse, gui_scale=2.0)), tmp_path / "mouse", progress=False)


def test_a_mouse_that_moves_by_no_number_is_named_and_can_be_skipped(tmp_path):
    good = write_recording(tmp_path, "good", counted(5))
    bad, lines = write_recording(tmp_path, "bad", counted(5)), [line() for _ in range(5)]
    lines[2]["mouse"]["dx"] = float("nan")
    write_lines(tmp_path / "bad.jsonl", lines)
    with pytest.raises(RecordingError, match=r"bad\.jsonl, line 3, .*nan"):
        convert(open_vpt([bad], SMALL), tmp_path / "d", progress=False)
    done = convert(open_vpt([bad, good], SMALL, skip_damaged=True), tmp_path / "data", progress=False)
    assert [record.policy for record in done.dataset.records] == ["good"]
    assert len(done.damaged) == 1

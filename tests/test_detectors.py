"""Detectors find the objects that the engines say are there, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from navigation import here

from dreamenv.benchmarks.detectors import Detectors, agreement
from dreamenv.benchmarks.object_truth import LABELLED_TASKS, LabelledFrames, record_labelled
from dreamenv.envs import full_id, make_real
from dreamenv.errors import ConfigError, FrameError, UnknownNameError
from dreamenv.metrics.detectors import ColourDetector, Detector, GridDetector, match
from dreamenv.metrics.known_objects import detector_for, environments_with_detectors, register_detector


def white(red, green, blue):
    return red + green + blue > 600


@pytest.mark.slow
@pytest.mark.parametrize("task", here(*LABELLED_TASKS))
def test_detectors_agree_with_the_engine(task):
    labelled = record_labelled(task, 60, seed=31_000)
    result = agreement(detector_for(full_id(task)), labelled)
    assert result["plain_objects"] >= 20
    assert result["precision"] >= 0.9
    assert result["recall"] >= 0.8
    assert labelled.frames.shape == (60, 64, 64, 3)


def test_a_detector_that_sees_too_much_or_too_little_does_not_agree():
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    frames[:, 10:13, 20:23] = 255
    frames[0, 40:43, 50:53] = 255
    truth = np.array([[11.0, 21.0, 9.0, 0.0]])
    detector = ColourDetector(kinds=("squares",), colours=(white,))
    result = agreement(detector, LabelledFrames(frames=frames, objects=[truth, truth]))
    assert (result["precision"], result["recall"]) == (pytest.approx(2 / 3), 1.0)
    moved = np.array([[11.0, 31.0, 9.0, 0.0]])
    result = agreement(detector, LabelledFrames(frames=frames[1:], objects=[moved]))
    assert (result["precision"], result["recall"]) == (0.0, 0.0)


def test_every_known_environment_is_a_task_of_ours():
    assert environments_with_detectors() == sorted(full_id(task) for task in LABELLED_TASKS)


def test_larger_frames_are_shrunk_and_smaller_ones_refused():
    frame = np.zeros((1, 128, 128, 3), np.uint8)
    frame[:, 20:26, 40:46] = 255
    detector = ColourDetector(kinds=("squares",), colours=(white,))
    assert detector(frame)[0].tolist() == [[11.0, 21.0, 9.0, 0.0]]
    assert detector(frame[:0]) == []
    with pytest.raises(FrameError, match="at least 64 x 64 pixels, not \\(1, 32, 128, 3\\)"):
        detector(frame[:, :32])
    with pytest.raises(FrameError, match="at least 64 x 64"):
        detector(frame[..., :1])


def test_colours_areas_places_and_shapes_decide():
    frame = np.zeros((1, 64, 64, 3), np.uint8)
    frame[0, 5, 5] = 255  # too small
    frame[0, 8:10, 30:40] = 255  # too long
    frame[0, 12:16, 30:34] = 255  # all white
    frame[0, 40:44, 30:34] = 255
    frame[0, 41, 31] = (0, 200, 0)  # white and green
    frame[0, 50:60, 40:50] = 255  # too large
    frame[0, 55, 45] = (0, 200, 0)
    green = lambda red, green, blue: (green - red > 100) & (blue < 50)  # noqa: E731
    detector = ColourDetector(kinds=("signs",), colours=(white, green), least=2, most=50, elongation=2.0)
    assert detector(frame)[0].tolist() == [[41.5, 31.5, 16.0, 0.0]]
    lower = ColourDetector(kinds=("signs",), colours=(white,), least=2, most=50, top=30)
    assert len(lower(frame)[0]) == 1
    one = ColourDetector(kinds=("signs",), colours=(white,), single=True)
    assert len(one(frame)[0]) == 1


def test_templates_are_found_in_any_light_but_not_in_noise():
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (4, 4, 4), dtype=np.uint8)
    picture[..., 3] = 255
    detector = GridDetector(kinds=("things",), templates={"things": picture}, rows=2, columns=3, threshold=0.9, size=16)
    frame = random.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    assert not len(detector(frame)[0])
    frame[0, 4:8, 8:12] = picture[..., :3] // 3 + 20
    assert detector(frame)[0].tolist() == [[5.5, 9.5, 16.0, 0.0]]


def shift(column=0, area=0, kind=0):
    return np.array([0, column, area, kind])


def test_each_object_is_matched_once_within_the_tolerance():
    one = np.array([[10.0, 10.0, 4.0, 0.0]])
    two = np.array([[10.0, 11.0, 4.0, 0.0], [10.0, 12.0, 4.0, 0.0]])
    assert match(one, two, 4.0) == match(two, one, 4.0) == 1
    assert match(two, two, 4.0) == 2
    assert match(one, one + shift(column=5), 4.0) == 0
    assert match(one + shift(area=400), one + shift(column=5), 4.0) == 1  # a large object has no sharper middle
    assert match(one, one + shift(kind=1), 4.0) == 0  # of another kind


def test_users_add_detectors_of_their_own(monkeypatch):
    monkeypatch.setattr("dreamenv.metrics.known_objects._DETECTORS", {})

    class Corner(Detector):
        def find(self, frame):
            return np.array([[0.0, 0.0, 1.0, 0.0]] if frame[0, 0].sum() else []).reshape(-1, 4)

    mine = Corner(kinds=("corners",), size=16)
    register_detector("mine:Env-v0", mine)
    assert detector_for("mine:Env-v0") is mine
    assert len(mine(np.ones((1, 16, 16, 3), np.uint8))[0]) == 1


def test_bad_input_is_named():
    with pytest.raises(UnknownNameError, match=r"VizdoomBasic.*Environments with one: .*VizdoomTakeCover-v0"):
        detector_for("dreamenv/VizdoomBasic-v0")
    with pytest.raises(ConfigError, match="needs an environment's id and a Detector, not 'a' and 'b'"):
        register_detector("a", "b")
    with pytest.raises(ConfigError, match="needs a kind, a positive tolerance"):
        ColourDetector(kinds=(), colours=(white,))
    with pytest.raises(UnknownNameError, match="task with labelled objects"):
        record_labelled("take_care", 1)
    with pytest.raises(ConfigError, match="frames must be at least 1, not 0"):
        Detectors(frames=0)
    env = make_real("take_cover")
    with pytest.raises(ConfigError, match="label_objects = True"):
        env.unwrapped.find_objects("DoomImp")
    env.close()

"""Objects in dreams are counted against reality, the codec alone and persistence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy import empty_dataset, random_episode

from dreamenv.errors import ConfigError, DatasetError, FrameError, UnknownNameError
from dreamenv.metrics.detectors import ColourDetector
from dreamenv.metrics.known_objects import detector_for
from dreamenv.metrics.objects import compare_objects, object_fidelity
from dreamenv.metrics.statistics import ratio_interval
from dreamenv.presets import make_config
from dreamenv.world_model import WorldModelSpec

LENGTH, GONE = 30, 22


def yellow(red, green, blue):
    return (red > 190) & (green > 150) & (blue < 100)


SQUARES = ColourDetector(kinds=("squares",), colours=(yellow,), size=16, tolerance=2.0)


@pytest.fixture
def recording(tmp_path):
    """Episodes of 30 steps, in which a square of 4 pixels is there until the 22nd frame."""
    dataset = empty_dataset(tmp_path / "data")
    for seed in range(4):
        episode = random_episode(LENGTH, seed=seed)
        frames = np.asarray(episode.frames) // 4
        frames[:GONE, 5:7, 5:7] = (255, 220, 60)
        dataset.append(dataclasses.replace(episode, frames=frames))
    return dataset


def still_world(dataset):
    h, w, c = dataset.frame_shape
    spec = WorldModelSpec(frame_shape=(c, h, w), action_space=dataset.action_space, frame_rate=10.0)
    return make_config("persistence").build(spec)


def test_dreams_are_compared_with_reality_and_persistence(recording):
    report = object_fidelity(still_world(recording), recording, detector=SQUARES, steps=(1, 5, 40), context=16)
    assert list(report["steps"]) == ["1", "5"]  # no episode is long enough for 40
    # Seen at frames 16 to 21 of each episode; a step later at 17 to 22, of which the last shows none.
    one = report["steps"]["1"]
    assert (one["moments"], one["objects"]) == (24, 20)
    assert one["present"]["mean"] == pytest.approx(20 / 24)
    assert one["dream"]["found"]["mean"] == 1.0
    assert one["dream"]["false"]["mean"] == pytest.approx(4 / 24)
    assert one["dream"] == one["persistence"]
    # Five steps later it is there at 21 alone.
    assert report["steps"]["5"]["present"]["mean"] == pytest.approx(1 / 6)
    assert report["steps"]["5"]["present"]["low"] < 1 / 6 < report["steps"]["5"]["present"]["high"]


def test_the_codec_alone_is_measured_where_a_world_has_one(recording):
    class Blind(torch.nn.Module):
        """Persistence whose codec shows black."""

        def __init__(self, model):
            super().__init__()
            self.still, self.spec = model, model.spec
            self.start, self.observe, self.imagine = model.start, model.observe, model.imagine

        def reconstruct(self, frames):
            return torch.zeros_like(frames)

    model = still_world(recording)
    report = object_fidelity(Blind(model), recording, detector=SQUARES, steps=(1,), context=16)
    assert report["steps"]["1"]["codec"]["found"]["mean"] == 0.0
    assert report["steps"]["1"]["codec"]["false"]["mean"] == 0.0
    assert "codec" not in object_fidelity(model, recording, detector=SQUARES, steps=(1,), context=16)["steps"]["1"]


def test_an_object_elsewhere_is_missing_and_false():
    truth, elsewhere = torch.zeros(2, 2, 3, 16, 16)
    colour = torch.tensor((1.0, 0.85, 0.2)).reshape(1, 3, 1, 1)
    truth[:, :, 2:4, 2:4] = colour
    elsewhere[:, :, 10:12, 2:4] = colour
    entry = compare_objects(SQUARES, truth, {"dream": elsewhere, "codec": truth})
    assert entry["dream"]["found"]["mean"] == 0.0
    assert entry["dream"]["present"]["mean"] == entry["dream"]["false"]["mean"] == 1.0
    assert entry["codec"]["found"]["mean"] == 1.0
    empty = compare_objects(SQUARES, torch.zeros_like(truth), {"dream": truth})
    assert empty["dream"]["found"] is None


def test_ratios_have_intervals_over_their_units():
    assert ratio_interval([1, 1, 4], [2, 2, 4])["mean"] == pytest.approx(6 / 8)
    assert ratio_interval([0, 0], [0, 0]) is None
    wide, narrow = (ratio_interval([0, 1] * n, [1, 1] * n) for n in (10, 1000))
    assert wide["low"] < narrow["low"] < 0.5 < narrow["high"] < wide["high"]


def test_bad_input_is_named(recording):
    model = still_world(recording)
    with pytest.raises(UnknownNameError, match=r"Toy-v0.*Environments with one"):
        object_fidelity(model, recording)
    with pytest.raises(FrameError, match="at least 64 x 64"):
        object_fidelity(model, recording, detector=detector_for("dreamenv/VizdoomTakeCover-v0"))
    with pytest.raises(ConfigError, match="steps and moments must be at least 1"):
        object_fidelity(model, recording, detector=SQUARES, steps=())
    nothing = ColourDetector(kinds=("ghosts",), colours=(lambda red, green, blue: red > 300,), size=16)
    with pytest.raises(DatasetError, match="shows any ghosts with 8 steps before"):
        object_fidelity(model, recording, detector=nothing)

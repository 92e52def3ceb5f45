"""The benchmark of small fireballs counts bright pixels of dreams and reality."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from toy import empty_dataset, random_episode

from dreamenv.benchmarks.fireballs import Fireballs, bright, main, measure
from dreamenv.errors import ConfigError, DatasetError
from dreamenv.presets import make_config
from dreamenv.world import Starts, World
from dreamenv.world_model import WorldModelSpec

LENGTH = 30


@pytest.fixture
def recording(tmp_path):
    """Episodes of 30 steps, in which a fireball of 4 pixels is there until the 22nd frame."""
    dataset = empty_dataset(tmp_path / "data")
    for seed in range(20):
        episode = random_episode(LENGTH, seed=seed)
        frames = np.asarray(episode.frames) // 4
        frames[:22, 5:7, 5:7] = (255, 220, 60)
        dataset.append(dataclasses.replace(episode, frames=frames))
    return dataset


def test_bright_pixels_are_yellow():
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    frames[0, 2:4, 2:5] = (255, 200, 40)
    frames[1] = 255  # white is a wall's
    frames[2, 0, 0] = (255, 160, 200)
    assert bright(frames).tolist() == [6, 0, 1]


def test_fireballs_in_dreams_are_counted_against_reality(recording, tmp_path, capsys):
    h, w, c = recording.frame_shape
    spec = WorldModelSpec(frame_shape=(c, h, w), action_space=recording.action_space, frame_rate=10.0)
    config = make_config("persistence")
    World(
        config.build(spec), config, Starts.from_dataset(recording, count=1, context=1, seed=0), recording.provenance
    ).save(tmp_path / "still")
    out = tmp_path / "fireballs.json"
    main(["--data", str(recording.path), "--worlds", str(tmp_path / "still"), "--steps", "1", "3", "--out", str(out)])
    reality, still = json.loads(out.read_text())["results"].values()
    assert reality["share"] == [0.5, 0.0]  # it is in sight at steps 20 and 21, and gone at 22
    assert still["share"] == [1.0, 1.0]
    assert reality["pixels"] == [2.0, 0.0]
    assert "50%" in capsys.readouterr().out


def test_nothing_to_count_is_refused(tmp_path):
    dark = empty_dataset(tmp_path / "dark")
    for seed in range(20):
        episode = random_episode(LENGTH, seed=seed)
        dark.append(dataclasses.replace(episode, frames=np.asarray(episode.frames) // 4))
    with pytest.raises(DatasetError, match="no fireball is in sight"):
        measure(Fireballs(data=dark.path, worlds=()))
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        Fireballs(data=dark.path, worlds=(), steps=())
    with pytest.raises(ConfigError, match="starts must be at least 1, not 0"):
        Fireballs(data=dark.path, worlds=(), starts=0)

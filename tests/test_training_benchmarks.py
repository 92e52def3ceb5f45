"""The benchmarks of fidelity and training speed run, and measure only what a world has not seen."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from test_training_resumes import settings
from toy import toy_dataset
from trainable import TrainableConfig

from dreamenv.benchmarks import fidelity, tokenizers, train_speed
from dreamenv.errors import ConfigError, DatasetError, UnknownNameError
from dreamenv.training.trainer import train
from dreamenv.world import World


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    dataset = toy_dataset(folder / "toy", 8)
    train(settings(holdout=0.3), TrainableConfig(), dataset, folder / "run")
    return dataset, folder / "run" / "world"


def test_fidelity_is_measured_on_held_out_episodes_only(trained, tmp_path, capsys):
    dataset, world = trained
    out = tmp_path / "fidelity.json"
    options = f"--horizons 1 2 --windows 5 --context 1 --inverse-steps 2 --cache {tmp_path} --into-world"
    fidelity.main(f"--world {world} --data {dataset.path} --out {out} {options}".split())
    written = json.loads(out.read_text())
    assert written["results"]["data"]["which"] == "held out"
    assert written["results"]["data"]["episodes"] == World.load(world).record["data"]["held_out_episodes"]
    assert set(written["results"]["horizons"]) == {"1", "2"}
    assert written["settings"]["windows"] == 5
    assert "PSNR (dB)" in capsys.readouterr().out
    assert "No object detector" in written["results"]["objects"]["not_measured"]
    assert set(written["results"]["actions"]["steps"]) <= {"1", "5", "15", "30"}
    assert World.load(world).metrics["actions"] == written["results"]["actions"]
    assert "How good its dreams are" in (world / "README.md").read_text()
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.height > 2 * 16


def test_a_recording_that_is_too_small_to_hold_anything_out_is_refused(trained, tmp_path):
    other = toy_dataset(tmp_path / "one", 1)
    with pytest.raises(DatasetError, match=r"1 episode, which is too small to hold anything out.*Record at least 2"):
        fidelity.measure(fidelity.Fidelity(world=str(trained[1]), data=other.path))
    with pytest.raises(ConfigError, match="into_world needs the folder"):
        fidelity.Fidelity(world="take_cover", data=other.path, into_world=True)


def test_another_recording_is_measured_whole(trained, tmp_path):
    other = toy_dataset(tmp_path / "other", 2)
    episodes, which = fidelity.held_out_of(World.load(trained[1]), other)
    assert (len(episodes), which) == (2, "all")


def test_a_world_that_saw_every_episode_is_not_measured_on_them(tmp_path):
    dataset = toy_dataset(tmp_path / "toy", 3)
    world = train(settings(holdout=0.0), TrainableConfig(), dataset, tmp_path / "run")
    with pytest.raises(DatasetError, match="another recording"):
        fidelity.held_out_of(world, dataset)


def test_training_speed_is_measured_against_a_bare_loop(tmp_path):
    results = train_speed.measure(
        train_speed.TrainSpeed(size=16, steps=1, rounds=1, device="cpu", out=tmp_path / "speed.json"), "tiny"
    )
    assert set(results["stages"]) == {"joint", "dynamics"}
    for stage in results["stages"].values():
        assert stage["frames_per_second"] > 0
        assert stage["trainer_over_bare_loop"] > 0
        assert stage["gflops_per_second"] > 0
        assert 0 < stage["share_of_matmul"]["bfloat16"] < 1
        assert stage["share_of_matmul"]["float32"] > 0


def test_tokenizers_are_compared_on_frames_that_none_learned_from(tmp_path, capsys):
    dataset, out = toy_dataset(tmp_path / "toy", 10), tmp_path / "tokenizers.json"
    options = "--tokenizers fsq context --steps 2 --windows 6 --holdout 0.5"
    tokenizers.main(f"--data {dataset.path} {options} --out {out}".split())
    written = json.loads(out.read_text())
    found = written["results"]["tokenizers"]
    assert list(found) == ["persistence", "fsq", "context", "context, own"]
    assert written["results"]["episodes"] == {"training": 5, "held_out": 5}
    assert written["settings"]["data"] == "toy"
    assert found["fsq"]["tokens"] == 4 * found["context"]["tokens"]
    assert found["fsq"]["bits"] == pytest.approx(found["fsq"]["tokens"] * np.log2(625))
    assert all(0 < entry["psnr"] <= 100 for entry in found.values())
    assert "persistence" in capsys.readouterr().out
    with pytest.raises(UnknownNameError, match="Did you mean 'fsq'"):
        tokenizers.Tokenizers(data=dataset.path, tokenizers=("fqs",))
    with pytest.raises(ConfigError, match="steps and windows must be at least 1"):
        tokenizers.Tokenizers(data=dataset.path, steps=0)

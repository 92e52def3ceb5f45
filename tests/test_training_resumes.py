"""A training that is killed resumes from its last checkpoint, and ends as if it had not been interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import toy_dataset
from trainable import TrainableConfig

from dreamenv.data.windows import WindowSampler
from dreamenv.errors import CheckpointError, StorageError
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.presets import make_config
from dreamenv.storage import seal, write_json
from dreamenv.training.checkpoint import Checkpoint, Checkpoints
from dreamenv.training.config import OptimizerConfig, TrainConfig
from dreamenv.training.trainer import train

FAST = {"checkpoint_every": 7, "log_every": 5, "eval_every": 9, "eval_windows": 2, "eval_horizon": 3, "starts": 4}


def settings(**changes):
    return TrainConfig(**{**FAST, "progress": False, "device": "cpu", "start_context": 2, **changes})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toy_dataset(tmp_path_factory.mktemp("data") / "toy", 6)


CHILD = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.windows import WindowSampler
from dreamenv.parts import part_from_json
from dreamenv.training.config import TrainConfig
from dreamenv.training.trainer import train

data, out, config, backbone, length, fatal = sys.argv[1:]
original = WindowSampler.batch

def batch(self, step, device="cpu"):
    if self.sequence_length == int(length) and step == int(fatal):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, step, device)

WindowSampler.batch = batch
train(TrainConfig.from_json(json.loads(config)), part_from_json(json.loads(backbone)), EpisodeDataset.open(data), out)
"""


def train_until_killed(dataset, out, config, backbone, *, length, step):
    child = subprocess.run(
        [
            sys.executable, "-W", "error", "-c", CHILD, str(dataset.path), str(out), json.dumps(config.to_json()),
            json.dumps(part_to_json(backbone)), str(length), str(step),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(dataset, tmp_path):
    config = settings(steps={"joint": 20, "dynamics": 20}, ema_decay=0.9)
    backbone = make_config("rssm", "tiny")
    length = backbone.training.dynamics.sequence_length
    assert backbone.training.joint.sequence_length != length
    whole = train(config, backbone, dataset, tmp_path / "whole")

    train_until_killed(dataset, tmp_path / "cut", config, backbone, length=length, step=17)
    assert sorted((tmp_path / "cut" / "checkpoints").glob("step-*"))[-1].name in ("step-00000028", "step-00000035")
    resumed = train(config, backbone, dataset, tmp_path / "cut")

    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert resumed.record["optimizer_steps"] == 40
    # The last checkpoints agree as well: optimisers, averages and random streams.
    last = [sorted((tmp_path / run / "checkpoints").glob("step-*"))[-2] for run in ("whole", "cut")]
    states = [load_file(folder / "optimizer.safetensors") for folder in last]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class Interruption(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("stop", [3, 9, 25, 36])
def test_two_objectives_dropout_and_features_resume_exactly(dataset, tmp_path, monkeypatch, stop):
    config, backbone = settings(), TrainableConfig()
    whole = train(config, backbone, dataset, tmp_path / "whole")

    class Stopper(Checkpoints):
        steps = 0

    original = WindowSampler.batch

    def batch(self, step, device="cpu"):
        if self.batch_size == backbone.batch_size and self.seed > 10**6:  # training windows, whose seed is derived
            Stopper.steps += 1
            if Stopper.steps == stop:
                raise Interruption
        return original(self, step, device)

    with monkeypatch.context() as patch:
        patch.setattr(WindowSampler, "batch", batch)
        with pytest.raises(Interruption):
            train(config, backbone, dataset, tmp_path / "cut")
    resumed = train(config, backbone, dataset, tmp_path / "cut")
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_a_finished_run_is_not_trained_again(dataset, tmp_path, monkeypatch):
    first = train(settings(), TrainableConfig(), dataset, tmp_path)
    monkeypatch.setattr(WindowSampler, "batch", lambda *_: pytest.fail("it trained again"))
    again = train(settings(), TrainableConfig(), dataset, tmp_path)
    assert again.content_hash() == first.content_hash()


def test_the_frequency_of_evaluation_does_not_change_the_weights(dataset, tmp_path):
    quiet = train(settings(eval_every=0, log_every=100), TrainableConfig(), dataset, tmp_path / "quiet")
    busy = train(settings(eval_every=3, video_every=4, log_every=1), TrainableConfig(), dataset, tmp_path / "busy")
    for name, tensor in quiet.model.state_dict().items():
        assert torch.equal(tensor, busy.model.state_dict()[name]), name


def test_resuming_with_other_settings_is_refused_and_names_them(dataset, tmp_path):
    train(settings(), TrainableConfig(), dataset, tmp_path)
    with pytest.raises(CheckpointError, match=r"train\.seed: 0 then, 1 now") as caught:
        train(settings(seed=1), TrainableConfig(), dataset, tmp_path)
    assert "resume=False" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"backbone\.width: 4 then, 8 now"):
        train(settings(), TrainableConfig(width=8), dataset, tmp_path)
    # What does not change the weights may change, and starting over is always possible.
    train(settings(log_every=1), TrainableConfig(), dataset, tmp_path)
    restarted = train(settings(seed=1), TrainableConfig(), dataset, tmp_path, resume=False)
    assert restarted.record["train_config"]["seed"] == 1


def test_resuming_on_other_data_is_refused(dataset, tmp_path):
    train(settings(), TrainableConfig(), dataset, tmp_path / "run")
    other = toy_dataset(tmp_path / "other", 3)
    with pytest.raises(CheckpointError, match="data: "):
        train(settings(), TrainableConfig(), other, tmp_path / "run")


def small_checkpoint(step):
    return Checkpoint(
        step=step,
        tensors={"model": {"weight": torch.full((3,), float(step))}, "optimizer": {"moment": torch.arange(4.0)}},
        state={"stage": 0, "stage_step": step, "seconds": 1.0, "identity": {}},
    )


def test_the_newest_two_checkpoints_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.latest() is None
    for step in (5, 10, 15):
        checkpoints.save(small_checkpoint(step))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step-00000010", "step-00000015"]
    assert checkpoints.latest().step == 15


def test_an_unfinished_checkpoint_is_ignored_and_deleted(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / ".step-00000003.part").mkdir()
    assert checkpoints.latest() is None
    checkpoints.save(small_checkpoint(5))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_skipped_in_favour_of_the_one_before(tmp_path, name):
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 10):
        checkpoints.save(small_checkpoint(step))
    file = tmp_path / "step-00000010" / name
    whole = file.read_bytes()
    middle = bytes((whole[len(whole) // 2] ^ 1,))
    for damaged in (whole[:-7], whole[: len(whole) // 2] + middle + whole[len(whole) // 2 + 1 :], b""):
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"resuming from .*step-00000005.*step-00000010/{name} is damaged"):
            assert checkpoints.latest().step == 5
    (tmp_path / "step-00000005" / name).unlink()
    with pytest.raises(CheckpointError, match=r"step-00000010.*resume=False"):
        checkpoints.latest()


def test_a_run_that_resumed_earlier_deletes_later_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 10):
        checkpoints.save(small_checkpoint(step))
    (tmp_path / "step-00000010" / "state.json").write_text("")
    checkpoints.save(small_checkpoint(8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000005", "step-00000008"]
    assert checkpoints.latest().step == 8


def test_a_checkpoint_of_a_newer_dreamenv_is_refused(tmp_path):
    folder = Checkpoints(tmp_path).save(small_checkpoint(5))
    state = json.loads((folder / "state.json").read_text())
    write_json(folder / "state.json", seal(state | {"format": 99}))
    with pytest.raises(CheckpointError, match="newer dreamenv"):
        Checkpoints(tmp_path).latest()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs more rights than this user has")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_harms_no_earlier_checkpoint(small_disk):
    checkpoints = Checkpoints(small_disk / "c")
    checkpoints.save(small_checkpoint(5))
    large = Checkpoint(step=10, tensors={"model": {"weight": torch.zeros(100_000)}}, state={})
    with pytest.raises(StorageError, match=r"step-00000010.*Free some space and run it again"):
        checkpoints.save(large)
    assert [path.name for path in (small_disk / "c").iterdir()] == ["step-00000005"]
    assert checkpoints.latest().step == 5


def test_a_disk_that_refuses_in_the_middle_of_a_run_leaves_a_run_to_resume(dataset, tmp_path, monkeypatch):
    whole = train(settings(), TrainableConfig(), dataset, tmp_path / "whole")
    rename, renamed = Path.rename, []

    def refuse(self, target):
        if self.name.startswith(".step-"):
            renamed.append(self)
            if len(renamed) == 3:
                raise OSError(28, os.strerror(28))
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(StorageError, match="No space left"):
            train(settings(), TrainableConfig(), dataset, tmp_path / "cut")
    assert not list((tmp_path / "cut" / "checkpoints").glob(".*"))
    resumed = train(settings(), TrainableConfig(), dataset, tmp_path / "cut")
    assert all(torch.equal(t, resumed.model.state_dict()[n]) for n, t in whole.model.state_dict().items())


def test_a_config_survives_json():
    config = settings(steps={"joint": 3}, optimizer=OptimizerConfig(betas=(0.8, 0.9)), num_threads=2)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert part_from_json(part_to_json(TrainableConfig(width=2))) == TrainableConfig(width=2)


def test_nothing_is_pickled(dataset, tmp_path):
    train(settings(), TrainableConfig(), dataset, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        assert path.read_bytes()[:1] != b"\x80", path  # how a pickle begins
        if zipfile.is_zipfile(path):  # torch.save makes an archive with a pickle in it, numpy one of plain arrays
            assert {Path(name).suffix for name in zipfile.ZipFile(path).namelist()} == {".npy"}, path

"""The trainer runs any model's stages, evaluates during training, and refuses clearly what it cannot do."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training_resumes import settings
from toy import empty_dataset, play, random_episode, toy_dataset
from trainable import Trainable, TrainableConfig

from dreamenv.backbones.denoising.world import DenoisingConfig
from dreamenv.benchmarks.fidelity import held_out_of
from dreamenv.codecs.conv_vae import ConvVAEConfig
from dreamenv.data.store import FrameStore
from dreamenv.errors import (
    ConfigError,
    DatasetError,
    DeviceError,
    DivergedError,
    StorageError,
)
from dreamenv.parts import part_to_json
from dreamenv.presets import make_config
from dreamenv.training import trainer
from dreamenv.training.checkpoint import Checkpoints
from dreamenv.training.config import OptimizerConfig, TrainConfig
from dreamenv.training.features import compute_features
from dreamenv.training.optimisation import WeightAverage, learning_rate, make_optimizer
from dreamenv.training.prefetch import batches
from dreamenv.training.processes import share_of_batch
from dreamenv.training.record import recorded_split
from dreamenv.training.trainer import train
from dreamenv.world import World


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toy_dataset(tmp_path_factory.mktemp("data") / "toy", 6)


@pytest.fixture
def model(dataset):
    height, width, channels = dataset.frame_shape
    from dreamenv.world_model import WorldModelSpec

    spec = WorldModelSpec(frame_shape=(channels, height, width), action_space=dataset.action_space, frame_rate=10.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Trainable(TrainableConfig(), spec)


def scalars_of(folder: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    found = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    return found | {
        tag: {e.step: e.encoded_image_string for e in events.Images(tag)} for tag in events.Tags()["images"]
    }


# What a run does


def test_a_run_leaves_a_world_scalars_videos_and_checkpoints(dataset, tmp_path):
    world = train(settings(video_every=16), TrainableConfig(), dataset, tmp_path)
    loaded = World.load(tmp_path / "world")
    assert loaded.content_hash() == world.content_hash()
    assert loaded.provenance == dataset.provenance
    assert loaded.record["optimizer_steps"] == 40
    assert loaded.record["data"]["sha256"] == dataset.content_hash()
    assert loaded.record["data"]["training_episodes"] + loaded.record["data"]["held_out_episodes"] == 6
    assert loaded.metrics["horizons"]["1"]["persistence_psnr"]["mean"] > 0
    assert loaded.metrics["termination"]["steps"] == loaded.record["data"]["held_out_steps"]

    logged = scalars_of(tmp_path / "tensorboard")
    assert {"maker/loss", "maker/error", "critic/loss", "rewards/loss", "rewards/gradient_norm"} <= set(logged)
    assert {"held_out_maker/loss", "held_out_rewards/loss", "held_out/psnr_1", "train/frames_per_second"} <= set(logged)
    assert sorted(logged["maker/loss"]) == [5, 10, 15, 20]
    assert sorted(logged["held_out/psnr_1"]) == [9, 18, 20, 27, 36, 40]
    assert sorted(logged["reality_and_dream"]) == [16, 20, 32, 40]
    assert logged["reality_and_dream"][20][:6] == b"GIF89a"
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 4
    assert not (tmp_path / "features").exists()
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000035", "step-00000040"]


def test_the_recurrent_world_generalises_to_held_out_episodes(tmp_path):
    dataset = toy_dataset(tmp_path / "toy", 24)
    config = settings(steps={"joint": 150, "dynamics": 100}, holdout=0.2, eval_every=0, checkpoint_every=1000)
    world = train(config, make_config("rssm", "tiny"), dataset, tmp_path / "run")
    losses = scalars_of(tmp_path / "run" / "tensorboard")
    held_out = losses["held_out_joint/reconstruction"]
    assert held_out[150] < 0.5 * losses["joint/reconstruction"][5]
    termination = world.metrics["termination"]
    assert termination["log_loss"] < termination["log_loss_base_rate"]


def test_a_stage_moves_its_own_parameters_only(dataset, tmp_path, model):
    after_images = train(settings(steps={"rewards": 0}), TrainableConfig(), dataset, tmp_path / "one").model
    after_both = train(settings(), TrainableConfig(), dataset, tmp_path / "two").model
    for name, tensor in after_images.state_dict().items():
        moved = not torch.equal(tensor, after_both.state_dict()[name])
        assert moved == name.startswith("reward."), name
    assert all(parameter.requires_grad for parameter in after_both.parameters())
    assert all(parameter.grad is None for parameter in after_both.parameters())


def test_a_model_is_calibrated_on_the_training_episodes(dataset, tmp_path):
    world = train(settings(), TrainableConfig(), dataset, tmp_path)
    training, _ = dataset.split(0.1, 0)
    assert float(world.model.mean_reward) == pytest.approx(FrameStore(training).statistics().reward_mean)


def test_a_model_without_stages_becomes_a_world_too(dataset, tmp_path):
    world = train(settings(), make_config("persistence"), dataset, tmp_path)
    assert world.metrics["horizons"]["1"]["psnr_gain"]["mean"] == 0.0
    assert World.load(tmp_path / "world").record["optimizer_steps"] == 0


def test_a_run_leaves_random_streams_and_threads_as_they_were(dataset, tmp_path):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(settings(num_threads=2), TrainableConfig(), dataset, tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dreamenv-batches")]


def test_all_episodes_may_be_trained_on(dataset, tmp_path):
    world = train(settings(holdout=0.0), TrainableConfig(), dataset, tmp_path)
    assert world.record["data"]["held_out_episodes"] == 0
    assert world.metrics == {}


def test_episodes_of_a_single_step_are_enough(tmp_path):
    dataset = empty_dataset(tmp_path / "short")
    for seed in range(4):
        dataset.append(random_episode(1, seed=seed))
    world = train(settings(start_context=0, holdout=0.3), TrainableConfig(), dataset, tmp_path / "run")
    assert list(world.metrics["horizons"]) == ["1"]


TWO_PROCESSES = """
import json, os, sys
import torch
torch.set_num_threads(1)
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.parts import part_from_json
from dreamenv.training.config import OptimizerConfig, TrainConfig
from dreamenv.training.trainer import train
import trainable
from dreamenv.training import compiling

compiling._FEWEST_STEPS, compiling._SHORTEST_SECONDS = 1, 0.0  # so that it is measured whether compiling pays
compiling.torch.compile = lambda method, **options: method
data, out, config, backbone = sys.argv[1:]
world = train(TrainConfig.from_json(json.loads(config)), part_from_json(json.loads(backbone)),
              EpisodeDataset.open(data), out)
total = sum(float(tensor.double().sum()) for tensor in world.model.state_dict().values())
os.write(1, f"weights {os.environ['RANK']} {total} {world.record['processes']};".encode())  # in one piece
"""


def test_two_processes_share_the_batch_and_end_with_the_same_weights(dataset, tmp_path):
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    config = settings(steps={"images": 4, "rewards": 4}, eval_every=0, checkpoint_every=100)
    arguments = [str(dataset.path), str(tmp_path / "run"), json.dumps(config.to_json())]
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *(str(tmp_path / "script.py"), *arguments, json.dumps(part_to_json(TrainableConfig()))),
        ],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    # Two processes share one output, so each writes its figures in one piece.
    lines = sorted(found.split() for found in re.findall(r"weights [^;]+(?=;)", launched.stdout))
    assert [line[1] for line in lines] == ["0", "1"]
    assert lines[0][2:] == lines[1][2:]
    assert lines[0][3] == "2"
    assert json.loads((tmp_path / "run" / "compile.json").read_text()).keys() == {"images"}


# What goes wrong


def test_a_run_that_diverges_says_so_and_keeps_the_last_good_checkpoint(dataset, tmp_path):
    with pytest.raises(DivergedError, match=r"'maker' of stage 'images'.*learning rate"):
        train(settings(log_every=50), TrainableConfig(explode_at=10), dataset, tmp_path)
    checkpoint = Checkpoints(tmp_path / "checkpoints").latest()
    assert checkpoint is not None
    assert checkpoint.step == 7
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoint.tensors["model"].values())
    assert not (tmp_path / "world").exists()


def test_an_empty_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no episodes"):
        train(settings(), TrainableConfig(), empty_dataset(tmp_path / "empty"), tmp_path / "run")


def test_a_device_that_is_not_there_is_refused(dataset, tmp_path):
    with pytest.raises(DeviceError, match="cuda:77"):
        train(settings(device="cuda:77"), TrainableConfig(), dataset, tmp_path)


def test_steps_of_an_unknown_stage_are_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"'image'.*\['images', 'rewards'\]"):
        train(settings(steps={"image": 3}), TrainableConfig(), dataset, tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "no manifest"])
def test_damaged_features_are_computed_again(dataset, tmp_path, monkeypatch, damage):
    class Stop(Exception):  # noqa: N818
        pass

    save = Checkpoints.save

    def stop_later(self, checkpoint):
        save(self, checkpoint)
        if checkpoint.step == 28:
            raise Stop

    whole = train(settings(), TrainableConfig(), dataset, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop_later)
        with pytest.raises(Stop):
            train(settings(), TrainableConfig(), dataset, tmp_path / "cut")
    file = tmp_path / "cut" / "features" / "rewards" / "features.npy"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "no manifest":
        (file.parent / "features.json").unlink()
    else:
        file.write_bytes(content[:-4] if damage == "cut" else content[:-4] + bytes((content[-4] ^ 4,)) + content[-3:])
    with pytest.warns(UserWarning, match="computed again|missing"):
        resumed = train(settings(), TrainableConfig(), dataset, tmp_path / "cut")
    assert all(torch.equal(t, resumed.model.state_dict()[n]) for n, t in whole.model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["world/model.safetensors", "world/world.json", "checkpoints/newest/model.safetensors"]
)
@pytest.mark.parametrize("gone", [True, False])
def test_a_finished_run_that_was_damaged_makes_its_world_again(dataset, tmp_path, name, gone):
    whole = train(settings(checkpoint_every=10), TrainableConfig(), dataset, tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir()).name
    file = tmp_path / name.replace("newest", newest)
    file.unlink() if gone else file.write_bytes(file.read_bytes()[:-50])
    with pytest.warns(UserWarning, match=f"{file.name} is"):
        again = train(settings(checkpoint_every=10), TrainableConfig(), dataset, tmp_path)
    for world in (again, World.load(tmp_path / "world")):
        assert all(torch.equal(t, world.model.state_dict()[n]) for n, t in whole.model.state_dict().items())


def test_stages_that_name_the_same_features_share_them(tmp_path, monkeypatch):
    computed, compute = [], trainer.compute_features

    def counted(path, *args, **kwargs):
        computed.append(path.name)
        compute(path, *args, **kwargs)

    monkeypatch.setattr(trainer, "compute_features", counted)
    dataset = toy_dataset(tmp_path / "toy", 8)
    tiny = make_config("denoising", "tiny")
    assert isinstance(tiny, DenoisingConfig)
    codec, head = ConvVAEConfig(channels=(8, 16)), dataclasses.replace(tiny.head, watches="latent")
    latent = dataclasses.replace(tiny, codec=codec, head=head, context_source="sampled")
    for name, steps in {"both": {"codec": 2}, "later": {"denoiser": 0}}.items():
        few = settings(steps={"codec": 0, "denoiser": 2, "head": 2} | steps)
        train(few, latent, dataset, tmp_path / name)
        assert not (tmp_path / name / "features").exists()
    assert computed == ["denoiser", "head"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"log_every": 0}, {"seed": -1}, {"holdout": 1.0}, {"ema_decay": -0.1}, {"starts": 0}, {"precision": "float16"},
        {"steps": {"joint": -1}}, {"num_threads": 0}, {"video_every": -1},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_decay": float("nan")}, {"epsilon": -1e-8}, {"gradient_clip": -1.0}, {"warmup_steps": -1},
        {"schedule": "linear"}, {"final_rate": 2.0},
    ],
)  # fmt: skip
def test_settings_of_the_optimizer_that_cannot_work_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OptimizerConfig(**wrong)


def test_a_batch_that_cannot_be_shared_out_is_refused():
    assert share_of_batch(12, 4) == 3
    with pytest.raises(ConfigError, match=r"10 windows .* 4 processes"):
        share_of_batch(10, 4)


# Pieces


def test_the_learning_rate_rises_then_falls_along_a_cosine(model):
    stage = dataclasses.replace(model.stages()[0], steps=1000, learning_rate=1.0)
    config = TrainConfig(optimizer=OptimizerConfig(warmup_steps=50, final_rate=0.1))
    assert learning_rate(stage, 0, config) == pytest.approx(1 / 50)
    assert learning_rate(stage, 49, config) == pytest.approx(1.0)
    assert learning_rate(stage, 525, config) == pytest.approx(0.1 + 0.9 * 0.5)  # half way, by hand
    assert learning_rate(stage, 999, config) == pytest.approx(0.1, abs=1e-4)
    assert learning_rate(stage, 999, TrainConfig(optimizer=OptimizerConfig(schedule="constant"))) == 1.0
    assert learning_rate(dataclasses.replace(stage, steps=20), 1, config) == pytest.approx(1.0)  # a tenth at most


def test_biases_and_norms_are_not_decayed(model):
    objective = model.stages()[0].objectives[0]
    optimizer = make_optimizer(objective, model.stages()[0], TrainConfig(optimizer=OptimizerConfig(weight_decay=0.3)))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(model.encode.weight)] == 0.3
    assert decay[id(model.encode.bias)] == decay[id(model.norm.weight)] == 0.0
    assert set(decay) == {id(parameter) for parameter in objective.parameters}


def test_a_later_stage_learns_from_the_weights_that_are_saved(dataset, tmp_path, monkeypatch):
    """An average replaces the encoder's weights before its features are computed, not after."""
    computed = {}

    def compute(path, frames, precompute, device, **options):
        picture = torch.from_numpy(frames[:4]).movedim(-1, 1) / 255.0
        with torch.no_grad():
            computed["saved"] = picture, precompute(picture)
        compute_features(path, frames, precompute, device, **options)

    monkeypatch.setattr(trainer, "compute_features", compute)
    world = train(settings(ema_decay=0.9), TrainableConfig(), dataset, tmp_path / "run")
    plain = train(settings(ema_decay=0.0, steps={"rewards": 0}), TrainableConfig(), dataset, tmp_path / "plain")
    picture, features = computed["saved"]
    with torch.no_grad():
        assert torch.equal(world.model.features(picture), features)
        assert not torch.allclose(plain.model.features(picture), features)


def test_the_average_covers_statistics_that_are_saved():
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(2))
            self.register_buffer("count", torch.zeros(1, dtype=torch.int64))
            self.register_buffer("table", torch.tensor([-torch.inf]), persistent=False)

    counting = Counting()
    average = WeightAverage(counting, 0.5)
    counting.mean.fill_(1.0)
    counting.count.fill_(7)
    average.update(100)
    average.swap()
    assert counting.mean.tolist() == [0.5, 0.5]
    assert counting.count.item() == 7
    assert counting.table.item() == -torch.inf
    assert set(average.tensors()) == {"mean"}


def test_the_average_of_weights_is_the_one_by_hand():
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.0)
        average = WeightAverage(layer, 0.5)
        layer.weight.fill_(1.0)
        average.update(0)  # decay 1/10: 0.1 * 0 + 0.9 * 1
        layer.weight.fill_(2.0)
        average.update(100)  # decay 0.5
    assert float(average.tensors()["weight"]) == pytest.approx(0.5 * 0.9 + 0.5 * 2.0)
    average.swap()
    assert layer.weight.item() == pytest.approx(1.45)
    average.swap()
    assert layer.weight.item() == 2.0


def test_features_are_those_of_every_frame(tmp_path, model):
    frames = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)
    compute_features(tmp_path / "f", frames, model.features, torch.device("cpu"))
    stored = np.load(tmp_path / "f" / "features.npy")
    assert stored.dtype == np.float16
    one = torch.from_numpy(frames[271]).permute(2, 0, 1)[None].float() / 255
    assert stored[271] == pytest.approx(model.features(one)[0].detach().numpy(), abs=2e-3)
    compute_features(tmp_path / "i", frames, lambda x: (x.flatten(1)[:, :2] * 255).long(), torch.device("cpu"))
    assert np.load(tmp_path / "i" / "features.npy").dtype == np.int32


def test_features_on_a_full_disk_leave_nothing_behind(tmp_path, model, monkeypatch):
    def refuse(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    with pytest.raises(StorageError, match="No space left"):
        compute_features(tmp_path / "f", frames, model.features, torch.device("cpu"))
    assert list(tmp_path.iterdir()) == []


def test_batches_come_in_order_and_errors_come_through():
    assert list(batches(lambda step: step, 3, 9)) == [3, 4, 5, 6, 7, 8]

    def fail(step):
        if step == 2:
            raise DatasetError("broken")
        return step

    with pytest.raises(DatasetError, match="broken"):
        list(batches(fail, 0, 5))


def test_training_can_continue_from_another_world(dataset, tmp_path):
    first = train(settings(), TrainableConfig(), dataset, tmp_path / "first")
    none = {stage.name: 0 for stage in first.model.stages()}
    second = train(settings(steps=none), TrainableConfig(), dataset, tmp_path / "second", initial=first)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_training_continues_only_from_a_world_of_the_same_backbone(dataset, tmp_path):
    first = train(settings(), TrainableConfig(width=3), dataset, tmp_path / "first")
    with pytest.raises(ConfigError, match="width: 3 then, 4 now"):
        train(settings(steps={}), TrainableConfig(width=4), dataset, tmp_path / "second", initial=first)


@pytest.mark.parametrize("setting", ["windows_before_reward", "starts_before_reward"])
def test_a_share_before_rewards_is_refused_before_training_where_the_recording_has_none(tmp_path, setting):
    dataset = empty_dataset(tmp_path / "toy")
    rewards = np.zeros(9)
    rewards[0] = setting == "starts_before_reward"  # no start lies before the first step of an episode
    for seed in range(3):
        dataset.append(random_episode(9, seed=seed, rewards=rewards))
    with pytest.raises(DatasetError, match=rf"{setting}=0.25 has no effect on .*toy.*leave it at 0"):
        train(settings(**{setting: 0.25}), TrainableConfig(), dataset, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize("grown", [False, True])
def test_episodes_that_were_held_out_stay_so_when_training_continues_with_another_seed(tmp_path, grown):
    dataset = toy_dataset(tmp_path / "toy", 12)
    none = {stage.name: 0 for stage in train(settings(), TrainableConfig(), dataset, tmp_path / "a").model.stages()}
    kept = set(dataset.split(0.2, 0)[1].indices.tolist())
    assert kept != set(dataset.split(0.2, 3)[1].indices.tolist())
    first = train(settings(steps=none, holdout=0.2), TrainableConfig(), dataset, tmp_path / "first")
    if grown:
        for seed in range(20, 30):
            dataset.append(play(seed))
    again = train(settings(steps=none, holdout=0.2, seed=3), TrainableConfig(), dataset, tmp_path / "b", initial=first)
    read = World.load(tmp_path / "b")
    once_more = train(
        settings(steps=none, holdout=0.2, seed=4), TrainableConfig(), dataset, tmp_path / "c", initial=read
    )
    for world in (again, once_more):
        assert recorded_split(world.record, dataset) == (0.2, 0)
        held_out, _ = held_out_of(world, dataset)
        assert kept == {index for index in held_out.indices.tolist() if index < 12}
        assert world.record["data"]["held_out_episodes"] == len(held_out)
    resumed = train(
        settings(steps=none, holdout=0.2, seed=3), TrainableConfig(), dataset, tmp_path / "b", initial=first
    )
    assert resumed.content_hash() == again.content_hash()


def test_another_share_of_the_same_recording_is_not_held_out_when_training_continues(dataset, tmp_path):
    first = train(settings(holdout=0.0), TrainableConfig(), dataset, tmp_path / "first")
    none = {stage.name: 0 for stage in first.model.stages()}
    with pytest.raises(ConfigError, match=r"holdout=0.0; 0.1 would hold out episodes that it has seen"):
        train(settings(steps=none), TrainableConfig(), dataset, tmp_path / "second", initial=first)
    assert train(settings(steps=none, holdout=0.0), TrainableConfig(), dataset, tmp_path / "second", initial=first)
    other = toy_dataset(tmp_path / "other", 6, max_episode_steps=9)
    assert recorded_split(
        train(settings(steps=none), TrainableConfig(), other, tmp_path / "third", initial=first).record, other
    ) == (0.1, 0)
    assert recorded_split(first.record, other) is None

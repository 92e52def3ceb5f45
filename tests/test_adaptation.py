"""A world adapts by a copy of itself: bounded, repeatable, an ordinary world again, and without forgetting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from tiny_worlds import TINY, TINY_LATENT
from torch import Tensor, nn
from torch.nn.utils import parametrize
from toy import ToyEnv, empty_dataset, play, random_episode, toy_dataset
from trainable import TrainableConfig

from dreamenv.backbones.grid_rssm import presets as grid_rssm
from dreamenv.backbones.persistence import PersistenceConfig
from dreamenv.backbones.rssm import presets as rssm
from dreamenv.backbones.tokens import presets as token_world
from dreamenv.cli import main
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.starts import Starts
from dreamenv.data.store import FrameStore
from dreamenv.dream import DreamEnv
from dreamenv.errors import ConfigError, DatasetError, DivergedError
from dreamenv.metrics.fidelity import dream_fidelity
from dreamenv.nn.low_rank import add_low_rank, merged_state, weights_once
from dreamenv.testing import SPEC
from dreamenv.training import AdaptConfig, TrainConfig, adapt, train
from dreamenv.training.rehearsal import dream_old_experience
from dreamenv.training.stepper import Stepper
from dreamenv.world import World
from dreamenv.world_model import BackboneConfig

FAMILIES: dict[str, BackboneConfig] = {
    "rssm": rssm.tiny(),
    "grid_rssm": grid_rssm.tiny(),
    "token_world": token_world.tiny(),
    "denoising": TINY,
    "latent_denoising": TINY_LATENT,
}
QUICK = AdaptConfig(update="low_rank", batch_size=2, dreamed_steps=40, dream_horizon=4, device="cpu", progress=False)


def inverted(path: Path, episodes: int) -> EpisodeDataset:
    """A recording of the toy environment in which dark is bright."""
    dataset = empty_dataset(path)
    for seed in range(100, 100 + episodes):
        episode = play(seed)
        dataset.append(dataclasses.replace(episode, frames=255 - episode.frames))
    return dataset


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return toy_dataset(tmp_path_factory.mktemp("old") / "data", 12)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return inverted(tmp_path_factory.mktemp("new") / "data", 6)


def world_of(config: BackboneConfig, dataset: EpisodeDataset) -> World:
    """A world with random weights, none of them 0."""
    torch.manual_seed(0)
    model = config.build(SPEC).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    starts = Starts.from_dataset(dataset, count=16, context=4, seed=0)
    return World(model, config, starts, dataset.provenance)


@pytest.fixture(params=FAMILIES)
def world(request: pytest.FixtureRequest, old: EpisodeDataset) -> World:
    return world_of(FAMILIES[request.param], old)


def weights(world: World) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in world.model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# What adapting promises, for each family of backbones


@pytest.mark.parametrize("update", ["low_rank", "heads", "all"])
def test_the_world_given_is_not_changed_and_the_result_is_an_ordinary_one(
    world: World, new: EpisodeDataset, update: Any, tmp_path: Path
) -> None:
    before, content, stream = weights(world), world.content_hash(), torch.get_rng_state()
    needs = [parameter.requires_grad for parameter in world.model.parameters()]
    adapted = adapt(world, new, 6, config=dataclasses.replace(QUICK, update=update))
    assert same(weights(world), before)
    assert world.content_hash() == content
    assert not world.model.training
    assert [parameter.requires_grad for parameter in world.model.parameters()] == needs
    assert all(parameter.grad is None for parameter in world.model.parameters())
    assert torch.equal(torch.get_rng_state(), stream)

    after = weights(adapted)
    assert {name: value.shape for name, value in after.items()} == {n: v.shape for n, v in before.items()}
    assert not same(after, before)
    assert not any(parametrize.is_parametrized(module) for module in adapted.model.modules())
    if update == "heads":
        assert {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])} == {"head"}
    adapted.save(tmp_path / "adapted")
    loaded = World.load(tmp_path / "adapted")
    assert same(weights(loaded), after)
    assert loaded.content_hash() == adapted.content_hash() != content
    env = DreamEnv(loaded, horizon=2)
    frame, _ = env.reset(seed=0)
    assert frame.mean() > 128  # it starts where the recording did, which is bright
    env.step(env.action_space.sample())


def test_the_record_says_from_what_on_what_and_how_long(world: World, new: EpisodeDataset) -> None:
    world.record = {"seconds": 1.5}
    record = adapt(world, new, 7, None, config=QUICK).record
    assert record["adapted_from"] == {"content_hash": world.content_hash(), "record": {"seconds": 1.5}}
    assert record["data"]["sha256"] == new.content_hash()
    assert record["data"]["training_steps"] == new.total_steps
    assert record["optimizer_steps"] == sum(record["steps"].values()) == 7
    assert record["adapt_config"]["update"] == "low_rank"
    assert record["replay"] is None
    assert record["seconds"] > 0


def test_no_more_gradient_steps_are_taken_than_the_budget_allows(
    world: World, new: EpisodeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    step = Stepper.step

    def counted(self: Stepper, *arguments: Any) -> None:
        taken.append(self._stage.name)
        step(self, *arguments)

    monkeypatch.setattr(Stepper, "step", counted)
    for budget in (1, 5):
        taken.clear()
        adapt(world, new, budget, config=QUICK)
        assert len(taken) == budget
    assert set(taken) <= {stage.name for stage in world.model.stages()}


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world: World, new: EpisodeDataset) -> None:
    first = adapt(world, new, 3, config=QUICK)
    torch.manual_seed(1)  # of no consequence
    assert same(weights(first), weights(adapt(world, new, 3, config=QUICK)))
    assert not same(weights(first), weights(adapt(world, new, 3, config=dataclasses.replace(QUICK, seed=1))))


def test_merged_adapters_dream_exactly_as_they_did_apart(world: World) -> None:
    model = world.config.build(SPEC).eval()
    model.load_state_dict(world.model.state_dict())
    generator = torch.Generator().manual_seed(0)
    learned = add_low_rank(model, 2, generator)
    adapters = [ones for ones in learned.values() if len(ones) == 2]
    assert adapters
    with torch.no_grad():
        for _, up in adapters:
            up.copy_(0.05 * torch.randn(up.shape, generator=generator))
        merged = world.config.build(SPEC).eval()
        merged.load_state_dict(merged_state(model))
        frame, actions = torch.rand((2, *SPEC.frame_shape), generator=generator), torch.tensor([[0, 1], [2, 1]])
        results = [one.imagine(one.start(frame, torch.arange(2)), actions)[0] for one in (model, merged)]
        plain = world.model.imagine(world.model.start(frame, torch.arange(2)), actions)[0]
    assert torch.equal(results[0].frames, results[1].frames)  # type: ignore[arg-type]
    assert torch.equal(results[0].termination, results[1].termination)
    assert not torch.equal(results[0].termination, plain.termination)


def test_an_adapter_changes_a_weight_by_no_more_than_its_rank(world: World, new: EpisodeDataset) -> None:
    adapted = weights(adapt(world, new, 8, None, config=dataclasses.replace(QUICK, rank=2, learning_rate=10.0)))
    seen = 0
    for name, before in world.model.named_parameters():
        if before.ndim > 1 and 2 * (len(before) + before[0].numel()) < before.numel():
            change = (adapted[name] - before).flatten(1).double()
            scale = float(before.detach().abs().max())
            assert int(torch.linalg.matrix_rank(change, atol=1e-5 * max(scale, 1.0))) <= 2
            seen += bool(change.abs().max() > 0)
    assert seen > 1


# Adapters by themselves


def test_weights_are_summed_once_within_a_loss_and_reach_their_adapters_even_if_first_used_without_gradients() -> None:
    layer = nn.Linear(32, 32)
    learned = add_low_rank(layer, 2)
    assert [len(ones) for ones in learned.values()] == [2, 1]  # the bias learns itself
    down, up = learned[id(layer.parametrizations["weight"].original)]  # type: ignore[index]
    with weights_once(layer):
        with torch.no_grad():
            layer(torch.ones(1, 32))
        assert layer.weight is layer.weight
        layer(torch.ones(1, 32)).sum().backward()
    assert up.grad is not None
    assert float(up.grad.abs().sum()) > 0
    assert down.grad is not None
    assert layer.weight is not layer.weight


def test_weights_that_layers_share_have_no_adapters_and_stay_shared() -> None:
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
    model[1].weight = model[0].weight
    weight = model[0].weight
    assert add_low_rank(model, 1) == {id(weight): (weight,)}


def test_convolutions_and_transposed_ones_are_adapted_too() -> None:
    for layer in (nn.Conv2d(8, 16, 3), nn.ConvTranspose2d(8, 16, 3), nn.Embedding(32, 16)):
        before = layer.weight.detach().clone()
        learned = add_low_rank(layer, 2)
        up = next(ones[1] for ones in learned.values() if len(ones) == 2)
        assert torch.equal(layer.weight, before)  # it begins as nothing
        nn.init.ones_(up)
        assert torch.linalg.matrix_rank((layer.weight - before).flatten(1)) == 1  # all rows of up are the same
        assert merged_state(layer).keys() == type(layer)(*_sizes(layer)).state_dict().keys()


def _sizes(layer: Any) -> tuple[int, ...]:
    return (32, 16) if isinstance(layer, nn.Embedding) else (8, 16, 3)


# Rehearsal


def test_dreams_to_rehearse_begin_with_the_worlds_own_starts_and_are_whole_episodes(
    world: World, old: EpisodeDataset
) -> None:
    memory = dream_old_experience(world, steps=100, horizon=6, seed=0)
    assert memory.total_steps >= 100
    starts = world.starts
    known = {frame.tobytes() for frame in (*starts.first_frames, *starts.frames.reshape(-1, *starts.frames.shape[2:]))}
    for first, length in zip(memory.starts, memory.lengths, strict=True):
        assert memory.frames[first].tobytes() in known
        assert not memory.terminated[first : first + length].any()  # but for the last step
        assert length <= starts.frames.shape[1] + 6
    assert set(np.unique(memory.actions)) <= set(np.unique(starts.actions)) | {0}
    assert np.isfinite(memory.rewards).all()
    again = dream_old_experience(world, steps=100, horizon=6, seed=0)
    assert again.frames.tobytes() == memory.frames.tobytes()
    assert dream_old_experience(world, steps=100, horizon=6, seed=1).frames.tobytes() != memory.frames.tobytes()


def test_dreams_terminate_as_often_as_the_world_says(old: EpisodeDataset) -> None:
    world = world_of(rssm.tiny(), old)
    head: Any = world.model.head  # type: ignore[union-attr]
    for bias, ended in ((-20.0, 0.0), (20.0, 1.0)):
        nn.init.zeros_(head.termination[-1].weight)
        nn.init.constant_(head.termination[-1].bias, bias)
        memory = dream_old_experience(world, steps=50, horizon=5, seed=0)
        lasts = memory.starts + memory.lengths
        assert memory.terminated[lasts].mean() == ended


@pytest.fixture(scope="module")
def trained(old: EpisodeDataset, tmp_path_factory: pytest.TempPathFactory) -> World:
    config = TrainConfig(
        steps={"joint": 120, "dynamics": 40}, ema_decay=0.0, compile="off", device="cpu", progress=False
    )
    return train(config, rssm.tiny(), old, tmp_path_factory.mktemp("trained"))


def test_rehearsal_keeps_what_was_known_and_the_new_is_learned_all_the_same(
    trained: World, old: EpisodeDataset, new: EpisodeDataset
) -> None:
    def psnr(world: World, dataset: EpisodeDataset) -> float:
        report = dream_fidelity(world.model, FrameStore(dataset), horizons=(1,), windows=24, context=2)
        return float(report["horizons"]["1"]["psnr"]["mean"])

    config = AdaptConfig(update="all", dreamed_steps=512, batch_size=8, device="cpu", progress=False)
    rehearsed, forgetful = (adapt(trained, new, 80, replay, config=config) for replay in ("dreams", None))
    assert psnr(rehearsed, old) > psnr(forgetful, old) + 1
    assert psnr(rehearsed, new) > psnr(trained, new) + 2
    assert psnr(adapt(trained, new, 80, old, config=config), old) > psnr(forgetful, old) + 1


# Bad input


def test_recordings_of_other_spaces_and_empty_ones_are_refused(old: EpisodeDataset, tmp_path: Path) -> None:
    world = world_of(rssm.tiny(), old)
    small = empty_dataset(tmp_path / "small", size=8)
    small.append(random_episode(5, size=8))
    more = EpisodeDataset.create(tmp_path / "more", ToyEnv().provenance, gym.spaces.Discrete(4), (16, 16, 3))
    more.append(random_episode(5))
    for dataset, said in (
        (small, r"\(8, 8, 3\)"),
        (more, r"Discrete\(4\)"),
        (empty_dataset(tmp_path / "empty"), "no steps"),
        ("a path", "EpisodeDataset"),
    ):
        with pytest.raises(DatasetError, match=said):
            adapt(world, dataset, 1, config=QUICK)  # type: ignore[arg-type]
        if not isinstance(dataset, str):
            with pytest.raises(DatasetError, match=said):
                adapt(world, old, 1, dataset, config=QUICK)


@pytest.mark.parametrize("budget", [0, -1, 1.5, True, "9", None])
def test_a_budget_that_is_no_positive_number_of_steps_is_refused(old: EpisodeDataset, budget: Any) -> None:
    with pytest.raises(ConfigError, match="budget"):
        adapt(world_of(rssm.tiny(), old), old, budget, config=QUICK)


def test_what_cannot_learn_or_be_replayed_is_refused(old: EpisodeDataset) -> None:
    world = world_of(rssm.tiny(), old)
    for replay in ("dream", 3, Path("x")):
        with pytest.raises(ConfigError, match="replay"):
            adapt(world, old, 1, replay, config=QUICK)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no starts"):
        adapt(dataclasses.replace(world, starts=world.starts[:0]), old, 1, config=QUICK)
    still = world_of(PersistenceConfig(), old)
    with pytest.raises(ConfigError, match="nothing"):
        adapt(still, old, 1, None, config=QUICK)
    headless = world_of(TrainableConfig(), old)
    with pytest.raises(ConfigError, match="heads"):
        adapt(headless, old, 1, None, config=dataclasses.replace(QUICK, update="heads"))
    with pytest.raises(ConfigError, match="config"):
        adapt(world, old, 1, config=TrainConfig())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"update": "some"}, {"rank": 0}, {"rank": 4, "update": "all"}, {"rank": 4, "update": "heads"},
        {"learning_rate": 0.0}, {"batch_size": 0},
        {"rehearsal": 0.0}, {"rehearsal": 1.0}, {"dreamed_steps": 0}, {"dream_horizon": 0}, {"starts": 0},
        {"start_context": -1}, {"seed": -1}, {"num_threads": 0}, {"learning_rate": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        AdaptConfig(**{"update": "low_rank"} | settings)


def test_rewards_beyond_what_the_world_can_predict_are_warned_of(old: EpisodeDataset, tmp_path: Path) -> None:
    world = world_of(rssm.tiny(), old)
    store = FrameStore(old)
    world.model.calibrate(store.statistics())  # type: ignore[operator]
    rich = empty_dataset(tmp_path / "rich")
    rich.append(dataclasses.replace(play(0), rewards=np.full(len(play(0)), 5.0)))
    with pytest.warns(UserWarning, match="rewards from 5 to 5"):
        adapt(world, rich, 1, None, config=QUICK)
    adapt(world, old, 1, None, config=QUICK)  # warnings are errors here


def test_a_world_that_diverges_is_said_to_be_unchanged(old: EpisodeDataset) -> None:
    world = world_of(TrainableConfig(explode_at=2), old)
    before = weights(world)
    with pytest.raises(DivergedError, match="unchanged"):
        adapt(world, old, 10, None, config=QUICK)
    assert same(weights(world), before)


# The command


def test_the_command_writes_an_adapted_world_and_leaves_what_is_there_alone(
    old: EpisodeDataset, new: EpisodeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world_of(rssm.tiny(), old).save(tmp_path / "world")
    arguments: Callable[[str], list[str]] = lambda replay: [  # noqa: E731
        "adapt", str(tmp_path / "world"), str(new.path), "--budget", "3", "--out", str(tmp_path / "adapted"),
        "--replay", replay, "--batch-size", "2", "--dreamed-steps", "20", "--device", "cpu", "--no-progress",
    ]  # fmt: skip
    assert main(arguments(str(old.path))) == 0
    assert "Wrote" in capsys.readouterr().out
    adapted = World.load(tmp_path / "adapted")
    assert adapted.record["optimizer_steps"] == 3
    assert adapted.record["replay"] == {"sha256": old.content_hash()}
    assert main(["info", str(tmp_path / "adapted")]) == 0
    assert "by 3 gradient steps" in capsys.readouterr().out
    assert main(arguments("none")) == 2
    assert "already" in capsys.readouterr().err
    assert World.load(tmp_path / "adapted").content_hash() == adapted.content_hash()
    for wrong, said in (("no/such/recording", "no recording"), ("dream", "no recording")):
        assert main(arguments(wrong)) == 2
        assert said in capsys.readouterr().err
    assert main(["adapt", str(tmp_path / "world"), str(new.path), "--budget", "0", "--out", "x"]) == 2
    assert "--budget must be" in capsys.readouterr().err

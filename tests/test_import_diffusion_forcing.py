"""Diffusion Forcing's video models, imported: names and shapes as published, what is kept, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from drifting import make_starts
from torch import Tensor

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.networks import Asked
from dreamenv.diffusion.objective import stabilised
from dreamenv.dream import DreamEnv
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.importers.adapter import Options, fitted, published
from dreamenv.importers.checkpoints import read_tensors
from dreamenv.importers.diffusion_forcing import NAMES, DiffusionForcingAdapter
from dreamenv.public.diffusion_forcing import DiffusionForcingSizes
from dreamenv.public.silent import SilentSizes
from dreamenv.registry import config_from_json, config_to_json
from dreamenv.world import World
from dreamenv.world_model import WorldModelSpec

PREFIX = "diffusion_model."
NET = PREFIX + "model.module."
SIZES = DiffusionForcingSizes(width=8, channels=(8, 16), heads=2, head_size=4)
SPEC = WorldModelSpec(frame_shape=(3, 16, 16), action_space=gym.spaces.Discrete(1), frame_rate=10.0)
CONFIG = DenoisingConfig(
    network="public", public=SIZES, context=3, noise="chain", schedule="sigmoid", target="velocity", sampler="ddim",
    passes=2, spread=1.0, stabilisation=14.0, quantise=False, as_drawn=True, events=SilentSizes(),
)  # fmt: skip
KEYS = Path(__file__).parent / "data" / "public" / "diffusion_forcing_keys.txt"
ROWS, FRAMES = 2, 5


def awake(config: DenoisingConfig = CONFIG, seed: int = 0):
    """A world whose every weight is random."""
    model = config.build(SPEC).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.network.named_parameters()):
            drawn = torch.randn(parameter.shape, generator=generator) * 0.1
            parameter.copy_(drawn + 1 if "normal.weight" in name else drawn)
    return model


def pooled(pooling: str) -> DenoisingConfig:
    return dataclasses.replace(CONFIG, public=dataclasses.replace(SIZES, pooling=pooling))


def sequence(model) -> tuple[Tensor, Asked]:
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand((ROWS, FRAMES, *SPEC.frame_shape), generator=generator) * 2 - 1
    noisy = torch.randn(clean.shape, generator=generator)
    level = model.process.draw(torch.rand((ROWS, FRAMES), generator=generator))
    return clean, Asked(noisy, level, torch.zeros(ROWS, FRAMES, 1))


@functools.cache
def tiny() -> dict[str, Tensor]:
    return published(awake().network, NAMES)


def checkpoint(**changes: Tensor) -> dict[str, Tensor]:
    """The tensors of a tiny published model."""
    return {**tiny(), **changes}


def recorded(model: int) -> dict[str, tuple[int, ...]]:
    lines = [line.split() for line in KEYS.read_text().splitlines() if not line.startswith("#")]
    return {PREFIX + line[0]: tuple(int(size) for size in line[1 + model].split("x")) for line in lines}


@pytest.mark.parametrize(
    ("model", "schedule", "width", "head_size", "side", "frames", "parameters"),
    [(0, "sigmoid", 64, 64, 128, 10, 34_518_499), (1, "cosine", 48, 32, 64, 16, 18_653_539)],
    ids=["minecraft", "dmlab"],
)
def test_published_names_and_shapes_are_recognised_and_come_out_again(
    model, schedule, width, head_size, side, frames, parameters
):
    shapes = recorded(model)
    assert len(shapes) == 344
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    process = dataclasses.replace(CONFIG, schedule=schedule).process
    tensors[PREFIX + "alphas_cumprod"] = process.signal[1:].float()
    architecture = DiffusionForcingAdapter().read([tensors], Options())
    config, spec = architecture.config, architecture.spec
    channels = (width, 2 * width, 4 * width, 8 * width)
    assert config.public == DiffusionForcingSizes(width=width, channels=channels, heads=4, head_size=head_size)
    assert (config.schedule, config.context, spec.frame_shape) == (schedule, frames - 1, (3, side, side))
    with torch.device("meta"):
        network = config.public.network(config, spec.frame_shape, 1)
    found = {name: tuple(tensor.shape) for name, tensor in published(network, NAMES).items()}
    assert found == {**shapes, "data_mean": (), "data_std": ()}
    # The public code counts the frequencies, which it shares and does not train, among its parameters.
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters - head_size // 2


def test_an_export_equals_the_import_bit_for_bit_also_of_what_is_not_computed_from():
    tensors = checkpoint()
    generator = torch.Generator().manual_seed(3)
    for name in (PREFIX + "snr", PREFIX + "posterior_mean_coef2", NET + "rotary_time_pos_embedding.freqs"):
        tensors[name] = torch.rand(tensors[name].shape, generator=generator)
    options = Options(size=(16, 16))
    architecture = DiffusionForcingAdapter().read([tensors], options)
    world = World(fitted(architecture), architecture.config, make_starts(4, 16, SPEC.action_space))
    written = DiffusionForcingAdapter().write(world)
    assert list(written) == ["minecraft.ckpt"]
    exported = written["minecraft.ckpt"]
    assert exported.keys() == tensors.keys()
    assert all(
        torch.equal(exported[name], tensor) and exported[name].is_contiguous() for name, tensor in tensors.items()
    )


def test_the_tensors_of_the_diffusion_alone_will_do():
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in checkpoint().items() if name.startswith(PREFIX)}
    architecture = DiffusionForcingAdapter().read([bare], Options(size=(16, 16)))
    assert architecture.tensors["network"].keys() == checkpoint().keys()


def test_a_checkpoint_of_lightning_is_read_without_its_metrics(tmp_path):
    lightning = {
        "epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.1.0", "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": None, "best_model_path": "a.ckpt"}}, "lr_schedulers": [],
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]}],
        "MixedPrecision": {"scale": 65536.0}, "state_dict": checkpoint(**{"validation_lpips_model.w": torch.ones(1)}),
    }  # fmt: skip
    torch.save(lightning, tmp_path / "minecraft.ckpt")
    tensors = read_tensors(tmp_path / "minecraft.ckpt", DiffusionForcingAdapter.prefixes)
    architecture = DiffusionForcingAdapter().read([tensors], Options(size=(16, 16), passes=3))
    assert architecture.config.passes == 3
    assert fitted(architecture).network.unet.normals == 2 * (2 * 4 + 3)


def test_settings_come_back_from_json():
    assert config_from_json(config_to_json(pooled("past"))) == pooled("past")


def test_weights_of_a_fixed_seed_say_what_they_said():
    """The public network, given these weights, says the same (see `dreamenv.benchmarks.peers.diffusion_forcing`)."""
    model = awake(dataclasses.replace(CONFIG, context=FRAMES - 1))
    clean, asked = sequence(model)
    with torch.no_grad():
        said = model.network.predict_all(clean, asked)
    expected = torch.tensor([[-0.0007487, 0.0560233, 0.1152354], [-0.2385514, 0.0917147, -0.0829450]])
    torch.testing.assert_close(said[:, ::2, 1, 3, 5], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["window", "past"])
@pytest.mark.parametrize("context", [2, 4])
def test_a_step_from_memory_equals_one_over_the_whole_sequence(pooling, context):
    """While the window stands; with what is kept, also while it slides."""
    model = awake(dataclasses.replace(pooled(pooling), context=context))
    clean, asked = sequence(model)
    shown, told = stabilised(model.process, clean, 14.0, "scaled")
    with torch.no_grad():
        past = model.network.begin(clean[:, 0])
        for i in range(1, FRAMES):
            past = model.network.remember(past, clean[:, i - 1 : i], asked.actions[:, :1])
            one = Asked(asked.noisy[:, i : i + 1], asked.level[:, i : i + 1], asked.actions[:, :1])
            found = model.network.predict(past, one)
            start = max(0, i - context) if pooling == "window" else 0
            noisy = torch.cat((shown[:, start:i], one.noisy), dim=1)
            level = torch.cat((told[:, start:i], one.level), dim=1)
            whole = model.network.predict_all(noisy, Asked(noisy, level, asked.actions[:, start : i + 1]))
            torch.testing.assert_close(found, whole[:, -1:], rtol=1e-5, atol=1e-5)
    assert past["held"].tolist() == [min(context, FRAMES - 1)] * ROWS
    assert "keys" in past if pooling == "past" else "keys" not in past


def test_several_frames_are_remembered_together_as_one_by_one():
    model = awake(pooled("past"))
    clean, asked = sequence(model)
    with torch.no_grad():
        together = model.network.remember(model.network.begin(clean[:, 0]), clean, asked.actions)
        past = model.network.begin(clean[:, 0])
        for i in range(FRAMES):
            past = model.network.remember(past, clean[:, i : i + 1], asked.actions[:, :1])
    for name, value in past.items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["window", "past"])
def test_rows_that_remember_more_or_less_are_drawn_alike_in_company(pooling):
    model = awake(pooled(pooling))
    clean, asked = sequence(model)
    one = Asked(asked.noisy[:, :1], asked.level[:, :1], asked.actions[:, :1])
    memories, alone = [], []
    with torch.no_grad():
        for row, frames in enumerate((1, 3)):
            at = slice(row, row + 1)
            past = model.network.begin(clean[at, 0])
            past = model.network.remember(past, clean[at, :frames], asked.actions[at, :frames])
            memories.append(past)
            alone.append(model.network.predict(past, Asked(one.noisy[at], one.level[at], one.actions[at])))
        past = {name: torch.cat([memory[name] for memory in memories]) for name in memories[0]}
        torch.testing.assert_close(model.network.predict(past, one), torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_as_published_a_later_frame_changes_earlier_ones_and_with_the_past_alone_it_does_not():
    changed = {}
    for pooling in ("window", "past"):
        model = awake(pooled(pooling))
        clean, asked = sequence(model)
        other = asked.noisy.clone()
        other[:, 2] += 1
        with torch.no_grad():
            before, after = (
                model.network.predict_all(clean, dataclasses.replace(asked, noisy=noisy))
                for noisy in (asked.noisy, other)
            )
        changed[pooling] = [bool((before[:, i] != after[:, i]).any()) for i in range(FRAMES)]
    assert changed == {"window": [True] * FRAMES, "past": [False, False, True, True, True]}


@pytest.mark.parametrize("pooling", ["window", "past"])
def test_every_weight_learns(pooling):
    model = awake(pooled(pooling))
    clean, asked = sequence(model)
    model.network.predict_all(clean, asked)[:, 1:].square().sum().backward()
    without = [name for name, one in model.network.named_parameters() if one.grad is None or not one.grad.any()]
    assert without == []


@pytest.mark.parametrize("pooling", ["window", "past"])
def test_rounded_weights_draw_almost_the_same_and_remember_in_full(pooling):
    found = []
    for rounded in (False, True):
        model = awake(pooled(pooling))
        if rounded:
            model.store_in_bfloat16()
        first, nothing = torch.rand(1, *SPEC.frame_shape, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 2)
        with torch.no_grad():
            state = model.start(first, torch.zeros(1, dtype=torch.int64))
            imagined, state = model.imagine(state, nothing.long())
        assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
        found.append(imagined.frames)
    assert 0 < float((found[1] - found[0]).abs().mean()) < 0.1 * float(found[0].std())


@pytest.mark.parametrize("pooling", ["window", "past"])
def test_an_imported_world_is_an_environment(pooling, tmp_path):
    architecture = DiffusionForcingAdapter().read([checkpoint()], Options(size=(16, 16), passes=2))
    assert any("no actions" in note for note in architecture.notes)
    model = fitted(architecture)
    world = World(model, architecture.config, make_starts(4, 16, SPEC.action_space))
    world = world.replaced(public=dataclasses.replace(architecture.config.public, pooling=pooling), context=4)
    world.save(tmp_path / "world")
    assert not model.spec.predicts_rewards
    env = DreamEnv(World.load(tmp_path / "world"), horizon=3, reward_fn=lambda frames, actions: frames.mean((1, 2, 3)))
    assert env.action_space == gym.spaces.Discrete(1)
    first, _ = env.reset(seed=0)
    steps = [env.step(0) for _ in range(3)]
    assert [step[3] for step in steps] == [False, False, True]
    assert any((step[0] != first).any() for step in steps)


def test_context_keeps_what_was_drawn_beyond_what_can_be_shown():
    found = {}
    for as_drawn in (False, True):
        model = awake(dataclasses.replace(CONFIG, as_drawn=as_drawn))
        with torch.no_grad():
            state = model.start(torch.rand(1, *SPEC.frame_shape), torch.zeros(1, dtype=torch.int64))
            imagined, state = model.imagine(state, torch.zeros(1, 1, dtype=torch.int64))
        assert 0 <= float(imagined.frames.min()) <= float(imagined.frames.max()) <= 1
        found[as_drawn] = float(state["frames"][:, -1].abs().max())
    assert found[False] == 1 < found[True]


def replaced(name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    tensors = checkpoint()
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    return tensors


@pytest.mark.parametrize(
    ("files", "options", "named"),
    [
        ([], Options(), "one checkpoint, not 0 files"),
        ([{}, {}], Options(), "one checkpoint, not 2 files"),
        ([{"x_embedder.proj.weight": torch.ones(1)}], Options(), "no video model of Diffusion Forcing.*begins with"),
        ([{PREFIX + "model.transformer.layers.0.norm1.bias": torch.ones(1)}], Options(), "planner"),
        ([replaced(PREFIX + "alphas_cumprod", torch.rand(500))], Options(), r"\(500,\); only chains of 1000"),
        ([replaced(PREFIX + "alphas_cumprod", torch.rand(1000))], Options(), "none of the noise schedules sigmoid"),
        ([replaced("data_mean", torch.tensor(0.4))], Options(), r"data_mean is 0.4.*in \[-1, 1\]"),
        ([replaced("data_std", torch.ones(3))], Options(), "data_std is"),
        ([replaced(NET + "init_conv.weight", torch.ones(8, 12, 1, 7, 7))], Options(), "takes 12 channels"),
        ([replaced(NET + "init_conv.weight", torch.ones(8))], Options(), "would have to have 5 axes"),
        ([replaced(NET + "init_conv.weight", torch.ones(9, 3, 1, 7, 7))], Options(), "sizes that cannot be.*9"),
        ([replaced(NET + "rotary_time_pos_embedding.freqs", None)], Options(), "freqs is missing"),
        ([replaced(NET + "rotary_time_pos_embedding.freqs", torch.ones(5))], Options(), "cannot be of heads of 10"),
        ([checkpoint()], Options(heads=3), "2 heads, not 3"),
        ([checkpoint()], Options(size=(16, 15)), "16 x 15 cannot be drawn.*multiples of 2"),
        ([checkpoint()], Options(actions="minecraft"), "no actions 'minecraft'.*only choice is 'nothing'"),
        ([checkpoint()], Options(passes=1001), "from 1 to 1000.*not 1001"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_what_would_do(files, options, named):
    with pytest.raises(WeightsError, match=f"(?s){named}"):
        DiffusionForcingAdapter().read(files, options)


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        (replaced(NET + "mid_block.0.in_layers.0.bias", None), "missing: .*mid_block.0.in_layers.0.bias"),
        (replaced(NET + "down_blocks.0.0.4.weight", torch.ones(1)), "one too many: .*down_blocks.0.0.4"),
        (replaced(NET + "out.1.bias", torch.ones(4)), r"out.1.bias is \(4,\).*would have to be \(3,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tensors, named):
    architecture = DiffusionForcingAdapter().read([tensors], Options(size=(16, 16)))
    with pytest.raises(WeightsError, match=named):
        fitted(architecture)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: DiffusionForcingSizes(channels=(8, 12)), "multiples of 8"),
        (lambda: DiffusionForcingSizes(head_size=5), "head_size even"),
        (lambda: DiffusionForcingSizes(pooling="none"), "'window' or 'past'"),
        (lambda: SIZES.vectors(gym.spaces.Discrete(2)), r"must be Discrete\(1\)"),
        (lambda: SIZES.network(dataclasses.replace(CONFIG, noise="flow", target="flow"), (3, 16, 16), 1), "'chain'"),
        (lambda: SIZES.network(CONFIG, (3, 15, 16), 1), "15 x 16 are no multiple of 2"),
        (lambda: dataclasses.replace(CONFIG, quantise=True), "quantise=False"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


def test_only_a_world_of_this_network_is_written():
    config = DenoisingConfig(channels=(8,), blocks=1, condition=8, memory=8, event_channels=(8,))
    world = World(config.build(SPEC), config, make_starts(4, 16, SPEC.action_space))
    with pytest.raises(WeightsError, match="no network of Diffusion Forcing"):
        DiffusionForcingAdapter().write(world)

"""Diffusion Forcing's weights become a world, and come back unchanged."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import pytest
import torch
from drifting import make_starts
from tiny_diffusion_forcing import (
    CONFIG,
    PREFIX,
    PROCESS,
    SHAPE,
    SIZES,
    SPEC,
    awake,
    checkpoint,
    pooled,
    recorded,
    tiny,
    tiny_network,
)

from dreamenv.denoisers.base import DenoiserShape
from dreamenv.denoisers.diffusion_forcing import DiffusionForcingConfig
from dreamenv.dream import DreamEnv
from dreamenv.importers.adapter import Options, load_weights, to_published
from dreamenv.importers.checkpoints import read_tensors
from dreamenv.importers.diffusion_forcing import NAMES, DiffusionForcingAdapter, checkpoint_tensors
from dreamenv.importers.noise_tables import noise_tables
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.world import World


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
    tensors = {
        name: torch.zeros(shape) if name.endswith(".freqs") else torch.empty(shape, device="meta")
        for name, shape in shapes.items()
    }
    process = dataclasses.replace(PROCESS, schedule=schedule)
    tensors |= {PREFIX + name: table for name, table in noise_tables(process).items()}
    architecture = DiffusionForcingAdapter().read([tensors], Options())
    config, spec = architecture.config, architecture.spec
    channels = (width, 2 * width, 4 * width, 8 * width)
    assert config.denoiser == DiffusionForcingConfig(
        context=frames - 1, width=width, channels=channels, heads=4, head_size=head_size
    )
    assert (config.process, spec.frame_shape) == (process, (3, side, side))
    with torch.device("meta"):
        network = config.denoiser.build(DenoiserShape(frame_shape=spec.frame_shape, discrete=(True,)))
    found = {name: tuple(tensor.shape) for name, tensor in checkpoint_tensors(network, process).items()}
    assert found == {**shapes, "data_mean": (), "data_std": ()}
    # The public code counts the frequencies, which it shares and does not train, among its parameters.
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters - head_size // 2


def test_an_export_equals_the_import_bit_for_bit():
    speeds = torch.rand(2, generator=torch.Generator().manual_seed(3))
    tensors = {name: speeds if name.endswith(".freqs") else tensor for name, tensor in tiny().items()}
    options = Options(size=(16, 16))
    architecture = DiffusionForcingAdapter().read([tensors], options)
    world = World(load_weights(architecture), architecture.config, make_starts(4, 16, SPEC.action_space))
    written = DiffusionForcingAdapter().write(world)
    assert list(written) == ["minecraft.ckpt"]
    exported = written["minecraft.ckpt"]
    assert exported.keys() == tensors.keys()
    assert all(
        torch.equal(exported[name], tensor) and exported[name].is_contiguous() for name, tensor in tensors.items()
    )


def test_tables_that_nothing_is_computed_from_are_no_part_of_a_world():
    model = awake()
    assert {name for name, _ in model.denoiser.named_buffers()} == {"unet.rotary_speeds"}
    assert len(to_published(model.denoiser, NAMES)) == len(model.denoiser.state_dict())


def test_tables_computed_in_part_in_float32_pass_for_those_of_the_schedule():
    """As the public code computes the sigmoid one."""
    time = torch.linspace(0, 1000, 1001, dtype=torch.float64) / 1000
    start, end = torch.tensor(-3.0).sigmoid(), torch.tensor(3.0).sigmoid()
    alpha2 = (end - (6 * time - 3).sigmoid()) / (end - start)
    alpha2 = alpha2 / alpha2[0]
    betas = (1 - alpha2[1:] / alpha2[:-1]).clamp(0, 0.999)
    alpha2 = (1 - betas).cumprod(0)
    snr = alpha2 / (1 - alpha2)
    own = {"betas": betas, "alphas_cumprod": alpha2, "sqrt_recipm1_alphas_cumprod": (1 / alpha2 - 1).sqrt(), "snr": snr}
    assert any(not torch.equal(table.float(), tiny()[PREFIX + name]) for name, table in own.items())
    tensors = checkpoint(**{PREFIX + name: table.float() for name, table in own.items()})
    assert DiffusionForcingAdapter().read([tensors], Options(size=(16, 16))).config.process == PROCESS


def test_the_tensors_of_the_diffusion_alone_will_do():
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in checkpoint().items() if name.startswith(PREFIX)}
    architecture = DiffusionForcingAdapter().read([bare], Options(size=(16, 16)))
    assert architecture.tensors["denoiser"].keys() == to_published(tiny_network(), NAMES).keys()


def test_a_checkpoint_of_lightning_is_read_without_its_metrics(tmp_path):
    lightning = {
        "epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.1.0", "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": None, "best_model_path": "a.ckpt"}}, "lr_schedulers": [],
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]}],
        "MixedPrecision": {"scale": 65536.0}, "state_dict": checkpoint(**{"validation_lpips_model.w": torch.ones(1)}),
    }  # fmt: skip
    torch.save(lightning, tmp_path / "minecraft.ckpt")
    tensors = read_tensors(tmp_path / "minecraft.ckpt", DiffusionForcingAdapter.prefixes)
    architecture = DiffusionForcingAdapter().read([tensors], Options(size=(16, 16), sampling_steps=3))
    assert architecture.config.sampler.steps == 3
    assert load_weights(architecture).denoiser.unet.norms == 2 * (2 * 4 + 3)


def test_settings_come_back_from_json():
    assert part_from_json(part_to_json(pooled("past"))) == pooled("past")


@pytest.mark.parametrize("pooling", ["window", "past"])
def test_an_imported_world_is_an_environment(pooling, tmp_path):
    architecture = DiffusionForcingAdapter().read([checkpoint()], Options(size=(16, 16), sampling_steps=2))
    assert any("no actions" in note for note in architecture.notes)
    model = load_weights(architecture)
    world = World(model, architecture.config, make_starts(4, 16, SPEC.action_space))
    world = world.replaced(denoiser=dataclasses.replace(architecture.config.denoiser, pooling=pooling, context=4))
    world.save(tmp_path / "world")
    assert not model.spec.predicts_rewards
    env = DreamEnv(World.load(tmp_path / "world"), horizon=3, reward_fn=lambda frames, actions: frames.mean((1, 2, 3)))
    assert env.action_space == gym.spaces.Discrete(1)
    first, _ = env.reset(seed=0)
    steps = [env.step(0) for _ in range(3)]
    assert [step[3] for step in steps] == [False, False, True]
    assert any((step[0] != first).any() for step in steps)


def test_context_keeps_what_was_sampled_beyond_what_can_be_shown():
    found, (alpha, _) = {}, PROCESS.alpha_sigma(torch.tensor(14.0))
    for source in ("sampled", "decoded"):
        model = awake(dataclasses.replace(CONFIG, context_source=source))
        with torch.no_grad():
            state = model.start(torch.rand(1, *SPEC.frame_shape), torch.zeros(1, dtype=torch.int64))
            imagined, state = model.imagine(state, torch.zeros(1, 1, dtype=torch.int64))
        assert 0 <= float(imagined.frames.min()) <= float(imagined.frames.max()) <= 1
        found[source] = float((state["frames"][:, -1] / alpha).abs().max())
        assert state["times"][:, -2:].tolist() == [[14.0, 14.0]]
    assert found["decoded"] == pytest.approx(1)
    assert found["sampled"] > 1.001


CHANGES = {"context": 2, "width": 16, "channels": (8, 8), "heads": 1, "head_size": 8, "pooling": "past"}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(DiffusionForcingConfig)])
def test_every_setting_has_an_effect(name):
    def shapes(config: DiffusionForcingConfig) -> dict[str, torch.Size]:
        network = config.build(SHAPE)
        tensors = {**network.init_cache(torch.zeros(1, *SHAPE.frame_shape)), **network.state_dict()}
        return {name: tensor.shape for name, tensor in tensors.items()}

    assert shapes(dataclasses.replace(SIZES, **{name: CHANGES[name]})) != shapes(SIZES)

"""Diffusion Forcing's video models, imported: names and shapes as published, what is kept, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_starts
from torch import Tensor, nn

from dreamenv.backbones.denoising import DenoisingConfig
from dreamenv.denoisers.base import DenoiserInput, DenoiserShape
from dreamenv.denoisers.diffusion_forcing import DiffusionForcingConfig
from dreamenv.denoisers.unet import UNetConfig
from dreamenv.diffusion.context_noise import Stabilization
from dreamenv.diffusion.process import RectifiedFlow, VariancePreserving
from dreamenv.diffusion.sampler import DDIM
from dreamenv.diffusion.target import FlowVelocity, Velocity
from dreamenv.dream import DreamEnv
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.heads.no_reward import NoRewardHeadConfig
from dreamenv.importers.adapter import Options, load_weights, to_published
from dreamenv.importers.checkpoints import read_tensors
from dreamenv.importers.diffusion_forcing import NAMES, DiffusionForcingAdapter, checkpoint_tensors
from dreamenv.importers.noise_tables import noise_tables
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.world import World
from dreamenv.world_model import WorldModelSpec

PREFIX = "diffusion_model."
NET = PREFIX + "model.module."
SIZES = DiffusionForcingConfig(context=3, width=8, channels=(8, 16), heads=2, head_size=4)
SHAPE = DenoiserShape(frame_shape=(3, 16, 16), discrete=(True,))
SPEC = WorldModelSpec(frame_shape=SHAPE.frame_shape, action_space=gym.spaces.Discrete(1), frame_rate=10.0)
PROCESS = VariancePreserving(schedule="sigmoid", time_scale=1000.0)
CONTEXT_NOISE = Stabilization(stabilization_level=14.0)
CONFIG = DenoisingConfig(
    denoiser=SIZES, process=PROCESS, target=Velocity(), sampler=DDIM(steps=2, init_noise_sigma=1.0),
    context_noise=CONTEXT_NOISE, quantize_frames=False, head=NoRewardHeadConfig(),
)  # fmt: skip
KEYS = Path(__file__).parent / "data" / "public" / "diffusion_forcing_keys.txt"
TIME_SPEEDS = "mid_block.2.wrapper.module.attn_block.attn.rotary_emb.freqs"
ROWS, FRAMES = 2, 5


def normal(random: np.random.Generator, *size: int) -> Tensor:
    """Random numbers that are the same on every processor, which torch's are not."""
    return torch.from_numpy(random.standard_normal(size)).to(torch.get_default_dtype())


def randomised(network: nn.Module) -> nn.Module:
    random = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            drawn = 0.1 * normal(random, *parameter.shape)
            parameter.copy_(drawn + 1 if ".norm1.weight" in name or ".norm2.weight" in name else drawn)
    return network.eval()


def awake(config: DenoisingConfig = CONFIG):
    """A world whose every weight is random."""
    model = config.build(SPEC).eval()
    randomised(model.denoiser)
    return model


def tiny_network(**changes) -> nn.Module:
    return randomised(dataclasses.replace(SIZES, **changes).build(SHAPE))


def pooled(pooling: str) -> DenoisingConfig:
    return dataclasses.replace(CONFIG, denoiser=dataclasses.replace(SIZES, pooling=pooling))


@functools.cache
def tiny() -> dict[str, Tensor]:
    return checkpoint_tensors(tiny_network(), PROCESS)


def checkpoint(**changes: Tensor) -> dict[str, Tensor]:
    """The tensors of a tiny published model."""
    return {**tiny(), **changes}


@dataclasses.dataclass
class Sequence:
    """Clean frames as they are presented, and noisy ones."""

    context: DenoiserInput
    noisy: DenoiserInput

    def past(self, start: int, stop: int, rows: slice = slice(None)) -> DenoiserInput:
        return part(self.context, rows, slice(start, stop))

    def now(self, at: int, rows: slice = slice(None)) -> DenoiserInput:
        return part(self.noisy, rows, slice(at, at + 1))

    def mixed(self, start: int, at: int) -> DenoiserInput:
        """Context from one frame on, and the noisy frame after it."""
        parts = zip(values(self.past(start, at)), values(self.now(at)), strict=True)
        return DenoiserInput(*(torch.cat(pair, dim=1) for pair in parts))


def values(given: DenoiserInput) -> tuple[Tensor, Tensor, Tensor]:
    return given.frames, given.time, given.actions


def part(given: DenoiserInput, rows: slice, frames: slice) -> DenoiserInput:
    return DenoiserInput(*(value[rows, frames] for value in values(given)))


def sequence() -> Sequence:
    random = np.random.default_rng(1)
    clean, noisy = normal(random, 2, ROWS, FRAMES, *SHAPE.frame_shape).unbind(0)
    frames, level = CONTEXT_NOISE.present(PROCESS, clean.clamp(-1, 1))
    time = torch.from_numpy(random.integers(1000, size=level.shape)).to(clean.dtype)
    nothing = torch.zeros(*level.shape, 1)
    return Sequence(DenoiserInput(frames, level.to(clean.dtype), nothing), DenoiserInput(noisy, time, nothing))


def recorded(model: int) -> dict[str, tuple[int, ...]]:
    lines = [line.split() for line in KEYS.read_text().splitlines() if not line.startswith("#")]
    return {PREFIX + line[0]: tuple(int(size) for size in line[1 + model].split("x")) for line in lines}


@pytest.fixture
def float64():
    """Let everything be made and computed in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


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


@pytest.mark.usefixtures("float64")
def test_outputs_are_those_of_the_public_code():
    """Written down when the public network, given the same weights in float64, gave the same but for 2e-15.

    Weights and inputs are the same on every processor, and float64 has 16 digits, of which a thousand additions in
    another order leave 12 or more; 12 are written down.
    """
    given = sequence().noisy
    with torch.no_grad():
        output = tiny_network(context=FRAMES - 1).forward_sequence(given, given)
    expected = torch.tensor(
        [[0.160870140459, -0.006664636567, 0.180807615966], [-0.029239318017, 0.443280790202, 0.376892688196]]
    )
    torch.testing.assert_close(output[:, ::2, 1, 3, 5], expected, rtol=0, atol=1e-11)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("pooling", ["window", "past"])
@pytest.mark.parametrize("context", [2, 4])
def test_a_cached_step_equals_one_over_the_whole_sequence(pooling, context):
    """While the window stands; with what is kept, also while it slides."""
    network, given = tiny_network(pooling=pooling, context=context), sequence()
    with torch.no_grad():
        cache = network.init_cache(given.context.frames[:, 0])
        for i in range(1, FRAMES):
            cache = network.update_cache(cache, given.past(i - 1, i))
            found = network.forward_cached(cache, given.now(i))
            mixed = given.mixed(max(0, i - context) if pooling == "window" else 0, i)
            whole = network.forward_sequence(mixed, mixed)
            torch.testing.assert_close(found, whole[:, -1:], rtol=1e-9, atol=1e-9)
    assert cache["length"].tolist() == [min(context, FRAMES - 1)] * ROWS
    assert "keys" in cache if pooling == "past" else "keys" not in cache


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("pooling", ["window", "past"])
def test_several_frames_are_taken_in_together_as_one_by_one(pooling):
    network, given = tiny_network(pooling=pooling), sequence()
    with torch.no_grad():
        together = network.update_cache(network.init_cache(given.context.frames[:, 0]), given.context)
        cache = network.init_cache(given.context.frames[:, 0])
        for i in range(FRAMES):
            cache = network.update_cache(cache, given.past(i, i + 1))
    assert together.keys() == cache.keys()
    for name, value in cache.items():
        torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("pooling", ["window", "past"])
def test_rows_with_more_or_less_of_a_past_are_predicted_alike_in_company(pooling):
    network, given = tiny_network(pooling=pooling), sequence()
    caches, alone = [], []
    with torch.no_grad():
        for row, frames in enumerate((1, 3)):
            at = slice(row, row + 1)
            cache = network.init_cache(given.context.frames[at, 0])
            cache = network.update_cache(cache, given.past(0, frames, at))
            caches.append(cache)
            alone.append(network.forward_cached(cache, given.now(0, at)))
        cache = {name: torch.cat([one[name] for one in caches]) for name in caches[0]}
        found = network.forward_cached(cache, given.now(0))
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-9, atol=1e-9)


def test_as_published_a_later_frame_changes_earlier_ones_and_with_the_past_alone_it_does_not():
    changed, given = {}, sequence().noisy
    other = given.frames.clone()
    other[:, 2] += 1
    for pooling in ("window", "past"):
        network = tiny_network(pooling=pooling)
        with torch.no_grad():
            before, after = (
                network.forward_sequence(given, dataclasses.replace(given, frames=frames))
                for frames in (given.frames, other)
            )
        changed[pooling] = [bool((before[:, i] != after[:, i]).any()) for i in range(FRAMES)]
    assert changed == {"window": [True] * FRAMES, "past": [False, False, True, True, True]}


@pytest.mark.parametrize("pooling", ["window", "past"])
def test_every_weight_learns(pooling):
    network, given = tiny_network(pooling=pooling), sequence().noisy
    network.forward_sequence(given, given)[:, 1:].square().sum().backward()
    without = [name for name, one in network.named_parameters() if one.grad is None or not one.grad.any()]
    assert without == []


@pytest.mark.parametrize("pooling", ["window", "past"])
def test_rounded_weights_predict_almost_the_same_and_remember_in_full(pooling):
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
        ([replaced(NET + TIME_SPEEDS, torch.rand(2))], Options(), "mid_block.2.*freqs is not the table"),
        ([replaced(PREFIX + "snr", torch.rand(1000))], Options(), "snr is not what follows from.*'sigmoid'"),
        ([replaced(PREFIX + "snr", torch.rand(10))], Options(), "snr is not what follows"),
        ([replaced(PREFIX + "posterior_variance", None)], Options(), "posterior_variance is missing"),
        ([replaced(NET + "rotary_time_pos_embedding.freqs", torch.ones(5))], Options(), "cannot be of heads of 10"),
        ([checkpoint()], Options(heads=3), "2 heads, not 3"),
        ([checkpoint()], Options(size=(16, 15)), "16 x 15 cannot be.*multiples of 2"),
        ([checkpoint()], Options(actions="minecraft"), "no actions 'minecraft'.*only choice is 'nothing'"),
        ([checkpoint()], Options(sampling_steps=1001), "from 1 to 1000.*not 1001"),
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
        load_weights(architecture)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: DiffusionForcingConfig(channels=(8, 12)), "multiples of 8"),
        (lambda: DiffusionForcingConfig(head_size=5), "head_size even"),
        (lambda: DiffusionForcingConfig(pooling="none"), "'window' or 'past'"),
        (lambda: DiffusionForcingConfig(context=0), "context must be at least 1"),
        (lambda: SIZES.action_encoder(gym.spaces.Discrete(2)), r"must be Discrete\(1\)"),
        (lambda: dataclasses.replace(CONFIG, process=RectifiedFlow(), target=FlowVelocity()), "made for 'vp' noise"),
        (lambda: SIZES.build(dataclasses.replace(SHAPE, frame_shape=(3, 15, 16))), "15 x 16 are no multiple of 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


CHANGES = {"context": 2, "width": 16, "channels": (8, 8), "heads": 1, "head_size": 8, "pooling": "past"}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(DiffusionForcingConfig)])
def test_every_setting_has_an_effect(name):
    def shapes(config: DiffusionForcingConfig) -> dict[str, torch.Size]:
        network = config.build(SHAPE)
        tensors = {**network.init_cache(torch.zeros(1, *SHAPE.frame_shape)), **network.state_dict()}
        return {name: tensor.shape for name, tensor in tensors.items()}

    assert shapes(dataclasses.replace(SIZES, **{name: CHANGES[name]})) != shapes(SIZES)


def test_only_a_world_of_this_network_is_written():
    config = DenoisingConfig(denoiser=UNetConfig(channels=(8,), blocks=1, embed_dim=8), head=NoRewardHeadConfig())
    world = World(config.build(SPEC), config, make_starts(4, 16, SPEC.action_space))
    with pytest.raises(WeightsError, match="no denoiser of Diffusion Forcing"):
        DiffusionForcingAdapter().write(world)

"""Oasis's weights become a world and leave it again unchanged; what it computes; what it refuses."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_starts, make_world
from gymnasium.utils.env_checker import check_env
from torch import Tensor, nn

from dreamenv.backbones.denoising import DenoiserTraining
from dreamenv.codecs.oasis_vae import OasisVAEConfig
from dreamenv.commands.info import describe
from dreamenv.data.readers.minecraft import ACTION_KEYS, action_space
from dreamenv.denoisers.base import DenoiserInput, DenoiserShape
from dreamenv.denoisers.oasis import OasisConfig
from dreamenv.denoisers.oasis_actions import KeyVectors, minerl_space, native_vector
from dreamenv.dream import DreamEnv
from dreamenv.envs.minerl.tasks import MINERL_TASKS
from dreamenv.errors import ConfigError, UnknownNameError, WeightsError
from dreamenv.importers.adapter import Options, load_weights, to_published
from dreamenv.importers.oasis import OasisAdapter
from dreamenv.importers.rewards import with_rewards
from dreamenv.nn.pair_rotary import time_speeds
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.world import World
from dreamenv.world_model import Batch

KEYS = Path(__file__).parent / "data" / "public" / "oasis_keys.txt"
SIZE = (16, 32)
OPTIONS = Options(size=SIZE, heads=2, sampling_steps=2)
NETWORK, CODEC = "oasis500m.safetensors", "vit-l-20.safetensors"
SPACE, TIME = "blocks.0.s_attn.rotary_emb.freqs", "blocks.0.t_attn.rotary_emb.freqs"
DENOISER = OasisConfig(width=16, depth=2, heads=2)
VAE = OasisVAEConfig(
    patch=4, latent_channels=4, encoder_width=32, encoder_depth=1, encoder_heads=2,
    decoder_width=32, decoder_depth=2, decoder_heads=2,
)  # fmt: skip
adapter = OasisAdapter()


def shape(latent: int = 4, rows: int = 4, columns: int = 8) -> DenoiserShape:
    return DenoiserShape(frame_shape=(latent, rows, columns), discrete=(True,) * 25)


def recorded(part: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes that were recorded of the public modules."""
    found = {}
    for line in KEYS.read_text().splitlines()[1:]:
        where, count, name, *size = line.split()
        if where == part:
            found |= {name.replace("*", str(i)): tuple(map(int, size)) for i in range(int(count))}
    return found


def normal(random: np.random.Generator, *size: int) -> Tensor:
    """Random numbers that are the same on every processor, which torch's are not."""
    return torch.from_numpy(random.standard_normal(size)).to(torch.get_default_dtype())


def randomised(module: nn.Module, seed: int) -> nn.Module:
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * normal(random, *parameter.shape))
    return module


def tiny_network(**changes) -> nn.Module:
    return randomised(dataclasses.replace(DENOISER, **changes).build(shape()), 0).eval()


def tiny_files(latent: int = 4) -> list[dict[str, Tensor]]:
    """Random weights of a tiny network and a tiny codec, as they would be published."""
    network = randomised(DENOISER.build(shape(latent)), seed=0)
    autoencoder = randomised(dataclasses.replace(VAE, latent_channels=latent).build((3, *SIZE)), seed=1)
    names = published_size().names
    return [to_published(network, names["denoiser"]), to_published(autoencoder, names["codec.autoencoder"])]


@functools.cache
def published_size():
    """What the adapter reads from tensors of the published shapes, which hold no values but for rotary speeds."""
    files = [
        {
            name: torch.zeros(size) if name.endswith(".freqs") else torch.empty(size, device="meta")
            for name, size in recorded(part).items()
        }
        for part in ("network", "codec")
    ]
    return adapter.read(files, Options())


def tiny_world(actions: str | None = None, context: int = 31, **changes) -> World:
    """A world of them; changes are of its denoiser."""
    architecture = adapter.read(tiny_files(), dataclasses.replace(OPTIONS, actions=actions))
    denoiser = dataclasses.replace(architecture.config.denoiser, context=context, **changes)
    config = dataclasses.replace(
        architecture.config, denoiser=denoiser, training=DenoiserTraining(sequence_length=context)
    )
    model = load_weights(dataclasses.replace(architecture, config=config))
    starts = make_starts(4, 16, architecture.spec.action_space)
    wide = {
        "first_frames": np.concatenate([starts.first_frames] * 2, axis=2),
        "frames": np.concatenate([starts.frames] * 2, axis=3),
    }
    return World(model, config, dataclasses.replace(starts, **wide), architecture.provenance)


def restarting(world: World) -> World:
    return world.replaced(denoiser=dataclasses.replace(world.config.denoiser, window="restarts"))


@dataclasses.dataclass
class Sequence:
    """Clean latents as they are presented, under the label of a noise level, noisy ones, and actions."""

    clean: Tensor
    noisy: Tensor
    time: Tensor
    actions: Tensor

    def context(self, start: int, stop: int, rows: slice = slice(None)) -> DenoiserInput:
        frames = self.clean[rows, start:stop]
        return DenoiserInput(frames, torch.full(frames.shape[:2], 14.0), self.actions[rows, start:stop])

    def given(self, start: int, stop: int, rows: slice = slice(None)) -> DenoiserInput:
        at = rows, slice(start, stop)
        return DenoiserInput(self.noisy[at], self.time[at], self.actions[at])

    def mixed(self, start: int, at: int, rows: slice = slice(None)) -> DenoiserInput:
        """Context from one frame on, and the noisy frame after it."""
        past, now = self.context(start, at, rows), self.given(at, at + 1, rows)
        return DenoiserInput(
            *(torch.cat((getattr(past, n), getattr(now, n)), dim=1) for n in ("frames", "time", "actions"))
        )


def sequence(rows: int = 2, frames: int = 7) -> Sequence:
    random = np.random.default_rng(5)
    clean, noisy = normal(random, 2, rows, frames, 4, 4, 8).unbind(0)
    time = torch.from_numpy(random.integers(1000, size=(rows, frames))).to(clean.dtype)
    return Sequence(clean, noisy, time, torch.from_numpy(random.random((rows, frames, 25))).to(clean.dtype))


@pytest.fixture
def float64():
    """Let everything be made and computed in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# Names and sizes


def test_the_published_sizes_are_read_off_the_recorded_shapes():
    architecture = published_size()
    config = architecture.config
    assert dataclasses.replace(config.denoiser, action_table=()) == OasisConfig()
    assert (config.denoiser.depth, config.denoiser.heads, config.denoiser.width) == (16, 16, 1024)
    assert config.codec == OasisVAEConfig()
    assert architecture.spec.frame_shape == (3, 360, 640)
    with torch.device("meta"):
        network = config.denoiser.build(shape(16, 18, 32))
        codec = config.codec.build((3, 360, 640))
    ours = {name: tuple(one.shape) for name, one in to_published(network, architecture.names["denoiser"]).items()}
    theirs = recorded("network")
    # Two tables under one name each, as safetensors keeps tensors that are shared.
    assert ours == {k: v for k, v in theirs.items() if not k.endswith(".freqs") or k in (SPACE, TIME)}
    ours = {
        name: tuple(one.shape) for name, one in to_published(codec, architecture.names["codec.autoencoder"]).items()
    }
    assert ours == recorded("codec")
    assert codec.latent_shape == (16, 18, 32)
    assert sum(one.numel() for one in network.parameters()) == 607_943_744  # and 48 speeds: 607,943,792
    assert sum(one.numel() for one in codec.parameters()) == 229_246_160


def test_a_world_of_the_published_size_says_what_it_is():
    """Sizes are in one place alone, so that none can be said that the network does not have."""
    written = part_to_json(published_size().config)
    assert {name: written["denoiser"][name] for name in ("kind", "depth", "heads", "width", "context")} == {
        "kind": "oasis", "depth": 16, "heads": 16, "width": 1024, "context": 31,
    }  # fmt: skip
    assert not {"depth", "heads", "width", "patch"} & set(written)
    assert part_from_json(written) == published_size().config


def test_an_imported_world_is_described_as_it_is(tmp_path):
    world = tiny_world()
    world.save(tmp_path / "world")
    backbone = json.loads((tmp_path / "world" / "world.json").read_text())["backbone"]
    found = describe(str(tmp_path / "world"))["backbone"]
    for said in (backbone, found):
        assert [said["denoiser"][name] for name in ("depth", "heads", "width")] == [2, 2, 16]
    network = world.model.denoiser
    assert (len(network.spatial_blocks), network.patch_embed.out_channels) == (2, 16)


@pytest.mark.parametrize("name", ["depth", "heads", "passes"])
def test_settings_that_the_world_itself_does_not_have_are_refused_by_name(name):
    with pytest.raises(UnknownNameError, match=name):
        tiny_world().replaced(**{name: 7})


def test_another_depth_needs_other_weights():
    world = tiny_world()
    with pytest.raises(ConfigError, match="needs other weights"):
        world.replaced(denoiser=dataclasses.replace(world.config.denoiser, depth=7))


@pytest.mark.parametrize("order", [1, -1])
def test_export_gives_back_what_was_imported_bit_for_bit(order):
    files = tiny_files()
    architecture = adapter.read(files[::order], OPTIONS)
    world = World(load_weights(architecture), architecture.config, make_starts(2, 16), architecture.provenance)
    written = adapter.write(world)
    assert list(written) == [NETWORK, CODEC]
    for before, after in zip(files, written.values(), strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_rewards_are_learned_from_its_latents():
    world = with_rewards(tiny_world())
    assert world.config.head.watches == "latent"
    env = DreamEnv(world, horizon=3)
    env.reset(seed=0)
    assert np.isfinite(env.step(0)[1])


def test_a_world_is_saved_and_read_back(tmp_path):
    world = tiny_world()
    again = World.load(world.save(tmp_path / "world"))
    assert again.content_hash() == world.content_hash()
    assert part_from_json(part_to_json(world.config)) == world.config


@pytest.mark.parametrize("kept", ["shared", "some", "none"])
def test_tables_of_speeds_may_be_under_any_of_their_names(kept):
    network, codec = tiny_files()
    space, time = network.pop(SPACE), network.pop(TIME)
    assert (len(space), len(time)) == (2, 4)
    if kept == "shared":
        network |= {"spatial_rotary_emb.freqs": space, "temporal_rotary_emb.freqs": time}
        network |= {
            f"blocks.{i}.{s}_attn.rotary_emb.freqs": one for i in (0, 1) for s, one in (("s", space), ("t", time))
        }
    elif kept == "some":
        network["blocks.1.t_attn.rotary_emb.freqs"] = time
    architecture = adapter.read([network, codec], OPTIONS)
    assert architecture.config.denoiser.heads == 2
    again = architecture.tensors["denoiser"]
    torch.testing.assert_close(again[SPACE], space)
    torch.testing.assert_close(again[TIME], time)
    load_weights(architecture)


# What it computes


@pytest.mark.usefixtures("float64")
def test_outputs_are_those_of_the_public_code():
    """Written down when the public modules, given the same weights in float64, gave the same.

    The network's differed by 1.5e-8 of the largest value, because they take some positions in float32. Weights and
    inputs are the same on every processor, and of the 16 digits of float64 a thousand additions in another order, in
    four layers that make their errors greater, leave 10 or more.
    """
    network, autoencoder = tiny_network(), randomised(VAE.build((3, *SIZE)), 1)
    given = sequence().given(0, 7)
    with torch.no_grad():
        output = network.forward_sequence(given, given)
        mean, _ = autoencoder._encode(torch.linspace(-1, 1, 3 * 16 * 32).reshape(1, 3, 16, 32)).chunk(2, dim=1)
        pictures = autoencoder._decode(mean)
    golden = (
        (output[1, 3, 2, 1, :4], [-0.7713103413058, -2.2991571564042, 0.2083389076816, -0.6446465482763]),
        (mean[0, :, 1, 2], [-2.2730339655792, 0.2068275823899, 0.2479023939537, -0.5574352985275]),
        (pictures[0, 1, 4, :4], [0.5750630745500, 0.7511914381027, 1.1927073437158, -1.3002728884486]),
    )
    for found, expected in golden:
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("context", [3, 8])
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_cached_step_equals_one_over_the_whole_sequence(context, at_once):
    """Also while the window slides, with attention that reaches as far back in every layer."""
    network, given = tiny_network(context=context), sequence()
    with torch.no_grad():
        cache = network.init_cache(given.clean[:, 0])
        for i in range(at_once, 7, at_once):
            cache = network.update_cache(cache, given.context(i - at_once, i))
            cached = network.forward_cached(cache, given.given(i, i + 1))
            whole = network.forward_sequence(given.context(0, i + 1), given.mixed(0, i))
            torch.testing.assert_close(cached, whole[:, -1:], rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_a_window_that_restarts_forgets_what_lies_before_it():
    """As the public code: the kept frames and the new one are all that there is; rows go by themselves."""
    context, given = 3, sequence()
    network = tiny_network(context=context, window="restarts")
    with torch.no_grad():
        cache = network.init_cache(given.clean[:, 0])
        late = network.init_cache(given.clean[:1, 0])  # the first row begins anew at frame 4
        for i in range(1, 7):
            cache = network.update_cache(cache, given.context(i - 1, i))
            if i == 4:
                cache = {name: torch.cat((late[name], value[1:])) for name, value in cache.items()}
            begins = [4 if i >= 4 else 0, 0]
            cached = network.forward_cached(cache, given.given(i, i + 1))
            for row, begin in enumerate(begins):
                one, start = slice(row, row + 1), max(begin, i - context)
                mixed = given.mixed(start, i, one)
                whole = network.forward_sequence(mixed, mixed)
                torch.testing.assert_close(cached[one], whole[:, -1:], rtol=1e-9, atol=1e-9)


def test_both_windows_agree_until_they_are_full_and_differ_after_it():
    world = tiny_world("vector", context=3)
    other = restarting(world)
    frame, seed = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)), torch.zeros(1, dtype=torch.int64)
    actions = torch.zeros(1, 5, 25)
    with torch.no_grad():
        long = [one.model.imagine(one.model.start(frame, seed), actions)[1]["keys"] for one in (world, other)]
        short = [one.model.imagine(one.model.start(frame, seed), actions[:, :2])[1]["keys"] for one in (world, other)]
    torch.testing.assert_close(*short, rtol=1e-5, atol=1e-5)
    assert float((long[0] - long[1]).abs().max()) > 1e-3


def test_the_position_of_speeds_is_that_of_the_paper():
    torch.testing.assert_close(time_speeds(4), torch.tensor([1.0, 0.1, 0.01, 0.001]))


def test_learning_reaches_every_parameter_that_counts():
    world = tiny_world(context=3)
    model, generator = world.model, torch.Generator().manual_seed(0)
    frames = torch.rand((2, 4, 3, *SIZE), generator=generator)
    batch = Batch(
        first_frame=frames[:, 0], frames=frames[:, 1:], actions=torch.randint(13, (2, 3), generator=generator),
        rewards=torch.zeros(2, 3), terminated=torch.zeros(2, 3, dtype=torch.bool), weight=torch.ones(2, 3),
        generator=generator,
    )  # fmt: skip
    for loss, part in ((model.denoising_loss, model.denoiser), (model.codec_loss, model.codec)):
        loss(batch)[0].backward()
        assert [name for name, one in part.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0] == []
    assert [stage.steps for stage in model.stages() if stage.name == "codec"] == [0]


CHANGES = {
    "context": 2, "width": 32, "depth": 1, "heads": 1, "patch": 4, "window": "restarts",
    "action_table": ((1.0,) * 25,),
}  # fmt: skip
CODEC_CHANGES = {
    "patch": 8, "latent_channels": 3, "encoder_width": 16, "encoder_depth": 2, "encoder_heads": 1,
    "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(OasisConfig)])
def test_every_setting_of_the_network_has_an_effect(name):
    def made(config: OasisConfig) -> tuple[dict[str, torch.Size], Tensor]:
        network, encoder = config.build(shape()), config.action_encoder(gym.spaces.Discrete(1))
        tensors = {**network.init_cache(torch.zeros(1, 4, 4, 8)), **network.state_dict()}
        return {key: value.shape for key, value in tensors.items()}, encoder(torch.zeros(1))

    config = dataclasses.replace(DENOISER, action_table=((0.0,) * 25,))
    before, after = made(config), made(dataclasses.replace(config, **{name: CHANGES[name]}))
    assert before[0] != after[0] or not torch.equal(before[1], after[1])


@pytest.mark.parametrize("name", CODEC_CHANGES)
def test_every_setting_of_the_autoencoder_has_an_effect(name):
    pictures = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    outputs = []
    for config in (VAE, dataclasses.replace(VAE, **{name: CODEC_CHANGES[name]})):
        autoencoder = randomised(config.build((3, *SIZE)), 0)
        with torch.no_grad():
            mean, _ = autoencoder.encode(pictures)
            outputs.append((mean, autoencoder.decode(mean)))
    assert any(one.shape != other.shape or not torch.equal(one, other) for one, other in zip(*outputs, strict=True))
    assert {*CODEC_CHANGES, "training"} == {field.name for field in dataclasses.fields(OasisVAEConfig)}


# Actions


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")  # a camera has degrees
@pytest.mark.parametrize("actions", ["discrete", "minerl", "vector", "minerl_treechop"])
def test_a_tiny_world_is_an_environment(actions):
    env = DreamEnv(tiny_world(actions), horizon=3, reward_fn=lambda frames, _: frames.mean((1, 2, 3)))
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    for left in (2, 1, 0):
        frame, _, _, truncated, _ = env.step(env.action_space.sample())
        assert frame.shape == (*SIZE, 3)
        assert truncated == (left == 0)


def test_one_action_is_one_vector_in_every_space():
    task = MINERL_TASKS["minerl_survival"]
    world, native = tiny_world(), KeyVectors(minerl_space())
    assert world.spec.action_space == gym.spaces.Discrete(len(task.action_table))
    layout = tiny_world("minerl").spec.action_layout
    for number, action in enumerate(task.action_table):
        still = {key: 0 for key in minerl_space() if key != "camera"}
        full = {**still, "camera": np.zeros(2, np.float32), **action}
        by_table = world.model.action(torch.tensor(number))
        torch.testing.assert_close(native(torch.as_tensor(layout.pack(full))), by_table, rtol=0, atol=0)
        assert tuple(by_table.tolist()) == native_vector(action)
    right = native_vector({"camera": [0.0, 15.0]})
    assert right[ACTION_KEYS.index("cameraY")] == 0.75
    assert right[ACTION_KEYS.index("cameraX")] == 0
    assert native_vector({"camera": [-90.0, 0.3]})[15:17] == (-1.0, pytest.approx(0.025))
    rows = torch.tensor([[0.5] * 25])
    assert torch.equal(KeyVectors(action_space())(rows), rows)


def test_provenance_is_that_of_the_environment_with_the_same_actions():
    for actions, name in ((None, "minerl_survival"), ("minerl_treechop", "minerl_treechop")):
        task, provenance = MINERL_TASKS[name], tiny_world(actions).provenance
        assert provenance.environment_id == task.id
        assert provenance.action_names == task.action_names
        assert provenance.action_table == [dict(action) for action in task.action_table]
        assert (provenance.frame_skip, provenance.frame_rate, provenance.frame_size) == (1, 20.0, SIZE)
    assert tiny_world("minerl").provenance.environment_kwargs["native_actions"] is True
    assert tiny_world("vector").provenance.environment_id == "Minecraft-VPT-v0"


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (gym.spaces.Dict({"place": gym.spaces.Discrete(3)}), "'place'"),
        (gym.spaces.Dict({"jump": gym.spaces.Discrete(3)}), "'jump'"),
        (gym.spaces.Box(-1, 1, (25,)), "25"),
        (gym.spaces.Discrete(3), "table of 3"),
        (gym.spaces.MultiBinary(25), "MultiBinary"),
    ],
)
def test_spaces_that_it_does_not_know_are_refused(space, said):
    with pytest.raises(ConfigError, match=said):
        OasisConfig().action_encoder(space)


def test_a_table_of_actions_without_a_use_is_refused():
    with pytest.raises(ConfigError, match="leave it empty"):
        OasisConfig(action_table=((0.0,) * 25,)).action_encoder(action_space())


# What is refused


def without(file: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in file.items() if key != name}


REFUSED = {
    "one file": (lambda n, c: [n], {}, "two files.*found 1 of the first kind and 0 of the second"),
    "two networks": (lambda n, c: [n, n], {}, "found 2 of the first kind"),
    "one too many": (lambda n, c: [n, c, c], {}, "and 2 of the second"),
    "another system": (lambda n, c: [n, {"conv_in.weight": torch.ones(1)}], {}, "conv_in.weight.*not of Oasis"),
    "a missing tensor": (lambda n, c: [without(n, "blocks.1.t_mlp.fc1.bias"), c], {}, "missing: blocks.1.t_mlp"),
    "a missing shape": (lambda n, c: [n, without(c, "post_quant_conv.weight")], {}, "quant_conv.weight is missing"),
    "a tensor too many": (lambda n, c: [n, {**c, "loss.weight": torch.ones(1)}], {}, "one too many: loss.weight"),
    "no block": (lambda n, c: [n, {k: v for k, v in c.items() if "encoder." not in k}], {}, "begins with encoder.0"),
    "a shape": (lambda n, c: [{**n, "blocks.0.s_attn.to_out.bias": torch.ones(9)}, c], {}, r"is \(9,\).*be \(16,\)"),
    "axes": (lambda n, c: [{**n, "x_embedder.proj.weight": torch.ones(16, 16)}, c], {}, "should have 4 axes"),
    "another codec": (lambda n, c: [n, tiny_files(latent=2)[1]], {}, "latents of 4 channels, and the codec makes 2"),
    "actions": (lambda n, c: [{**n, "external_cond.weight": torch.ones(16, 4)}, c], {}, "actions of 4 values"),
    "speeds": (lambda n, c: [{**n, "spatial_rotary_emb.freqs": torch.ones(2)}, c], {}, "not the table"),
    "heads apart": (lambda n, c: [{**n, SPACE: torch.ones(4)}, c], {}, "heads 8 and 16 channels wide"),
    "other heads": (lambda n, c: [n, c], {"heads": 1}, "1 heads were asked for.*go with 8 channels.*say 2"),
    "no heads": (lambda n, c: [n, c], {"heads": None}, "codec's encoder is 32 wide.*heads="),
    "a size": (lambda n, c: [n, c], {"size": (16, 36)}, "16 x 36.*multiples of 8"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_refused_with_the_reason(case):
    make, options, said = REFUSED[case]
    with pytest.raises(WeightsError, match=said):
        load_weights(adapter.read(make(*tiny_files()), dataclasses.replace(OPTIONS, **options)))


def test_another_world_is_not_written_as_oasis():
    with pytest.raises(WeightsError, match="'drifting' with the denoiser None"):
        adapter.write(make_world())


def test_unknown_actions_are_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"'discrete', 'minerl', 'vector'.*treechop.*not 'keyboard'"):
        adapter.read(tiny_files(), dataclasses.replace(OPTIONS, actions="keyboard"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"depth": 0}, "depth"), ({"heads": 3}, "multiple of 4"), ({"window": "jumps"}, "'slides' or 'restarts'")],
)
def test_sizes_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        OasisConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "said"), [({"decoder_heads": 5}, "the decoder's width"), ({"latent_channels": 0}, "latent_channels")]
)
def test_sizes_of_the_autoencoder_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        OasisVAEConfig(**changes)

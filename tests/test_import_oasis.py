"""Oasis's weights become a world and leave it again unchanged; what it computes; what it refuses."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_starts, make_world
from gymnasium.utils.env_checker import check_env
from torch import Tensor, nn

from dreamenv.backbones.denoising.networks import Asked
from dreamenv.data.readers.minecraft import ACTION_KEYS, action_space
from dreamenv.diffusion.objective import stabilised
from dreamenv.dream import DreamEnv
from dreamenv.envs.minerl.tasks import MINERL_TASKS
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.importers.adapter import Options, fitted, published
from dreamenv.importers.oasis import OasisAdapter
from dreamenv.importers.rewards import with_rewards
from dreamenv.public.oasis import OasisSizes
from dreamenv.public.oasis_actions import KeyVectors, minerl_space, native_vector
from dreamenv.public.oasis_codec import OasisCodecSizes
from dreamenv.public.pair_rotary import time_speeds
from dreamenv.registry import config_from_json, config_to_json
from dreamenv.world import World
from dreamenv.world_model import Batch

KEYS = Path(__file__).parent / "data" / "public" / "oasis_keys.txt"
SIZE = (16, 32)
OPTIONS = Options(size=SIZE, heads=2, passes=2)
NETWORK, CODEC = "oasis500m.safetensors", "vit-l-20.safetensors"
SPACE, TIME = "blocks.0.s_attn.rotary_emb.freqs", "blocks.0.t_attn.rotary_emb.freqs"
adapter = OasisAdapter()


def recorded(part: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes that were recorded of the public modules."""
    found = {}
    for line in KEYS.read_text().splitlines()[1:]:
        where, count, name, *shape = line.split()
        if where == part:
            found |= {name.replace("*", str(i)): tuple(map(int, shape)) for i in range(int(count))}
    return found


def randomised(module: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def tiny_files(latent: int = 4) -> list[dict[str, Tensor]]:
    """Random weights of a tiny network and a tiny codec, as they would be published."""
    sizes = OasisSizes(width=16, depth=2, heads=2)
    codec = OasisCodecSizes(
        patch=4, latent=latent, encoder_width=32, encoder_depth=1, encoder_heads=2,
        decoder_width=32, decoder_depth=2, decoder_heads=2,
    )  # fmt: skip
    config = dataclasses.replace(published_size().config, public=sizes, codec=codec)
    network = randomised(sizes.network(config, (latent, 4, 8), 25), seed=0)
    autoencoder = randomised(codec.autoencoder((3, *SIZE)), seed=1)
    names = published_size().names
    return [published(network, names["network"]), published(autoencoder, names["codec.autoencoder"])]


@functools.cache
def published_size():
    """What the adapter reads from tensors of the published shapes, which hold no values."""
    with torch.device("meta"):
        files = [{name: torch.empty(shape) for name, shape in recorded(part).items()} for part in ("network", "codec")]
    return adapter.read(files, Options())


def tiny_world(actions: str | None = None, **changes) -> World:
    """A world of them; changes are of its configuration."""
    architecture = adapter.read(tiny_files(), dataclasses.replace(OPTIONS, actions=actions))
    config = dataclasses.replace(architecture.config, memory=8, **changes)
    model = fitted(dataclasses.replace(architecture, config=config))
    starts = make_starts(4, 16, architecture.spec.action_space)
    wide = {name: np.tile(getattr(starts, name), (1, 2, 1)) for name in ("first_frames",)}
    wide["first_frames"] = np.concatenate([starts.first_frames] * 2, axis=2)
    wide["frames"] = np.concatenate([starts.frames] * 2, axis=3)
    return World(model, config, dataclasses.replace(starts, **wide), architecture.provenance)


def restarting(world: World) -> OasisSizes:
    return dataclasses.replace(world.config.public, window="restarts")


def sequence(network, rows: int = 2, frames: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clean latents, noisy ones, their levels and actions."""
    generator = torch.Generator().manual_seed(5)
    clean, noisy = torch.randn((2, rows, frames, 4, 4, 8), generator=generator).unbind(0)
    level = torch.randint(1000, (rows, frames), generator=generator).float()
    return clean, noisy, level, torch.rand((rows, frames, 25), generator=generator)


# Names and sizes


def test_the_published_sizes_are_read_off_the_recorded_shapes():
    architecture = published_size()
    assert dataclasses.replace(architecture.config.public, table=()) == OasisSizes()
    assert architecture.config.codec == OasisCodecSizes()
    assert architecture.spec.frame_shape == (3, 360, 640)
    with torch.device("meta"):
        network = OasisSizes().network(architecture.config, (16, 18, 32), 25)
        codec = OasisCodecSizes().autoencoder((3, 360, 640))
    ours = {name: tuple(one.shape) for name, one in published(network, architecture.names["network"]).items()}
    theirs = recorded("network")
    # Two tables under one name each, as safetensors keeps tensors that are shared.
    assert ours == {k: v for k, v in theirs.items() if not k.endswith(".freqs") or k in (SPACE, TIME)}
    ours = {name: tuple(one.shape) for name, one in published(codec, architecture.names["codec.autoencoder"]).items()}
    assert ours == recorded("codec")
    assert codec.latent_shape == (16, 18, 32)
    assert sum(one.numel() for one in network.parameters()) == 607_943_744  # and 48 speeds: 607,943,792
    assert sum(one.numel() for one in codec.parameters()) == 229_246_160


@pytest.mark.parametrize("order", [1, -1])
def test_export_gives_back_what_was_imported_bit_for_bit(order):
    files = tiny_files()
    architecture = adapter.read(files[::order], OPTIONS)
    world = World(fitted(architecture), architecture.config, make_starts(2, 16), architecture.provenance)
    written = adapter.write(world)
    assert list(written) == [NETWORK, CODEC]
    for before, after in zip(files, written.values(), strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_rewards_are_learned_from_its_latents():
    world = with_rewards(tiny_world())
    assert world.config.events_see == "latent"
    env = DreamEnv(world, horizon=3)
    env.reset(seed=0)
    assert np.isfinite(env.step(0)[1])


def test_a_world_is_saved_and_read_back(tmp_path):
    world = tiny_world()
    again = World.load(world.save(tmp_path / "world"))
    assert again.content_hash() == world.content_hash()
    assert config_from_json(config_to_json(world.config)) == world.config


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
    assert architecture.config.public.heads == 2
    again = architecture.tensors["network"]
    torch.testing.assert_close(again[SPACE], space)
    torch.testing.assert_close(again[TIME], time)
    fitted(architecture)


# What it computes


def test_outputs_are_those_that_were_compared_with_the_public_code_when_they_were_written_down():
    world = tiny_world("vector")
    clean, noisy, level, actions = sequence(world.model.network)
    with torch.no_grad():
        said = world.model.network.predict_all(clean, Asked(noisy, level, actions))
        latents = world.model.codec.encode(torch.linspace(0, 1, 3 * 16 * 32).reshape(1, 1, 3, 16, 32))
        frames = world.model.codec.decode(latents)
    golden = (
        (said[1, 3, 2, 1, :4], [0.38846761, -3.45207644, -0.65278971, -3.71162128]),
        (latents[0, 0, :, 1, 2], [0.06690079, -0.07584752, -0.03363951, -0.01020587]),
        (frames[0, 0, 1, 4, :4], [0.19297096, 0.30192199, 0.27541637, 0.75344753]),
    )
    for found, expected in golden:
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("context", [3, 8])
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_cached_step_equals_one_that_computes_everything_anew(context, at_once):
    """Also while the window slides, with attention that reaches as far back in every layer."""
    world = tiny_world("vector", context=context, denoiser_length=8)
    network, config = world.model.network, world.config
    clean, noisy, level, actions = sequence(network)
    shown, shown_level = stabilised(network.process, clean, config.stabilisation, config.manner)
    assert torch.equal(shown, clean)
    assert shown_level.unique().tolist() == [14.0]
    with torch.no_grad():
        past = network.begin(clean[:, 0])
        for i in range(at_once, 7, at_once):
            past = network.remember(past, clean[:, i - at_once : i], actions[:, i - at_once : i])
            alone = network.predict(past, Asked(noisy[:, i : i + 1], level[:, i : i + 1], actions[:, i : i + 1]))
            mixed = torch.cat((shown[:, :i], noisy[:, i : i + 1]), dim=1)
            levels = torch.cat((shown_level[:, :i], level[:, i : i + 1]), dim=1)
            anew = network.predict_all(clean, Asked(mixed, levels, actions[:, : i + 1]))
            torch.testing.assert_close(alone, anew[:, -1:], rtol=1e-5, atol=1e-5)


def test_a_window_that_restarts_forgets_what_lies_before_it():
    """As the public code: the kept frames and the new one are all that there is; rows go by themselves."""
    context = 3
    world = tiny_world("vector", context=context, denoiser_length=8)
    world = dataclasses.replace(world.replaced(public=restarting(world)))
    network = world.model.network
    clean, noisy, level, actions = sequence(network)
    shown, shown_level = stabilised(network.process, clean, 14.0, "labelled")
    with torch.no_grad():
        past = network.begin(clean[:, 0])
        late = network.begin(clean[:1, 0])  # the first row begins anew at frame 4
        for i in range(1, 7):
            past = network.remember(past, clean[:, i - 1 : i], actions[:, i - 1 : i])
            if i == 4:
                past = {name: torch.cat((late[name], value[1:])) for name, value in past.items()}
            begins = [4 if i >= 4 else 0, 0]
            asked = Asked(noisy[:, i : i + 1], level[:, i : i + 1], actions[:, i : i + 1])
            alone = network.predict(past, asked)
            for row, begin in enumerate(begins):
                at, one = slice(max(begin, i - context), i), slice(row, row + 1)
                mixed = torch.cat((shown[one, at], asked.noisy[one]), dim=1)
                levels = torch.cat((shown_level[one, at], asked.level[one]), dim=1)
                acts = torch.cat((actions[one, at], asked.actions[one]), dim=1)
                anew = network.predict_all(clean, Asked(mixed, levels, acts))
                torch.testing.assert_close(alone[one], anew[:, -1:], rtol=1e-5, atol=1e-5)


def test_both_windows_agree_until_they_are_full_and_differ_after_it():
    world = tiny_world("vector", context=3, denoiser_length=3)
    other = world.replaced(public=restarting(world))
    frame, seed = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)), torch.zeros(1, dtype=torch.int64)
    actions = torch.zeros(1, 5, 25)
    with torch.no_grad():
        films = [one.model.imagine(one.model.start(frame, seed), actions)[1]["keys"] for one in (world, other)]
        short = [one.model.imagine(one.model.start(frame, seed), actions[:, :2])[1]["keys"] for one in (world, other)]
    torch.testing.assert_close(*short, rtol=1e-5, atol=1e-5)
    assert float((films[0] - films[1]).abs().max()) > 1e-3


def test_the_position_of_speeds_is_that_of_the_paper():
    torch.testing.assert_close(time_speeds(4), torch.tensor([1.0, 0.1, 0.01, 0.001]))


def test_learning_reaches_every_parameter_that_counts():
    world = tiny_world(context=3, denoiser_length=3)
    model, generator = world.model, torch.Generator().manual_seed(0)
    frames = torch.rand((2, 4, 3, *SIZE), generator=generator)
    batch = Batch(
        first_frame=frames[:, 0], frames=frames[:, 1:], actions=torch.randint(13, (2, 3), generator=generator),
        rewards=torch.zeros(2, 3), terminated=torch.zeros(2, 3, dtype=torch.bool), weight=torch.ones(2, 3),
        generator=generator,
    )  # fmt: skip
    for loss, part in ((model.denoising_loss, model.network), (model.codec_loss, model.codec)):
        loss(batch)[0].backward()
        assert [name for name, one in part.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0] == []
    assert [stage.steps for stage in model.stages() if stage.name == "codec"] == [0]


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
def test_spaces_that_it_cannot_be_told_of_are_refused(space, said):
    with pytest.raises(ConfigError, match=said):
        OasisSizes().vectors(space)


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
    "other heads": (lambda n, c: [n, c], {"heads": 1}, "1 heads were asked for.*tell of 8 channels.*say 2"),
    "no heads": (lambda n, c: [n, c], {"heads": None}, "codec's encoder is 32 wide.*heads="),
    "a size": (lambda n, c: [n, c], {"size": (16, 36)}, "16 x 36.*multiples of 8"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_refused_with_the_reason(case):
    make, options, said = REFUSED[case]
    with pytest.raises(WeightsError, match=said):
        fitted(adapter.read(make(*tiny_files()), dataclasses.replace(OPTIONS, **options)))


def test_another_world_is_not_written_as_oasis():
    with pytest.raises(WeightsError, match="DriftingConfig with the network None"):
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
        OasisSizes(**changes)
    with pytest.raises(ConfigError, match="the decoder's width"):
        OasisCodecSizes(decoder_heads=5)

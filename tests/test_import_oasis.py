"""Oasis's weights become a world and leave it again unchanged."""

from __future__ import annotations

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_starts
from gymnasium.utils.env_checker import check_env
from tiny_oasis import (
    CODEC,
    NETWORK,
    OPTIONS,
    SIZE,
    SPACE,
    TIME,
    adapter,
    published_size,
    recorded,
    shape,
    tiny_files,
    tiny_world,
)

from dreamenv.codecs.oasis_vae import OasisVAEConfig
from dreamenv.commands.info import describe
from dreamenv.data.readers.minecraft import ACTION_KEYS, action_space
from dreamenv.denoisers.oasis import OasisConfig
from dreamenv.denoisers.oasis_actions import KeyVectors, minerl_space, native_vector
from dreamenv.dream import DreamEnv
from dreamenv.envs.minerl.tasks import MINERL_TASKS
from dreamenv.errors import ConfigError, UnknownNameError
from dreamenv.importers.adapter import load_weights, to_published
from dreamenv.importers.rewards import with_rewards
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.world import World

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


def test_a_world_of_the_published_size_describes_itself():
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


@pytest.mark.parametrize("name", ["depth", "heads", "width"])
def test_settings_that_the_world_itself_does_not_have_are_refused_by_name(name):
    with pytest.raises(UnknownNameError, match=name):
        tiny_world().replaced(**{name: 7})


def test_another_depth_needs_other_weights():
    world = tiny_world()
    with pytest.raises(ConfigError, match="needs other weights"):
        world.replaced(denoiser=dataclasses.replace(world.config.denoiser, depth=7))


@pytest.mark.parametrize("order", [1, -1])
def test_export_returns_the_imported_weights_bit_for_bit(order):
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

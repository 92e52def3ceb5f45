"""Navigation World Models' weights become a world, and come back unchanged."""

from __future__ import annotations

import argparse
import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_nwm import (
    PUBLISHED_CODEC,
    SHAPE,
    SIDE,
    TINY_CODEC,
    diffusers_codec,
    recorded_keys,
    tiny_codec,
    tiny_network,
    tiny_starts,
    tiny_world,
)
from torch import Tensor

from dreamenv.codecs.sd_vae import SDVAEConfig
from dreamenv.denoisers.nwm import NWMConfig
from dreamenv.diffusion.process import VariancePreserving
from dreamenv.diffusion.sampler import Ancestral, DPMSolver
from dreamenv.dream.env import DreamEnv
from dreamenv.importers.adapter import Options, load_weights, to_published
from dreamenv.importers.importing import export_world, import_world
from dreamenv.importers.nwm import CODEC_NAMES, DENOISER_NAMES, NWMAdapter
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.world import World
from dreamenv.world_model import Batch


@pytest.fixture(scope="module")
def world() -> World:
    return tiny_world()


def started(model: Any, frames: Tensor, moves: Tensor) -> Any:
    return model.observe(model.start(frames[:, 0], torch.arange(len(frames))), moves, frames[:, 1:])


def shapes(tensors: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_the_published_sizes_are_read_from_shapes_and_give_every_recorded_name() -> None:
    keys = recorded_keys()
    assert len(keys) == 475
    with torch.device("meta"):
        codec = diffusers_codec(PUBLISHED_CODEC).state_dict()
        network = {name: torch.empty(shape) for name, shape in keys.items()}
        found = NWMAdapter().read([codec, network], Options())
        assert found.config.denoiser == NWMConfig()
        assert found.config.codec == SDVAEConfig()
        assert found.spec.frame_shape == (3, 224, 224)
        process = VariancePreserving(schedule="linear", timestep_spacing="linspace", time_scale=1000.0)
        assert (found.config.sampler.steps, found.config.process) == (250, process)
        ours = found.config.denoiser.build(dataclasses.replace(SHAPE, frame_shape=(4, 28, 28)))
        coder = found.config.codec.build((3, 224, 224))
    assert shapes(to_published(ours, DENOISER_NAMES)) == keys
    assert sum(one.numel() for one in ours.parameters()) == 1_011_959_456
    assert shapes(to_published(coder, CODEC_NAMES)) == shapes(codec)


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (768, 12), (1024, 16), (1152, 16), (320, 5)])
def test_heads_follow_from_the_width_as_published(width: int, heads: int) -> None:
    sizes = {1152: width, 384: width // 3, 3456: 3 * width, 4608: 4 * width, 12672: 11 * width, 2304: 2 * width}
    with torch.device("meta"):
        codec = diffusers_codec(PUBLISHED_CODEC).state_dict()
        network = {
            name: torch.empty([sizes.get(size, size) for size in shape]) for name, shape in recorded_keys(1).items()
        }
        read, asked = (NWMAdapter().read([network, codec], Options(heads=one)) for one in (None, 1))
    found = read.config.denoiser
    assert isinstance(found, NWMConfig)
    assert found.heads == heads
    assert read.notes[0].startswith(f"assumed heads={heads} for a width of {width}")
    assert not [note for note in asked.notes if "assumed" in note]


def test_read_weights_are_written_back_bit_for_bit(tmp_path: Path) -> None:
    network, codec = tiny_network(), tiny_codec()
    torch.save(
        {"ema": {f"_orig_mod.{name}": one for name, one in network.items()}, "args": argparse.Namespace(lr=1)},
        tmp_path / "0100000.pth.tar",
    )
    save_file(codec, tmp_path / "vae.safetensors")
    files = [tmp_path / "vae.safetensors", tmp_path / "0100000.pth.tar"]
    world = import_world("nwm", files, starts=tiny_starts(), options=Options(heads=2, sampling_steps=2))
    assert "non-commercial" in world.record["imported"]["licence"]
    written = NWMAdapter().write(world)
    for theirs, ours in zip((network, codec), written.values(), strict=True):
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert len(export_world(world, tmp_path / "back")) == 2


def test_the_autoencoder_agrees_with_diffusers_also_under_its_older_names() -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in tiny_codec().items():
        for new, before in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        renamed[name] = tensor
    assert any("proj_attn" in name for name in renamed)
    model: Any = load_weights(NWMAdapter().read([renamed, tiny_network()], Options(heads=2)))
    theirs = diffusers_codec(TINY_CODEC)
    theirs.load_state_dict(tiny_codec())
    generator = torch.Generator().manual_seed(0)
    pictures, latents = torch.randn(2, 3, SIDE, SIDE, generator=generator), torch.randn(2, 4, 8, 8, generator=generator)
    with torch.no_grad():
        mean, log_variance = model.codec.autoencoder.encode(pictures)
        said = theirs.encode(pictures).latent_dist
        torch.testing.assert_close(mean, said.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(log_variance, said.logvar, rtol=1e-4, atol=1e-5)
        drawn, expected = model.codec.autoencoder.decode(latents), theirs.decode(latents).sample
        torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-5)
    # A latent is drawn, and scaled.
    noise = torch.randn(1, 2, 4, 8, 8, generator=generator)
    with torch.no_grad():
        encoded = model.codec.encode((pictures[None] + 1) / 2, noise)[0]
    torch.testing.assert_close(encoded, 0.18215 * (said.mean + said.std * noise[0]), rtol=1e-4, atol=1e-5)


def test_an_imported_world_is_dreamt_in_after_saving(world: World, tmp_path: Path) -> None:
    loaded = World.load(world.save(tmp_path / "nwm"))
    frames = []
    for one in (world, loaded):
        env = DreamEnv(one, horizon=3, reward_fn=lambda shown, _: np.full(len(shown), 0.5))
        env.reset(seed=0)
        for _ in range(3):
            frame, reward, terminated, truncated, _ = env.step(np.array([1.0, 0.0, 0.1], np.float32))
        frames.append(frame)
        assert (frame.shape, reward, terminated, truncated) == ((SIDE, SIDE, 3), 0.5, False, True)
        env.close()
    assert np.array_equal(*frames)


def test_training_on_reaches_every_parameter_of_the_denoiser() -> None:
    model: Any = tiny_world().model
    model.train()
    generator = torch.Generator().manual_seed(0)
    b, t = 2, 5
    batch = Batch(
        first_frame=torch.rand(b, 3, SIDE, SIDE, generator=generator),
        actions=torch.randn(b, t, 3, generator=generator),
        rewards=torch.zeros(b, t),
        terminated=torch.zeros(b, t, dtype=torch.bool),
        frames=torch.rand(b, t, 3, SIDE, SIDE, generator=generator),
        weight=torch.ones(b, t),
        generator=generator,
    )
    loss, _ = model.denoising_loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert model.denoiser.final.bias.grad.reshape(-1, 8).abs().amin(0).min() > 0  # also of the variance
    still = [name for name, one in model.denoiser.named_parameters() if one.grad is None or not one.grad.abs().any()]
    assert still == []


def test_weights_in_bfloat16_draw_about_the_same(world: World) -> None:
    rounded: Any = copy.deepcopy(world.model)
    rounded.store_in_bfloat16()
    frames, moves = torch.rand(1, 3, 3, SIDE, SIDE), torch.randn(1, 3, 3)
    with torch.no_grad():
        drawn = [
            one.imagine(started(one, frames, moves[:, :2]), moves[:, 2:])[0].frames for one in (world.model, rounded)
        ]
    assert 0 < float((drawn[0] - drawn[1]).abs().mean()) < 0.02


def test_few_steps_are_made_by_another_sampler() -> None:
    tensors = [tiny_network(), tiny_codec()]
    found = [NWMAdapter().read(tensors, Options(heads=2, sampling_steps=steps)).config for steps in (None, 100, 25)]
    assert [one.sampler for one in found] == [
        Ancestral(steps=250, variance="learned", init_noise_sigma=1.0),
        Ancestral(steps=100, variance="learned", init_noise_sigma=1.0),
        DPMSolver(steps=25, init_noise_sigma=1.0),
    ]


def test_the_published_sampler_uses_the_variance_that_the_network_predicts() -> None:
    model: Any = tiny_world().model
    drawn = []
    for scale in (0.0, 3.0):
        config = dataclasses.replace(model.config, sampler=Ancestral(steps=6, variance="learned"))
        other: Any = config.build(model.spec)
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            other.denoiser.final.bias[4::8] += scale  # of the variance of the first latent channel, not of the noise
            other.denoiser.final.bias[5::8] += scale
            state = other.start(torch.full((1, 3, SIDE, SIDE), 0.5), torch.tensor([0]))
            drawn.append(other.imagine(state, torch.zeros(1, 1, 3))[0].frames)
    assert not torch.equal(*drawn)


def test_frames_may_be_wider_than_high() -> None:
    assert tiny_world(size=(8, 32)).spec.frame_shape == (3, 8, 32)


def test_its_parts_are_written_as_json_and_read_back(world: World) -> None:
    written = part_to_json(world.config)
    assert (written["denoiser"]["kind"], written["codec"]["kind"]) == ("nwm", "sd_vae")
    assert part_from_json(written) == world.config

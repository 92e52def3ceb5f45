"""Navigation World Models' weights become a world, and come back as they were."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from public import filled
from safetensors.torch import save_file
from torch import Tensor

from dreamenv.backbones.denoising import DenoisingConfig
from dreamenv.codecs.sd_vae import SDVAEConfig
from dreamenv.data.starts import Starts
from dreamenv.denoisers.base import DenoiserInput, DenoiserShape
from dreamenv.denoisers.nwm import HIGHEST, LOWEST, Moves, NWMConfig
from dreamenv.diffusion.process import EDM, VariancePreserving
from dreamenv.diffusion.sampler import Ancestral, DPMSolver
from dreamenv.diffusion.target import EDMPreconditioned
from dreamenv.dream.env import DreamEnv
from dreamenv.errors import ActionError, ConfigError, WeightsError
from dreamenv.importers.adapter import Options, load_weights, to_published
from dreamenv.importers.importing import export_world, import_world
from dreamenv.importers.nwm import CODEC_NAMES, DENOISER_NAMES, NWMAdapter
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.world import World
from dreamenv.world_model import Batch

KEYS = Path(__file__).parent / "data" / "public" / "nwm_keys.txt"
PUBLISHED_CODEC, TINY_CODEC = (128, 256, 512, 512), (32, 32)
SIDE, WIDTH, DEPTH, CONTEXT = 16, 24, 2, 3  # frames of 16 x 16, latents of 8 x 8, 16 tokens
SHAPE = DenoiserShape(frame_shape=(4, 8, 8), discrete=(False,) * 3)
TINY = NWMConfig(context=CONTEXT, embed_dim=WIDTH, depth=DEPTH, heads=2)
Tensors = dict[str, Tensor]


def diffusers_codec(channels: tuple[int, ...]) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=channels, layers_per_block=2, latent_channels=4, norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * len(channels), up_block_types=("UpDecoderBlock2D",) * len(channels),
    ).eval()  # fmt: skip


def recorded_keys(depth: int = 28) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the published XL."""
    keys = {}
    for line in KEYS.read_text().splitlines():
        name, shape = line.split(" ", 1)
        for block in range(depth) if "*" in name else (0,):
            keys[name.replace("*", str(block))] = tuple(int(size) for size in re.findall(r"\d+", shape))
    return keys


def tiny_network(seed: int = 0) -> Tensors:
    """Tensors of the published names, for a tiny transformer."""
    sizes = {1152: WIDTH, 384: WIDTH // 3, 3456: 3 * WIDTH, 4608: 4 * WIDTH, 12672: 11 * WIDTH, 2304: 2 * WIDTH}
    sizes |= {196: 16, 5: CONTEXT + 1}
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, shape in recorded_keys(DEPTH).items():
        small = tuple(sizes.get(size, size) for size in shape)
        tensors[name] = torch.randn(small, generator=generator) * (
            0.1 if len(small) < 2 else math.prod(small[1:]) ** -0.5
        )
    return tensors


def tiny_codec(seed: int = 1) -> Tensors:
    codec, generator = diffusers_codec(TINY_CODEC), torch.Generator().manual_seed(seed)
    for parameter in codec.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 100
        noise = torch.randn(parameter.shape, generator=generator) * fan**-0.5
        parameter.data = noise if parameter.ndim > 1 else noise + parameter.data.round()
    return {name: tensor.detach() for name, tensor in codec.state_dict().items()}


def tiny_starts(count: int = 2, length: int = CONTEXT) -> Starts:
    generator = np.random.default_rng(0)
    return Starts(
        first_frames=generator.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8),
        actions=generator.standard_normal((count, length, 3)).astype(np.float32),
        frames=generator.integers(0, 256, (count, length, SIDE, SIDE, 3), np.uint8),
        lengths=np.full(count, length),
        at_episode_start=np.ones(count, bool),
    )


def tiny_world(**options: Any) -> World:
    architecture = NWMAdapter().read([tiny_network(), tiny_codec()], Options(heads=2, sampling_steps=4, **options))
    return World(load_weights(architecture), architecture.config, tiny_starts())


@pytest.fixture(scope="module")
def world() -> World:
    return tiny_world()


def begun(model: Any, frames: Tensor, moves: Tensor) -> Any:
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
        found = NWMAdapter().read([network, codec], Options()).config.denoiser
    assert isinstance(found, NWMConfig)
    assert found.heads == heads


def test_what_was_read_is_written_again_bit_for_bit(tmp_path: Path) -> None:
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


def test_the_autoencoder_does_what_diffusers_does_also_under_its_older_names() -> None:
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


def test_the_denoiser_predicts_what_it_predicted_when_it_was_checked(world: World) -> None:
    denoiser: Any = world.model.denoiser  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(5)
    latents, noisy = (torch.randn(1, n, 4, 8, 8, generator=generator) for n in (CONTEXT, 1))
    moves = torch.tensor([[[0.5, -0.25, 0.1]]])
    with torch.no_grad():
        cache = denoiser.update_cache(denoiser.init_cache(noisy[:, 0]), context(latents))
        shift = torch.tensor([[3.0]])
        output = denoiser.forward_cached(cache, DenoiserInput(noisy, torch.tensor([[421.0]]), moves, time_shift=shift))
    assert output.shape == (1, 1, 8, 8, 8)
    found = torch.stack((output.mean(), output.std(), output[0, 0, 0, 0, 0], output[0, 0, 7, 7, 7]))
    torch.testing.assert_close(found, torch.tensor([0.039826, 1.210261, 0.516700, -0.476336]), rtol=0, atol=1e-5)


def context(frames: Tensor) -> DenoiserInput:
    """Clean frames, to be taken into a cache; the moves that led to them are not looked at."""
    return DenoiserInput(frames, torch.zeros(frames.shape[:2]), torch.zeros(*frames.shape[:2], 3))


def test_a_step_from_the_cache_is_that_of_the_whole_sequence(world: World) -> None:
    denoiser: Any = world.model.denoiser  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(2)
    clean, noisy = (torch.randn(2, 6, 4, 8, 8, generator=generator) for _ in range(2))
    moves, time = torch.randn(2, 6, 3, generator=generator), torch.rand(2, 6, generator=generator).mul(999).floor()
    for shift in (1, 3):
        shifts = torch.full((2, 6), float(shift))
        with torch.no_grad():
            together = denoiser.forward_sequence(context(clean), DenoiserInput(noisy, time, moves, time_shift=shifts))
            for frame in range(shift, 6):
                cache = denoiser.init_cache(clean[:, 0])
                for before in range(frame - shift + 1):
                    cache = denoiser.update_cache(cache, context(clean[:, before : before + 1]))
                one = slice(frame, frame + 1)
                given = DenoiserInput(noisy[:, one], time[:, one], moves[:, one], time_shift=shifts[:, one])
                torch.testing.assert_close(together[:, one], denoiser.forward_cached(cache, given), rtol=0, atol=1e-5)


def test_an_empty_cache_is_a_dropped_context_and_looks_at_no_frame(world: World) -> None:
    denoiser: Any = world.model.denoiser  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(4)
    clean, noisy = (torch.randn(2, 3, 4, 8, 8, generator=generator) for _ in range(2))
    moves, time, last = torch.randn(2, 3, 3, generator=generator), torch.full((2, 3), 300.0), slice(2, 3)
    drop = torch.tensor([True, False])
    with torch.no_grad():
        together = denoiser.forward_sequence(context(clean), DenoiserInput(noisy, time, moves, drop_context=drop))
        given = DenoiserInput(noisy[:, last], time[:, last], moves[:, last])
        empty = denoiser.init_cache(clean[:, 0])
        alone = denoiser.forward_cached(empty, given)
        elsewhere = denoiser.forward_cached({**empty, "frames": clean}, given)
        seen = denoiser.forward_cached(denoiser.update_cache(empty, context(clean[:, :2])), given)
    torch.testing.assert_close(together[:1, last], alone[:1], rtol=0, atol=1e-5)
    torch.testing.assert_close(together[1:, last], seen[1:], rtol=0, atol=1e-5)
    assert torch.equal(alone, elsewhere)
    assert not torch.allclose(alone, seen, atol=1e-3)


def test_moves_become_what_the_network_was_trained_on(world: World) -> None:
    denoiser: Any = world.model.denoiser  # type: ignore[attr-defined]
    moves = torch.tensor([[-2.5, 4.0, 0.5], [5.0, -4.0, -3.0], [0.0, 0.0, 0.0]])
    given = Moves(gym.spaces.Box(np.float32(LOWEST), np.float32(HIGHEST)))(moves) + denoiser.still
    expected = torch.tensor([[-1.0, 1.0, 0.5], [1.0, -1.0, -3.0], [-1 / 3, 0.0, 0.0]])
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)


def test_a_frame_further_ahead_is_given_the_whole_move_and_the_time_it_takes(world: World) -> None:
    model: Any = world.model
    denoiser, generator = model.denoiser, torch.Generator().manual_seed(3)
    frames, moves = torch.rand(2, 3, 3, SIDE, SIDE, generator=generator), torch.randn(2, 4, 3, generator=generator)
    state = begun(model, frames, moves[:, :2])
    given = []

    def listen(_: Any, inputs: tuple[Tensor, ...]) -> None:
        given.append(inputs[0].clone())

    hooks = [part.register_forward_pre_hook(listen) for part in (*denoiser.moves, denoiser.time_shift)]
    with torch.no_grad():
        model.predict_ahead(state, moves)
    for hook in hooks:
        hook.remove()
    *move, ahead = (one[:, 0] for one in given[:4])
    total = moves.sum(1) * torch.tensor([2 / 7.5, 2 / 8, 1.0]) + torch.tensor([-1 / 3, 0.0, 0.0])
    torch.testing.assert_close(torch.stack(move, dim=-1), total)
    torch.testing.assert_close(ahead, torch.full((2,), 4 / 128))
    with pytest.raises(ActionError, match="64 steps ahead at most"):
        model.predict_ahead(state, torch.zeros(2, 65, 3))


def test_before_there_are_enough_frames_the_first_one_stands_for_them(world: World) -> None:
    denoiser: Any = world.model.denoiser  # type: ignore[attr-defined]
    frames = torch.randn(2, 2, 4, 8, 8)
    cache = denoiser.update_cache(denoiser.init_cache(frames[:, 0]), context(frames))
    assert torch.equal(cache["frames"], frames[:, [0, 0, 1]])
    assert cache["length"].tolist() == [2, 2]


def test_latents_are_drawn_from_the_row_s_own_stream(world: World) -> None:
    model: Any = world.model
    frame = torch.rand(1, 3, SIDE, SIDE).expand(2, -1, -1, -1)
    with torch.no_grad():
        same, other = (model.start(frame, torch.tensor(seeds))["frames"] for seeds in ([7, 7], [7, 8]))
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], other[0])
    assert not torch.equal(other[0], other[1])


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


def without(tensors: Tensors, part: str) -> Tensors:
    return {name: one for name, one in tensors.items() if part not in name}


def network(**shapes: tuple[int, ...]) -> Tensors:
    """The tiny transformer with some tensors of other shapes; ``__`` stands for a dot in their names."""
    return tiny_network() | {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def codec(**shapes: tuple[int, ...]) -> Tensors:
    return tiny_codec() | {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


BAD: dict[str, tuple[Callable[[], list[Tensors]], dict[str, Any], str]] = {
    "one file": (lambda: [network()], {}, "0 of 1 files are of the autoencoder.*needs two files"),
    "no transformer": (lambda: [codec()], {}, "0 of 1 files are of the transformer"),
    "two transformers": (lambda: [network(), network(), codec()], {}, "2 of 3 files"),
    "another system": (lambda: [{"unet.weight": torch.zeros(1)}, codec()], {}, "unet.weight.*another system"),
    "no past": (lambda: [without(network(), "cttn"), codec()], {}, "a transformer without attention to past frames"),
    "another layout": (
        lambda: [{"encoder.down.0.block.0.conv1.weight": torch.zeros(1)}, network()],
        {},
        "diffusers' file is needed",
    ),
    "missing tensor": (lambda: [without(network(), "1.mlp.fc2.bias"), codec()], {}, "missing: blocks.1.mlp"),
    "missing block": (
        lambda: [without(network(blocks__2__mlp__fc1__bias=(1,)), "blocks.1."), codec()],
        {},
        "up to 2, but 1 is missing",
    ),
    "extra tensor": (lambda: [network(more=(1,)), codec()], {}, "one too many: more"),
    "odd shape": (lambda: [network(blocks__0__attn__proj__bias=(5,)), codec()], {}, r"is \(5,\).*\(24,\)"),
    "axes": (lambda: [network(pos_embed=(16, 24)), codec()], {}, "pos_embed is .* 3 axes"),
    "no context": (lambda: [network(pos_embed=(1, 16, 24)), codec()], {}, "none is left for context"),
    "no variance": (lambda: [network(final_layer__linear__weight=(16, 24)), codec()], {}, "learned variance"),
    "other latents": (
        lambda: [network(x_embedder__proj__weight=(24, 8, 2, 2), final_layer__linear__weight=(64, 24)), codec()],
        {},
        "8 channels .* makes 4 .*not of one system",
    ),
    "codec widths": (
        lambda: [network(), codec(encoder__down_blocks__0__resnets__0__conv1__weight=(20, 32, 3, 3))],
        {},
        "32 groups do not divide 20",
    ),
    "no square": (lambda: [network(pos_embed=(4, 15, 24)), codec()], {}, "no square; set size"),
    "size": (lambda: [network(), codec()], {"size": (16, 20)}, "16 x 20 are not 16 tokens of 4 x 4"),
    "heads": (lambda: [network(), codec()], {"heads": 5}, "5 heads do not divide a width of 24"),
    "actions": (lambda: [network(), codec()], {"actions": "keys"}, "one action space, 'moves', not 'keys'"),
    "steps": (lambda: [network(), codec()], {"sampling_steps": 2000}, "steps must be from 1 to 1000"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_what_is_wrong(case: str) -> None:
    files, options, match = BAD[case]
    with pytest.raises(WeightsError, match=match):
        load_weights(NWMAdapter().read(files(), Options(**options)))


def test_weights_in_bfloat16_draw_about_the_same(world: World) -> None:
    rounded: Any = copy.deepcopy(world.model)
    rounded.store_in_bfloat16()
    frames, moves = torch.rand(1, 3, 3, SIDE, SIDE), torch.randn(1, 3, 3)
    with torch.no_grad():
        drawn = [
            one.imagine(begun(one, frames, moves[:, :2]), moves[:, 2:])[0].frames for one in (world.model, rounded)
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


def test_the_published_sampler_draws_with_the_variance_that_the_network_predicts() -> None:
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


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 heads"):
        NWMConfig(embed_dim=24, heads=5)
    with pytest.raises(ConfigError, match="made for 'vp' noise, not 'edm'"):
        DenoisingConfig(denoiser=NWMConfig(), process=EDM(), target=EDMPreconditioned())
    with pytest.raises(ConfigError, match="max_time_shift at most 16"):
        NWMConfig(pace=4)
    with pytest.raises(ConfigError, match="max_time_shift must be at least 1"):
        NWMConfig(max_time_shift=0)
    with pytest.raises(ConfigError, match="Box of 3 numbers"):
        NWMConfig().action_encoder(gym.spaces.Discrete(3))
    with pytest.raises(ConfigError, match="3 numbers, not 6"):
        TINY.build(dataclasses.replace(SHAPE, actions_per_frame=2))
    with pytest.raises(ConfigError, match="patch of 3 does not divide"):
        dataclasses.replace(TINY, patch=3).build(SHAPE)
    with pytest.raises(ConfigError, match="32 groups"):
        SDVAEConfig(channels=(20,))


def test_every_setting_of_the_denoiser_changes_what_it_predicts() -> None:
    generator = torch.Generator().manual_seed(6)
    frames, noisy = (torch.randn(1, 4, 4, 8, 8, generator=generator) for _ in range(2))
    given = DenoiserInput(noisy[:, :1], torch.full((1, 1), 200.0), torch.ones(1, 1, 3))

    def predicted(config: NWMConfig) -> Tensor:
        denoiser = config.build(SHAPE)
        filled(denoiser)
        with torch.no_grad():
            cache = denoiser.update_cache(denoiser.init_cache(noisy[:, 0]), context(frames))
            return denoiser.forward_cached(cache, given)

    changes = {"context": 2, "embed_dim": 36, "depth": 1, "heads": 3, "patch": 4, "pace": 2}
    assert {field.name for field in dataclasses.fields(NWMConfig)} == {*changes, "max_time_shift"}
    base = dataclasses.replace(TINY, max_time_shift=8)
    for name, value in changes.items():
        assert not torch.equal(predicted(dataclasses.replace(base, **{name: value})), predicted(base)), name
    assert (TINY.shift_range, base.shift_range) == (64, 8)


def test_every_setting_of_the_codec_changes_what_is_built() -> None:
    def built(config: SDVAEConfig) -> str:
        return str(config.build((3, SIDE, SIDE)))

    base = SDVAEConfig(channels=TINY_CODEC)
    changes = {"channels": (32, 64), "blocks": 1, "latent_channels": 8, "groups": 16}
    assert {field.name for field in dataclasses.fields(SDVAEConfig)} == {*changes, "training"}
    for name, value in changes.items():
        assert built(dataclasses.replace(base, **{name: value})) != built(base), name


def test_its_parts_are_written_as_json_and_read_back(world: World) -> None:
    written = part_to_json(world.config)
    assert (written["denoiser"]["kind"], written["codec"]["kind"]) == ("nwm", "sd_vae")
    assert part_from_json(written) == world.config

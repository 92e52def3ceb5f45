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
from safetensors.torch import save_file
from torch import Tensor

from dreamenv.backbones.denoising.networks import Asked
from dreamenv.data.starts import Starts
from dreamenv.dream.env import DreamEnv
from dreamenv.errors import ActionError, ConfigError, WeightsError
from dreamenv.importers.adapter import Options, fitted, published
from dreamenv.importers.importing import export_world, import_world
from dreamenv.importers.nwm import CODEC_NAMES, NETWORK_NAMES, NWMAdapter
from dreamenv.public.nwm import HIGHEST, LOWEST, Moves, NWMSizes
from dreamenv.public.sd_codec import SDCodecSizes
from dreamenv.world import World
from dreamenv.world_model import Batch

KEYS = Path(__file__).parent / "data" / "public" / "nwm_keys.txt"
PUBLISHED_CODEC, TINY_CODEC = (128, 256, 512, 512), (32, 32)
SIDE, WIDTH, DEPTH, CONTEXT = 16, 24, 2, 3  # frames of 16 x 16, latents of 8 x 8, 16 tokens
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
    architecture = NWMAdapter().read([tiny_network(), tiny_codec()], Options(heads=2, passes=4, **options))
    return World(fitted(architecture), architecture.config, tiny_starts())  # type: ignore[arg-type]


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
        assert found.config.public == NWMSizes()
        assert found.config.codec == SDCodecSizes()
        assert found.spec.frame_shape == (3, 224, 224)
        assert (found.config.context, found.config.passes, found.config.spacing) == (4, 250, "ends")
        ours = found.config.public.network(found.config, (4, 28, 28), 3)
        coder = found.config.codec.autoencoder((3, 224, 224))
    assert shapes(published(ours, NETWORK_NAMES)) == keys
    assert sum(one.numel() for one in ours.parameters()) == 1_011_959_456
    assert shapes(published(coder, CODEC_NAMES)) == shapes(codec)


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (768, 12), (1024, 16), (1152, 16), (320, 5)])
def test_heads_follow_from_the_width_as_published(width: int, heads: int) -> None:
    sizes = {1152: width, 384: width // 3, 3456: 3 * width, 4608: 4 * width, 12672: 11 * width, 2304: 2 * width}
    with torch.device("meta"):
        codec = diffusers_codec(PUBLISHED_CODEC).state_dict()
        network = {
            name: torch.empty([sizes.get(size, size) for size in shape]) for name, shape in recorded_keys(1).items()
        }
        found = NWMAdapter().read([network, codec], Options()).config.public
    assert isinstance(found, NWMSizes)
    assert found.heads == heads


def test_what_was_read_is_written_again_bit_for_bit(tmp_path: Path) -> None:
    network, codec = tiny_network(), tiny_codec()
    torch.save(
        {"ema": {f"_orig_mod.{name}": one for name, one in network.items()}, "args": argparse.Namespace(lr=1)},
        tmp_path / "0100000.pth.tar",
    )
    save_file(codec, tmp_path / "vae.safetensors")
    files = [tmp_path / "vae.safetensors", tmp_path / "0100000.pth.tar"]
    world = import_world("nwm", files, starts=tiny_starts(), options=Options(heads=2, passes=2))
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
    model: Any = fitted(NWMAdapter().read([renamed, tiny_network()], Options(heads=2)))
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


def test_the_network_says_what_it_said_when_it_was_checked(world: World) -> None:
    network: Any = world.model.network  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(5)
    latents, noisy = (torch.randn(1, n, 4, 8, 8, generator=generator) for n in (CONTEXT, 1))
    moves = torch.tensor([[[0.5, -0.25, 0.1]]])
    with torch.no_grad():
        past = network.remember(network.begin(noisy[:, 0]), latents, moves)
        said = network.predict(past, Asked(noisy, torch.tensor([[421.0]]), moves, gap=torch.tensor([[3.0]])))
    assert said.shape == (1, 1, 8, 8, 8)
    found = torch.stack((said.mean(), said.std(), said[0, 0, 0, 0, 0], said[0, 0, 7, 7, 7]))
    torch.testing.assert_close(found, torch.tensor([0.039826, 1.210261, 0.516700, -0.476336]), rtol=0, atol=1e-5)


def test_a_step_from_memory_is_that_of_the_whole_sequence(world: World) -> None:
    network: Any = world.model.network  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(2)
    clean, noisy = (torch.randn(2, 6, 4, 8, 8, generator=generator) for _ in range(2))
    moves, level = torch.randn(2, 6, 3, generator=generator), torch.rand(2, 6, generator=generator).mul(999).floor()
    for gap in (1, 3):
        gaps = torch.full((2, 6), float(gap))
        with torch.no_grad():
            together = network.predict_all(clean, Asked(noisy, level, moves, gap=gaps))
            for frame in range(gap, 6):
                past = network.begin(clean[:, 0])
                for before in range(frame - gap + 1):
                    past = network.remember(past, clean[:, before : before + 1], moves[:, before : before + 1])
                one = slice(frame, frame + 1)
                alone = network.predict(past, Asked(noisy[:, one], level[:, one], moves[:, one], gap=gaps[:, one]))
                torch.testing.assert_close(together[:, one], alone, rtol=0, atol=1e-5)


def test_moves_become_what_the_network_was_taught_to_hear(world: World) -> None:
    network: Any = world.model.network  # type: ignore[attr-defined]
    moves = torch.tensor([[-2.5, 4.0, 0.5], [5.0, -4.0, -3.0], [0.0, 0.0, 0.0]])
    heard = Moves(gym.spaces.Box(np.float32(LOWEST), np.float32(HIGHEST)))(moves) + network.still
    expected = torch.tensor([[-1.0, 1.0, 0.5], [1.0, -1.0, -3.0], [-1 / 3, 0.0, 0.0]])
    torch.testing.assert_close(heard, expected, rtol=0, atol=1e-6)


def test_a_leap_is_told_the_whole_move_and_the_time_it_takes(world: World) -> None:
    model: Any = world.model
    network, generator = model.network, torch.Generator().manual_seed(3)
    frames, moves = torch.rand(2, 3, 3, SIDE, SIDE, generator=generator), torch.randn(2, 4, 3, generator=generator)
    state = begun(model, frames, moves[:, :2])
    asked = []

    def listen(_: Any, inputs: tuple[Tensor, ...]) -> None:
        asked.append(inputs[0].clone())

    hooks = [part.register_forward_pre_hook(listen) for part in (*network.moves, network.ahead)]
    with torch.no_grad():
        model.predict_ahead(state, moves)
    for hook in hooks:
        hook.remove()
    *move, ahead = (one[:, 0] for one in asked[:4])
    total = moves.sum(1) * torch.tensor([2 / 7.5, 2 / 8, 1.0]) + torch.tensor([-1 / 3, 0.0, 0.0])
    torch.testing.assert_close(torch.stack(move, dim=-1), total)
    torch.testing.assert_close(ahead, torch.full((2,), 4 / 128))
    with pytest.raises(ActionError, match="jump 64 steps"):
        model.predict_ahead(state, torch.zeros(2, 65, 3))


def test_before_there_are_enough_frames_the_first_one_stands_for_them(world: World) -> None:
    network: Any = world.model.network  # type: ignore[attr-defined]
    frames, moves = torch.randn(2, 2, 4, 8, 8), torch.zeros(2, 2, 3)
    kept = network.remember(network.begin(frames[:, 0]), frames, moves)
    assert torch.equal(kept["latents"], frames[:, [0, 0, 1]])
    assert kept["held"].tolist() == [2, 2]


def test_latents_are_drawn_from_the_row_s_own_stream(world: World) -> None:
    model: Any = world.model
    frame = torch.rand(1, 3, SIDE, SIDE).expand(2, -1, -1, -1)
    with torch.no_grad():
        same, other = (model.start(frame, torch.tensor(seeds))["latents"] for seeds in ([7, 7], [7, 8]))
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


def test_training_on_reaches_every_parameter_of_the_network() -> None:
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
    assert model.network.leave.bias.grad.reshape(-1, 8).abs().amin(0).min() > 0  # also of the variance
    still = [name for name, one in model.network.named_parameters() if one.grad is None or not one.grad.abs().any()]
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
    "passes": (lambda: [network(), codec()], {"passes": 2000}, "passes must be from 1 to 1000"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_what_is_wrong(case: str) -> None:
    files, options, match = BAD[case]
    with pytest.raises(WeightsError, match=match):
        fitted(NWMAdapter().read(files(), Options(**options)))


def test_weights_in_bfloat16_draw_about_the_same(world: World) -> None:
    rounded: Any = copy.deepcopy(world.model)
    rounded.store_in_bfloat16()
    frames, moves = torch.rand(1, 3, 3, SIDE, SIDE), torch.randn(1, 3, 3)
    with torch.no_grad():
        drawn = [
            one.imagine(begun(one, frames, moves[:, :2]), moves[:, 2:])[0].frames for one in (world.model, rounded)
        ]
    assert 0 < float((drawn[0] - drawn[1]).abs().mean()) < 0.02


def test_few_passes_are_made_by_another_sampler() -> None:
    tensors = [tiny_network(), tiny_codec()]
    found = [NWMAdapter().read(tensors, Options(heads=2, passes=passes)).config for passes in (None, 100, 25)]
    assert [(one.passes, one.sampler) for one in found] == [(250, "learned"), (100, "learned"), (25, "dpm")]


def test_the_published_sampler_draws_with_the_variance_that_the_network_says() -> None:
    model: Any = tiny_world().model
    drawn = []
    for scale in (0.0, 3.0):
        config = dataclasses.replace(model.config, sampler="learned", passes=6)
        other: Any = config.build(model.spec)
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            other.network.leave.bias[4::8] += scale  # of the variance of the first latent channel, not of the noise
            other.network.leave.bias[5::8] += scale
            state = other.start(torch.full((1, 3, SIDE, SIDE), 0.5), torch.tensor([0]))
            drawn.append(other.imagine(state, torch.zeros(1, 1, 3))[0].frames)
    assert not torch.equal(*drawn)


def test_frames_may_be_wider_than_high() -> None:
    assert tiny_world(size=(8, 32)).spec.frame_shape == (3, 8, 32)


def test_sizes_that_cannot_be_are_refused(world: World) -> None:
    config: Any = world.config
    with pytest.raises(ConfigError, match="5 heads"):
        NWMSizes(width=24, heads=5)
    with pytest.raises(ConfigError, match="noise='chain'"):
        NWMSizes().network(type(config)(), (4, 8, 8), 3)
    with pytest.raises(ConfigError, match="16"):
        NWMSizes(pace=4).network(config, (4, 8, 8), 3)
    with pytest.raises(ConfigError, match="Box of 3 numbers"):
        NWMSizes().vectors(gym.spaces.Discrete(3))
    with pytest.raises(ConfigError, match="32 groups"):
        SDCodecSizes(channels=(20,))

"""What a denoising world is made of: memories that agree with whole sequences, causality, chunks, refusals."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import pytest
import torch
from contract import SPEC
from gymnasium.utils.env_checker import check_env
from test_backbones import TINY_DIT
from torch import Tensor, nn
from toy import toy_dataset

from dreamenv.backbones.denoising import DenoisingConfig, DenoisingWorld, chunkwise, diamond, diffusion_forcing, tiny
from dreamenv.cli import main
from dreamenv.diffusion.objective import stabilised
from dreamenv.dream import DreamEnv
from dreamenv.errors import ActionError, ConfigError
from dreamenv.nn.attention import rotate
from dreamenv.nn.unet import UNet
from dreamenv.training.config import TrainConfig
from dreamenv.training.trainer import train
from dreamenv.world import World

ROWS, FRAMES = 3, 5


def awake(config: DenoisingConfig) -> DenoisingWorld:
    """A world whose every weight is random, also those that begin as 0."""
    torch.manual_seed(0)
    world = config.build(SPEC).eval()
    for parameter in world.network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return world


def sequence(world: DenoisingWorld) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clean frames in [-1, 1], noisy ones, levels and action vectors, of one sequence per row."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand((ROWS, FRAMES, *SPEC.frame_shape), generator=generator) * 2 - 1
    noisy = torch.randn(clean.shape, generator=generator)
    level = world.process.draw(torch.rand((ROWS, FRAMES), generator=generator))
    actions = world.action(torch.randint(3, (ROWS, FRAMES), generator=generator))
    return clean, noisy, level, torch.cat((torch.zeros_like(actions[:, :1]), actions[:, 1:]), dim=1)


@pytest.mark.parametrize("context", [1, 3])
def test_stacked_frames_remember_what_the_whole_sequence_shows(context):
    world = awake(dataclasses.replace(tiny(), context=context))
    clean, noisy, level, actions = sequence(world)
    with torch.no_grad():
        whole = world.network.predict_all(clean, noisy, level, actions)
        past = world.network.begin(clean[:, 0])
        for i in range(1, FRAMES):
            past = world.network.remember(past, clean[:, i - 1 : i], actions[:, i - 1 : i])
            alone = world.network.predict(past, *(x[:, i : i + 1] for x in (noisy, level, actions)))
            torch.testing.assert_close(alone, whole[:, i : i + 1], rtol=1e-4, atol=1e-5)
    assert float(whole[:, 1:].std()) > 0.01


@pytest.mark.parametrize("manner", ["scaled", "labelled"])
@pytest.mark.parametrize("context", [2, 8])
def test_a_cached_step_equals_one_that_computes_everything_anew(manner, context):
    """Within 1e-5, while the window stands; once it slides, with the cache that a sliding window makes."""
    world = awake(dataclasses.replace(TINY_DIT, context=context, manner=manner))
    clean, noisy, level, actions = sequence(world)
    shown, shown_level = stabilised(world.process, clean, world.config.stabilisation, manner)
    with torch.no_grad():
        past = world.network.begin(clean[:, 0])
        for i in range(1, FRAMES):
            past = world.network.remember(past, clean[:, i - 1 : i], actions[:, i - 1 : i])
            alone = world.network.predict(past, *(x[:, i : i + 1] for x in (noisy, level, actions)))
            anew = world.network.predict_all(
                clean,
                torch.cat((shown[:, :i], noisy[:, i : i + 1]), dim=1),
                torch.cat((shown_level[:, :i], level[:, i : i + 1]), dim=1),
                actions[:, : i + 1],
            )
            torch.testing.assert_close(alone, anew[:, -1:], rtol=1e-5, atol=1e-5)
    assert past["keys"].shape[-2] == context
    assert past["held"].tolist() == [min(context, FRAMES - 1)] * ROWS


def test_a_frame_is_drawn_without_knowing_the_future_and_looks_no_further_back_than_it_says():
    world = awake(dataclasses.replace(TINY_DIT, context=2, depth=1))
    clean, noisy, level, actions = sequence(world)

    def changed(at: int) -> list[bool]:
        other = noisy.clone()
        other[:, at] += 1
        with torch.no_grad():
            before, after = (world.network.predict_all(clean, x, level, actions) for x in (noisy, other))
        return [bool((before[:, i] != after[:, i]).any()) for i in range(FRAMES)]

    assert changed(2) == [False, False, True, True, True]
    assert changed(0) == [True, True, True, False, False]


def test_rotations_tell_distances_only():
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    here, far = ((rotate(query, torch.tensor(p + 3)) * rotate(key, torch.tensor(p))).sum() for p in (0, 500))
    torch.testing.assert_close(here, far, rtol=1e-3, atol=1e-3)
    nearer = (rotate(query, torch.tensor(1)) * rotate(key, torch.tensor(0))).sum()
    assert abs(float(nearer - here)) > 1e-3


def test_temperature_scales_the_noise_that_a_frame_begins_as():
    world = awake(dataclasses.replace(tiny(), quantise=False))
    actions = torch.zeros(2, 1, dtype=torch.int64)
    states = [world.start(torch.full((2, *SPEC.frame_shape), 0.5), torch.arange(2)) for _ in range(2)]
    states[1]["temperature"] = torch.zeros(2)
    with torch.no_grad():
        warm, cold = (world.imagine(state, actions)[0].frames for state in states)
    assert (warm[0] != warm[1]).any()  # their seeds differ
    assert torch.equal(cold[0], cold[1])


def test_frames_are_rounded_as_a_user_sees_them():
    world = awake(tiny())
    with torch.no_grad():
        state = world.start(torch.rand(2, *SPEC.frame_shape), torch.arange(2))
        frames = world.imagine(state, torch.zeros(2, 3, dtype=torch.int64))[0].frames
    torch.testing.assert_close(frames * 255, (frames * 255).round(), rtol=0, atol=1e-4)


def test_half_a_chunk_is_refused():
    world = awake(dataclasses.replace(TINY_DIT, chunk=2))
    state = world.start(torch.rand(2, *SPEC.frame_shape), torch.arange(2))
    with pytest.raises(ActionError, match="multiple of 2, not 3"):
        world.imagine(state, torch.zeros(2, 3, dtype=torch.int64))
    world.observe(state, torch.zeros(2, 3, dtype=torch.int64), torch.rand(2, 3, *SPEC.frame_shape))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"chunk": 2}, "U-Net draws one frame at a time, not 2"),
        ({"network": "rnn"}, "'unet' or 'dit', not 'rnn'"),
        ({"target": "velocity"}, "velocity.*does not go with Karras"),
        ({"noise": "white"}, "white"),
        ({"passes": 0}, "pass"),
        ({"sampler": "fast"}, "fast"),
        ({"network": "dit", "chunk": 4}, "chunk of 4 does not divide the 6 steps"),
        ({"network": "dit", "plan": "spiral"}, "spiral"),
        ({"context": 0}, "context must be at least 1, not 0"),
        ({"condition": 33}, "even, not 33"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings, named):
    with pytest.raises(ConfigError, match=named):
        dataclasses.replace(tiny(), **settings)


def test_sizes_that_do_not_fit_the_frame_are_refused():
    with pytest.raises(ConfigError, match="16 x 16 are no multiple of 32"):
        dataclasses.replace(tiny(), channels=(8, 8, 8, 8), patch=4).build(SPEC)
    with pytest.raises(ConfigError, match="patch of 5 does not divide"):
        dataclasses.replace(TINY_DIT, patch=5).build(SPEC)
    with pytest.raises(ConfigError, match="3 heads"):
        dataclasses.replace(TINY_DIT, heads=3).build(SPEC)
    with pytest.raises(ConfigError, match="positive"):
        UNet((8, 8), 3, 3, 8, (), 1)


@pytest.mark.parametrize("config", [tiny(), TINY_DIT], ids=["unet", "dit"])
def test_a_falling_square_is_learned_and_dreamt(config, tmp_path):
    """After a few hundred steps the next frame is foretold far better than by the last one again."""
    dataset = toy_dataset(tmp_path / "toy", 30)
    settings = TrainConfig(
        steps={"denoiser": 400, "events": 100}, progress=False, device="cpu", start_context=2, eval_horizon=5,
        warmup_steps=20,
    )  # fmt: skip
    world = train(settings, config, dataset, tmp_path / "run")
    first = world.metrics["horizons"]["1"]
    assert first["psnr"]["mean"] > first["persistence_psnr"]["mean"] + 1.5
    env = DreamEnv(World.load(tmp_path / "run" / "world"), horizon=6)
    frames = [env.reset(seed=0)[0], *(env.step(action)[0] for action in (0, 1, 2))]
    assert all(frame.shape == (16, 16, 3) for frame in frames)
    assert (frames[1] != frames[2]).any()


def test_a_world_of_chunks_is_an_environment_of_frames(tmp_path):
    config = dataclasses.replace(TINY_DIT, chunk=2)
    settings = TrainConfig(
        steps={"denoiser": 1, "events": 1}, progress=False, device="cpu", start_context=2, eval_horizon=4
    )
    train(settings, config, toy_dataset(tmp_path / "toy", 6), tmp_path / "run")
    place = tmp_path / "run" / "world"
    for observation in ("frame", "latent"):
        env = gym.make("dreamenv:dreamenv/Dream-v0", world=place, observation=observation, horizon=5)
        check_env(env.unwrapped, skip_render_check=True)
    assert main(["play", str(place), "--headless", "--steps", "5", "--out", str(tmp_path / "dream.mp4")]) == 0


@pytest.mark.parametrize(("preset", "millions"), [(diamond, 4.4), (diffusion_forcing, 7.5), (chunkwise, 7.5)])
def test_presets_build_at_64_pixels(preset, millions):
    """DIAMOND's denoiser for Atari has 4.4 million parameters."""
    world = preset().build(dataclasses.replace(SPEC, frame_shape=(3, 64, 64)))
    size = sum(parameter.numel() for parameter in world.network.parameters()) / 1e6
    assert size == pytest.approx(millions, rel=0.25)

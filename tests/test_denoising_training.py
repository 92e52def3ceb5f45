"""What denoising worlds learn from: noise levels by block, weights of errors; and that they learn."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from tiny_worlds import (
    TINY,
    TINY_CROSS,
    TINY_DIT,
    TINY_LATENT,
    TINY_PACKED,
    randomized,
    with_denoiser,
    with_training,
)
from toy import toy_dataset

from dreamenv.backbones.denoising import DenoisingWorld
from dreamenv.backbones.denoising.training import DenoiserTraining, draw_blocks
from dreamenv.cli import main
from dreamenv.diffusion.context_noise import NoiseAugmentation
from dreamenv.diffusion.guidance import Guidance
from dreamenv.diffusion.sampler import DDIM
from dreamenv.diffusion.schedule import Chunkwise, FullSequence
from dreamenv.diffusion.target import Velocity
from dreamenv.dream import DreamEnv
from dreamenv.errors import ConfigError
from dreamenv.presets import make_config, preset_names
from dreamenv.testing import SPEC
from dreamenv.training.config import OptimizerConfig, TrainConfig
from dreamenv.training.trainer import train
from dreamenv.world import World
from dreamenv.world_model import Batch

ROWS, FRAMES = 3, 5
IN_GROUPS = dataclasses.replace(
    with_training(TINY_DIT, sequence_length=8),
    sampler=DDIM(steps=4),
    schedule=Chunkwise(frames=4, group=2, in_flight=2),
)
FOR_A_GPU = {"diamond", "diffusion_forcing_like_base"}
MILLIONS = {
    "small": 1.2, "small_latents": 1.02, "tiny": 0.13, "diamond": 4.4, "gamefactory_like": 2.7, "framepack_like": 1.87,
    "diffusion_forcing_like_base": 172, "foveated": 1.27,
}  # fmt: skip


def learned_from(config, frames=FRAMES, rows=ROWS):
    """What the denoiser is given to learn from: context and noisy frames."""
    world, given = randomized(config), []
    forward = world.denoiser.forward_sequence
    world.denoiser.forward_sequence = lambda *inputs: given.append(inputs) or forward(*inputs)
    generator = torch.Generator().manual_seed(2)
    actions = world.action(torch.ones(rows, frames, dtype=torch.int64))
    world._loss(world.denoiser, torch.ones(rows, frames, *SPEC.frame_shape), actions, generator)
    return given[0]


@pytest.mark.parametrize(
    ("config", "cropped"), [(TINY, True), (TINY_DIT, True), (TINY_LATENT, True), (IN_GROUPS, False)]
)
def test_windows_are_cropped_at_episode_ends_unless_frames_would_see_the_padding(config, cropped):
    """Clamped windows would show what precedes an ending to full contexts many times as often as to young ones."""
    stages = {stage.name: stage.crop_at_episode_ends for stage in config.build(SPEC).stages()}
    assert (stages["denoiser"], stages["head"]) == (cropped, True)


def test_windows_are_learned_from_as_observed_first_and_as_sampled_in_blocks_after():
    generator, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
    seen = {tuple(draw_blocks(5, 2, generator, cpu).tolist()) for _ in range(20)}
    assert seen == {(0, 1, 1, 2, 2), (0, 1, 2, 3, 3)}
    assert draw_blocks(4, 1, generator, cpu).tolist() == [0, 1, 2, 3]


def test_frames_learn_at_noise_levels_of_their_own_or_of_their_block():
    _, noisy = learned_from(TINY_DIT)
    assert len(noisy.time.unique()) > 12
    _, noisy = learned_from(dataclasses.replace(TINY_DIT, schedule=FullSequence(frames=2)))
    for i in range(1, FRAMES):
        together = bool(noisy.block_ids[i] == noisy.block_ids[i - 1])
        assert bool((noisy.time[:, i] == noisy.time[:, i - 1]).all()) == together
    assert len(noisy.block_ids.unique()) < FRAMES


def test_actions_and_context_are_hidden_as_often_as_guidance_says():
    config = dataclasses.replace(TINY_CROSS, guidance=Guidance(action_dropout=0.25, context_dropout=0.5))
    context, noisy = learned_from(config, frames=2, rows=400)
    hidden = (noisy.actions == 0).flatten(1).all(1)
    assert float(hidden.float().mean()) == pytest.approx(0.25, abs=0.07)
    assert float(noisy.drop_context.float().mean()) == pytest.approx(0.5, abs=0.08)
    assert torch.equal(context.actions, noisy.actions)
    _, noisy = learned_from(TINY_CROSS, frames=2)
    assert noisy.drop_context is None
    assert bool(noisy.actions.any(-1).all())


def test_context_gets_noise_of_its_own_where_it_is_augmented():
    context, _ = learned_from(dataclasses.replace(TINY_CROSS, context_noise=NoiseAugmentation(max_std=0.5)), rows=64)
    stds = (context.frames - 1).flatten(1).std(1)
    assert 0 < float(stds.min()) < 0.1
    assert 0.4 < float(stds.max()) < 0.55
    assert torch.equal(context.time, torch.zeros_like(context.time))  # and is presented as clean all the same
    context, _ = learned_from(TINY_CROSS)
    assert bool((context.frames == 1).all())


def test_a_time_shift_comes_with_the_mean_of_the_actions_in_it():
    world = randomized(with_denoiser(TINY_CROSS, max_time_shift=3))
    given, forward = [], world.denoiser.forward_sequence
    world.denoiser.forward_sequence = lambda *inputs: given.append(inputs) or forward(*inputs)
    actions = torch.rand(ROWS, FRAMES, 3, generator=torch.Generator().manual_seed(0))
    frames = torch.ones(ROWS, FRAMES, *SPEC.frame_shape)
    _, possible = world._loss(world.denoiser, frames, actions, torch.Generator().manual_seed(2))
    _, noisy = given[0]
    assert set(noisy.time_shift.flatten().tolist()) == {1, 2, 3}
    for row in range(ROWS):
        for i in range(FRAMES):
            shift = int(noisy.time_shift[row, i])
            assert bool(possible[row, i]) == (shift <= i)
            if shift <= i:
                mean = actions[row, i - shift + 1 : i + 1].mean(0)
                torch.testing.assert_close(noisy.actions[row, i], mean)


def error_of(predict, frames, **settings):
    """The loss (b, s) of a denoiser that predicts what `predict` says of its noisy frames."""
    world = randomized(dataclasses.replace(TINY_DIT, **settings))
    world.denoiser.forward_sequence = lambda context, noisy: predict(noisy)
    actions = world.action(torch.zeros(*frames.shape[:2], dtype=torch.int64))
    return world._loss(world.denoiser, frames, actions, torch.Generator().manual_seed(2))[0]


def test_a_frames_error_counts_as_its_velocitys():
    frames, process = torch.ones(ROWS, FRAMES, *SPEC.frame_shape), TINY_DIT.process

    def as_velocity(noisy):
        level = (noisy.time * process.steps).round()
        alpha, sigma = (value[..., None, None, None] for value in process.alpha_sigma(level))
        return alpha * noisy.frames / sigma  # of a frame of zeros

    plain, weighted = (
        error_of(
            lambda noisy: 0 * noisy.frames, frames, training=dataclasses.replace(TINY.training, loss_weighting=name)
        )
        for name in ("plain", "velocity")
    )
    torch.testing.assert_close(plain, torch.ones_like(plain))
    torch.testing.assert_close(weighted, error_of(as_velocity, frames, target=Velocity()).clamp_max(1 / 0.05**2))
    assert float(weighted.max()) > 4


def test_a_frames_error_counts_where_it_moves():
    moving = dataclasses.replace(TINY.training, motion_weight=0.8)

    def error(frames, **settings):
        wrong = torch.zeros_like(frames)
        wrong[..., 0, 0] = 1  # in one corner, by 1
        return error_of(lambda noisy: frames + wrong, frames, **settings)

    still = torch.zeros(ROWS, FRAMES, *SPEC.frame_shape)
    torch.testing.assert_close(error(still, training=moving), error(still))
    there, elsewhere = still.clone(), still.clone()
    there[:, 2:, :, 0, 0], elsewhere[:, 2:, :, 8, 8] = 1, 1  # what moves, moves between the second and the third frame
    plain = error(still)
    for frames, more in ((there, True), (elsewhere, False)):
        ratio = error(frames, training=moving) / plain
        assert (ratio[:, 2] > 2).all() == more  # as it moves
        assert (ratio[:, 3] > 2).all() == more  # and in the frame after
        if not more:
            assert (ratio[:, 2:4] < 1).all()
        torch.testing.assert_close(ratio[:, 4:], torch.ones_like(ratio[:, 4:]))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": 0}, "steps must be positive, not 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, not 0.0"),
        ({"loss_weighting": "fair"}, "loss_weighting must be 'plain' or 'velocity', not 'fair'"),
        ({"motion_weight": 1.0}, r"motion_weight must be in \[0, 1\), not 1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings, named):
    with pytest.raises(ConfigError, match=named):
        DenoiserTraining(**settings)


def test_latents_have_the_measure_that_noise_is_made_for(tmp_path):
    settings = TrainConfig(
        steps={"codec": 300, "denoiser": 1, "head": 1}, progress=False, device="cpu", start_context=2, eval_horizon=5,
        eval_windows=2, optimizer=OptimizerConfig(warmup_steps=20),
    )  # fmt: skip
    dataset = toy_dataset(tmp_path / "toy", 20)
    world = train(settings, TINY_LATENT, dataset, tmp_path / "run")
    frames = torch.from_numpy(dataset[0].frames[:8]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        latents = world.model.codec.encode(frames[None])
        shown = world.model.codec.decode(latents)[0]
    assert 0.5 < float(latents.std()) < 2
    assert float((shown - frames).square().mean()) < 0.3 * float((frames - frames.mean(0)).square().mean())
    assert World.load(tmp_path / "run" / "world").content_hash() == world.content_hash()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(TINY, id="unet"),
        pytest.param(TINY_DIT, id="causal_dit"),
        pytest.param(TINY_CROSS, id="cross_dit", marks=pytest.mark.slow),
        pytest.param(TINY_PACKED, id="framepack", marks=pytest.mark.slow),
    ],
)
def test_a_falling_square_is_learned_and_dreamt(config, tmp_path):
    """After a few hundred steps the next frame is predicted far better than by the last one again."""
    dataset = toy_dataset(tmp_path / "toy", 30)
    settings = TrainConfig(
        steps={"denoiser": 400, "head": 100}, progress=False, device="cpu", start_context=2, eval_horizon=5,
        optimizer=OptimizerConfig(warmup_steps=20),
    )  # fmt: skip
    world = train(settings, config, dataset, tmp_path / "run")
    first = world.metrics["horizons"]["1"]
    assert first["psnr"]["mean"] > first["persistence_psnr"]["mean"] + 1.0
    env = DreamEnv(World.load(tmp_path / "run" / "world"), horizon=6)
    frames = [env.reset(seed=0)[0], *(env.step(action)[0] for action in (0, 1, 2))]
    assert all(frame.shape == (16, 16, 3) for frame in frames)
    assert (frames[1] != frames[2]).any()


def test_a_world_of_chunks_is_an_environment_of_frames(tmp_path):
    config = dataclasses.replace(TINY_DIT, schedule=FullSequence(frames=2))
    settings = TrainConfig(
        steps={"denoiser": 1, "head": 1}, progress=False, device="cpu", start_context=2, eval_horizon=4
    )
    train(settings, config, toy_dataset(tmp_path / "toy", 6), tmp_path / "run")
    place = tmp_path / "run" / "world"
    for observation in ("frame", "latent"):
        env = gym.make("dreamenv:dreamenv/Dream-v0", world=place, observation=observation, horizon=5)
        check_env(env.unwrapped, skip_render_check=True)
    assert main(["play", str(place), "--headless", "--steps", "5", "--out", str(tmp_path / "dream.mp4")]) == 0


@pytest.mark.parametrize("preset", preset_names("denoising"))
def test_every_preset_samples_frames_of_64_pixels_and_learns(preset):
    """DIAMOND's denoiser for Atari has 4.4 million parameters."""
    world = make_config("denoising", preset).build(dataclasses.replace(SPEC, frame_shape=(3, 64, 64)))
    assert isinstance(world, DenoisingWorld)
    size = sum(parameter.numel() for parameter in world.denoiser.parameters()) / 1e6
    assert size == pytest.approx(MILLIONS.get(preset, 2.45), rel=0.1)
    if preset in FOR_A_GPU:
        return
    chunk = world.spec.chunk
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        state = world.start(torch.rand(1, 3, 64, 64, generator=generator), torch.arange(1))
        state = world.observe(state, torch.zeros(1, 3, dtype=torch.int64), torch.rand(1, 3, 3, 64, 64))
        imagined, _ = world.imagine(state, torch.zeros(1, chunk, dtype=torch.int64))
        frames = torch.rand(1, 20, 3, 64, 64, generator=generator)
        batch = Batch(
            first_frame=frames[:, 0], frames=frames, actions=torch.zeros(1, 20, dtype=torch.int64),
            rewards=torch.zeros(1, 20), terminated=torch.zeros(1, 20, dtype=torch.bool), weight=torch.ones(1, 20),
            generator=generator,
        )  # fmt: skip
        loss, _ = world.denoising_loss(batch)
    assert imagined.frames.shape == (1, chunk, 3, 64, 64)
    assert 0 <= float(loss) < 20

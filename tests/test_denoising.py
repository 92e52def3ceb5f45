"""What denoising worlds do around their denoiser: guidance, steps, context, precision, what a user sees."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from drifting import make_provenance, make_starts, make_world
from tiny_worlds import (
    TINY,
    TINY_CROSS,
    TINY_DIT,
    TINY_FOVEATED,
    TINY_LATENT,
    TINY_PACKED,
    TINY_SHORTCUT,
    randomized,
    with_denoiser,
)

from dreamenv.denoisers.causal_dit import CausalDiTConfig
from dreamenv.diffusion.guidance import Guidance
from dreamenv.diffusion.process import EDM, RectifiedFlow
from dreamenv.diffusion.sampler import DDIM, Ancestral, Euler, Heun
from dreamenv.diffusion.schedule import FullSequence, Pyramid
from dreamenv.diffusion.shortcut import Shortcut
from dreamenv.dream import DreamEnv
from dreamenv.errors import ActionError, ConfigError, UnknownNameError, WorldDamagedError
from dreamenv.parts import part_to_json
from dreamenv.storage import seal, write_json
from dreamenv.testing import SPEC
from dreamenv.world import World

ROWS = 3


def begin(world, rows=2):
    frames = torch.rand(rows, *SPEC.frame_shape, generator=torch.Generator().manual_seed(0))
    return world.start(frames, torch.arange(rows))


def inputs_of(world):
    """A list of the inputs that the world's denoiser is given from now on."""
    given, forward = [], world.denoiser.forward_cached
    world.denoiser.forward_cached = lambda cache, noisy: given.append(noisy) or forward(cache, noisy)
    return given


def sampled_with(config, **scales):
    guidance = dataclasses.replace(config.guidance, **scales)
    world = randomized(dataclasses.replace(config, guidance=guidance, sampler=DDIM(steps=1)))
    with torch.no_grad():
        return world._sample(begin(world), world.action(torch.ones(2, 1, dtype=torch.int64)))[0]


def test_guidance_of_one_is_none_and_more_goes_further():
    config = dataclasses.replace(TINY_DIT, guidance=Guidance(action_dropout=0.1))
    one, nearly, two, three = (
        sampled_with(config, action_guidance_scale=scale) for scale in (1.0, 1.0 + 1e-6, 2.0, 3.0)
    )
    torch.testing.assert_close(one, nearly, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(three - one, 2 * (two - one), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(one, two, atol=1e-3)


@pytest.mark.parametrize("config", [TINY, TINY_CROSS, TINY_PACKED], ids=["unet", "cross_dit", "framepack"])
def test_actions_and_the_past_are_weighed_apart(config):
    config = dataclasses.replace(config, guidance=Guidance(action_dropout=0.1, context_dropout=0.1))

    def sampled(context, action):
        return sampled_with(config, context_guidance_scale=context, action_guidance_scale=action)

    without, past, full = sampled(0.0, 0.0), sampled(1.0, 0.0), sampled(1.0, 1.0)
    expected = without + 2 * (past - without) + 3 * (full - past)
    torch.testing.assert_close(sampled(2.0, 3.0), expected, rtol=1e-3, atol=1e-3)
    for other in (past, full):
        assert not torch.allclose(without, other, atol=1e-3)


def test_guidance_by_the_past_alone_asks_only_about_the_actions_taken():
    guidance = Guidance(context_dropout=0.1, context_guidance_scale=2.0)
    world = randomized(dataclasses.replace(TINY, guidance=guidance, sampler=DDIM(steps=1)))
    given = inputs_of(world)
    actions = world.action(torch.ones(2, 1, dtype=torch.int64))
    with torch.no_grad():
        guided = world._sample(begin(world), actions)[0]
    assert len(given) == 2  # with the past and without
    for noisy in given:
        torch.testing.assert_close(noisy.actions, actions)
    without, full = (
        sampled_with(dataclasses.replace(TINY, guidance=guidance), context_guidance_scale=scale) for scale in (0.0, 1.0)
    )
    torch.testing.assert_close(guided, without + 2 * (full - without), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "config",
    [TINY, TINY_DIT, TINY_CROSS, TINY_PACKED, TINY_FOVEATED, TINY_LATENT],
    ids=["unet", "causal_dit", "cross_dit", "framepack", "foveated_dit", "latents"],
)
def test_rounded_weights_sample_almost_the_same_with_a_float32_cache(config):
    world = randomized(config)
    rounded = copy.deepcopy(world)
    rounded.store_in_bfloat16()
    first, actions = torch.rand(2, *SPEC.frame_shape), torch.ones(2, 2, dtype=torch.int64)
    found = []
    for model in (world, rounded):
        with torch.no_grad():
            imagined, state = model.imagine(model.start(first, torch.arange(2)), actions)
        found.append((imagined, state))
    (exact, _), (near, state) = found
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    assert near.frames.dtype == near.rewards.dtype == torch.float32
    error = float((near.frames - exact.frames).abs().mean())
    assert 0 < error < 0.1 * float(exact.frames.std())


def test_a_world_with_shortcuts_is_sampled_in_fewer_steps_without_training_again():
    config = dataclasses.replace(TINY_SHORTCUT, sampler=Shortcut(steps=4, max_steps=4))
    world = World(randomized(config), config, make_starts(4, 16, SPEC.action_space), make_provenance(16))
    quick = world.replaced(sampler=Shortcut(steps=1, max_steps=4))
    sizes = {}
    for name, one in (("slow", world), ("quick", quick)):
        given = inputs_of(one.model)
        env = DreamEnv(one)
        env.reset(seed=0)
        env.step(1)
        sizes[name] = [round(float(noisy.step_size[0, 0]), 3) for noisy in given]
    assert sizes == {"slow": [0.25] * 4, "quick": [1.0]}
    with pytest.raises(ConfigError, match=r"denoiser=.*depth=3.* needs other weights"):
        world.replaced(denoiser=dataclasses.replace(config.denoiser, depth=3))
    with pytest.raises(ConfigError, match=r"sampler=Euler.* needs other weights"):
        world.replaced(sampler=Euler(steps=4))
    with pytest.raises(ConfigError, match="context of 32 frames is longer"):
        world.replaced(denoiser=dataclasses.replace(config.denoiser, context=32))
    with pytest.raises(UnknownNameError, match=r"'samplr'.*'sampler'"):
        world.replaced(samplr=Euler())


@pytest.mark.parametrize(
    ("sampler", "evaluations"), [(Euler(steps=3), 3), (Heun(steps=3), 5), (Ancestral(steps=3), 3)], ids=str
)
def test_the_denoiser_runs_once_a_step_and_twice_where_steps_are_corrected(sampler, evaluations):
    world = randomized(dataclasses.replace(TINY, sampler=sampler))
    given = inputs_of(world)
    with torch.no_grad():
        world.imagine(begin(world), torch.zeros(2, 1, dtype=torch.int64))
    assert len(given) == evaluations


def test_frames_of_a_chunk_go_through_the_levels_as_the_schedule_says():
    config = dataclasses.replace(TINY_DIT, sampler=DDIM(steps=2), schedule=Pyramid(frames=2))
    world = randomized(config)
    given, levels = inputs_of(world), config.process.sampling_levels(2)
    with torch.no_grad():
        world.imagine(begin(world), torch.zeros(2, 2, dtype=torch.int64))
    expected = torch.stack([levels[[0, 0]], levels[[1, 0]], levels[[2, 1]]])
    times = torch.stack([noisy.time[0] for noisy in given])
    assert torch.equal(times, config.process.time(expected))
    assert [noisy.block_ids.tolist() for noisy in given] == [[0, 1]] * 3


def test_the_noise_that_frames_begin_as_is_as_strong_as_the_process_or_the_sampler_says():
    for process, init_noise_sigma, expected in ((EDM(sigma_max=5.0), None, 5.0), (EDM(sigma_max=5.0), 1.0, 1.0)):
        sampler = Euler(steps=2, init_noise_sigma=init_noise_sigma)
        world = randomized(dataclasses.replace(TINY, process=process, sampler=sampler))
        given = inputs_of(world)
        with torch.no_grad():
            world.imagine(begin(world, 16), torch.zeros(16, 1, dtype=torch.int64))
        scale = world.config.target.input_scale(torch.tensor(5.0))
        assert float(given[0].frames.std() / scale) == pytest.approx(expected, rel=0.05)


def test_networks_are_compiled_where_a_model_offers_it(monkeypatch):
    calls = []

    def compile_(function):
        return lambda *arguments: calls.append(function) or function(*arguments)

    monkeypatch.setattr(torch, "compile", compile_)  # a stand-in: compiling takes minutes
    world = World(randomized(TINY), TINY, make_starts(4, 16, SPEC.action_space), make_provenance(16))
    for compiled in (False, True):
        env = DreamEnv(world, compile=compiled)
        env.reset(seed=0)
        env.step(1)
        assert bool(calls) == compiled
    assert "forward_cached" not in vars(world.model.denoiser)  # a copy was compiled
    with pytest.raises(ConfigError, match="nothing to compile; use compile=False"):
        DreamEnv(make_world(), compile=True)


def test_heads_see_latents_the_same_in_a_dream_and_of_the_frames_it_shows():
    world = randomized(dataclasses.replace(TINY_LATENT, context_source="decoded", quantize_frames=False))
    state = world.start(torch.rand(ROWS, *SPEC.frame_shape), torch.arange(ROWS))
    actions = torch.randint(3, (ROWS, 4))
    imagined, dreamt = world.imagine(state, actions)
    observed = world.observe(state, actions, imagined.frames)
    torch.testing.assert_close(observed["latent"], dreamt["latent"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(world.embed(observed), world.embed(dreamt), rtol=1e-4, atol=1e-4)
    # Latents and nothing else: the picture may be any.
    torch.testing.assert_close(
        world.embed(dreamt.copy().update({"frame": torch.rand_like(dreamt["frame"])})), world.embed(dreamt)
    )
    other = world.embed(dreamt.copy().update({"latent": dreamt["latent"] + 1}))
    assert float((other - world.embed(dreamt)).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("config", [TINY, TINY_LATENT], ids=["pixels", "latents"])
def test_context_is_what_was_sampled_or_what_was_shown(config):
    """Of what was shown, an observer of the dream makes the same context; of what was sampled, only nearly."""
    for source, same in (("decoded", True), ("sampled", False)):
        world = randomized(dataclasses.replace(config, context_source=source))
        state, actions = begin(world), torch.ones(2, 2, dtype=torch.int64)
        with torch.no_grad():
            imagined, dreamt = world.imagine(state, actions)
            observed = world.observe(state, actions, imagined.frames)
        name = "frames" if config is TINY else "keys"
        assert torch.allclose(dreamt[name], observed[name], rtol=1e-4, atol=1e-5) == same


def test_temperature_scales_the_noise_that_a_frame_begins_as():
    world = randomized(dataclasses.replace(TINY, quantize_frames=False))
    actions = torch.zeros(2, 1, dtype=torch.int64)
    states = [world.start(torch.full((2, *SPEC.frame_shape), 0.5), torch.arange(2)) for _ in range(2)]
    states[1]["temperature"] = torch.zeros(2)
    with torch.no_grad():
        warm, cold = (world.imagine(state, actions)[0].frames for state in states)
    assert (warm[0] != warm[1]).any()  # their seeds differ
    assert torch.equal(cold[0], cold[1])


@pytest.mark.parametrize("rounded", [True, False])
def test_frames_are_rounded_as_a_user_sees_them(rounded):
    world = randomized(dataclasses.replace(TINY, quantize_frames=rounded))
    with torch.no_grad():
        state = world.start(torch.rand(2, *SPEC.frame_shape), torch.arange(2))
        frames = world.imagine(state, torch.zeros(2, 3, dtype=torch.int64))[0].frames
    assert torch.allclose(frames * 255, (frames * 255).round(), rtol=0, atol=1e-4) == rounded


def test_half_a_chunk_is_refused():
    world = randomized(dataclasses.replace(TINY_DIT, schedule=FullSequence(frames=2)))
    state = world.start(torch.rand(2, *SPEC.frame_shape), torch.arange(2))
    with pytest.raises(ActionError, match="multiple of 2, not 3"):
        world.imagine(state, torch.zeros(2, 3, dtype=torch.int64))
    world.observe(state, torch.zeros(2, 3, dtype=torch.int64), torch.rand(2, 3, *SPEC.frame_shape))


def test_a_latent_world_without_its_codec_is_refused(tmp_path):
    world = World(randomized(TINY_LATENT), TINY_LATENT, make_starts(4, 16, SPEC.action_space), make_provenance(16))
    with pytest.raises(ConfigError, match=r"codec=None, head=.* needs other weights"):
        world.replaced(codec=None, head=TINY.head)
    folder = world.save(tmp_path / "latent")
    description = json.loads((folder / "world.json").read_text())
    description["backbone"] |= {"codec": None, "head": part_to_json(TINY.head)}
    write_json(folder / "world.json", seal(description))
    with pytest.raises(WorldDamagedError, match="codec"):
        World.load(folder)


def test_a_world_of_frames_that_a_denoiser_cannot_have_is_refused():
    with pytest.raises(ConfigError, match="patch of 5 does not divide"):
        with_denoiser(TINY_DIT, patch=5).build(SPEC)
    with pytest.raises(ConfigError, match="patch of 8 does not divide"):  # of latents of 4 x 4 places
        dataclasses.replace(TINY_LATENT, denoiser=CausalDiTConfig(context=3, patch=8)).build(SPEC)


def test_a_flow_is_sampled_from_noise_of_unit_size():
    world = randomized(dataclasses.replace(TINY_DIT, process=RectifiedFlow(), context_noise=None))
    given = inputs_of(world)
    with torch.no_grad():
        world.imagine(begin(world, 16), torch.zeros(16, 1, dtype=torch.int64))
    assert float(given[0].frames.std()) == pytest.approx(1.0, rel=0.05)

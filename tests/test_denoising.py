"""What a denoising world is made of: memories that agree with whole sequences, causality, chunks, refusals."""

from __future__ import annotations

import copy
import dataclasses
import json

import gymnasium as gym
import pytest
import torch
from contract import SPEC
from drifting import make_provenance, make_starts, make_world
from gymnasium.utils.env_checker import check_env
from test_backbones import TINY_DIT, TINY_LATENT
from torch import Tensor, nn
from toy import toy_dataset

from dreamenv.backbones.denoising import DenoisingConfig, DenoisingWorld
from dreamenv.backbones.denoising.learning import draw_groups, drawing_error
from dreamenv.backbones.denoising.networks import Asked
from dreamenv.backbones.denoising.presets import tiny
from dreamenv.cli import main
from dreamenv.diffusion.objective import stabilised
from dreamenv.dream import DreamEnv
from dreamenv.errors import ActionError, ConfigError, UnknownNameError, WorldDamagedError
from dreamenv.nn.attention import turns_in_time, turns_of_all
from dreamenv.nn.unet import UNet
from dreamenv.registry import make_config, preset_names
from dreamenv.storage import seal, write_json
from dreamenv.training.config import TrainConfig
from dreamenv.training.trainer import train
from dreamenv.world import World
from dreamenv.world_model import Batch

ROWS, FRAMES = 3, 5
SHORT = {"network": "dit", "noise": "flow", "target": "frame", "shortcut": 4}
MILLIONS = {
    "small": 1.2, "small_latents": 1.02, "tiny": 0.13, "diamond": 4.4, "gamefactory": 2.7, "framepack": 1.87,
    "diffusion_forcing_base": 172,
}  # fmt: skip


def awake(config: DenoisingConfig) -> DenoisingWorld:
    """A world whose every weight is random, also those that begin as 0."""
    torch.manual_seed(0)
    world = config.build(SPEC).eval()
    for parameter in world.network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return world


def sequence(world: DenoisingWorld) -> tuple[Tensor, Asked]:
    """Clean frames in [-1, 1], and what is asked of them with noise upon them."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand((ROWS, FRAMES, *SPEC.frame_shape), generator=generator) * 2 - 1
    noisy = torch.randn(clean.shape, generator=generator)
    level = world.process.draw(torch.rand((ROWS, FRAMES), generator=generator))
    actions = world.action(torch.randint(3, (ROWS, FRAMES), generator=generator))
    return clean, Asked(noisy, level, torch.cat((torch.zeros_like(actions[:, :1]), actions[:, 1:]), dim=1))


def part(asked: Asked, at: slice) -> Asked:
    return Asked(asked.noisy[:, at], asked.level[:, at], asked.actions[:, at])


ACROSS = dataclasses.replace(TINY_DIT, network="cdit", context=3)
PACKED = dataclasses.replace(TINY_DIT, network="packed", packing=((1, 1), (2, 2)))


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(tiny(), context=1),
        dataclasses.replace(tiny(), context=3),
        dataclasses.replace(ACROSS, context=2),
        ACROSS,
        PACKED,
    ],
    ids=["unet 1", "unet 3", "cdit 2", "cdit 3", "packed"],
)
def test_what_is_remembered_agrees_with_the_whole_sequence_also_while_the_window_slides(config):
    world = awake(config)
    clean, asked = sequence(world)
    with torch.no_grad():
        whole = world.network.predict_all(clean, asked)
        past = world.network.begin(clean[:, 0])
        for i in range(1, FRAMES):
            past = world.network.remember(past, clean[:, i - 1 : i], asked.actions[:, i - 1 : i])
            alone = world.network.predict(past, part(asked, slice(i, i + 1)))
            torch.testing.assert_close(alone, whole[:, i : i + 1], rtol=1e-4, atol=1e-5)
    assert float(whole[:, 1:].std()) > 0.01


@pytest.mark.parametrize("manner", ["scaled", "labelled"])
@pytest.mark.parametrize("context", [2, 8])
def test_a_cached_step_equals_one_that_computes_everything_anew(manner, context):
    """Within 1e-5, while the window stands; once it slides, with the cache that a sliding window makes."""
    check_cache(dataclasses.replace(TINY_DIT, context=context, manner=manner, denoiser_length=8))


def test_keys_pressed_a_while_ago_are_remembered():
    check_cache(dataclasses.replace(TINY_DIT, actions="by kind", action_window=2))


def check_cache(config: DenoisingConfig) -> None:
    world = awake(config)
    clean, asked = sequence(world)
    shown, shown_level = stabilised(world.process, clean, config.stabilisation, config.manner)
    with torch.no_grad():
        past = world.network.begin(clean[:, 0])
        for i in range(1, FRAMES):
            past = world.network.remember(past, clean[:, i - 1 : i], asked.actions[:, i - 1 : i])
            alone = world.network.predict(past, part(asked, slice(i, i + 1)))
            noisy = torch.cat((shown[:, :i], asked.noisy[:, i : i + 1]), dim=1)
            level = torch.cat((shown_level[:, :i], asked.level[:, i : i + 1]), dim=1)
            anew = world.network.predict_all(clean, Asked(noisy, level, asked.actions[:, : i + 1]))
            torch.testing.assert_close(alone, anew[:, -1:], rtol=1e-5, atol=1e-5)
    assert past["keys"].shape[-2] == config.context
    assert past["held"].tolist() == [min(config.context, FRAMES - 1)] * ROWS


def touched(world: DenoisingWorld, at: int, groups: Tensor | None = None) -> list[bool]:
    """Which frames of a sequence another noisy frame there would change."""
    clean, asked = sequence(world)
    other = asked.noisy.clone()
    other[:, at] += 1
    with torch.no_grad():
        before, after = (
            world.network.predict_all(clean, dataclasses.replace(asked, noisy=noisy, groups=groups))
            for noisy in (asked.noisy, other)
        )
    return [bool((before[:, i] != after[:, i]).any()) for i in range(FRAMES)]


def test_a_frame_is_drawn_without_knowing_the_future_and_looks_no_further_back_than_it_says():
    world = awake(dataclasses.replace(TINY_DIT, context=2, depth=1))
    assert touched(world, 2) == [False, False, True, True, True]
    assert touched(world, 0) == [True, True, True, False, False]


def test_frames_of_a_group_see_each_other_both_ways_and_no_later_group():
    world = awake(TINY_DIT)
    assert touched(world, 2, torch.tensor([0, 1, 1, 2, 2])) == [False, True, True, True, True]
    assert touched(world, 4, torch.tensor([0, 1, 1, 2, 2])) == [False, False, False, True, True]


def test_windows_are_learned_from_as_observed_first_and_as_drawn_in_groups_after():
    generator, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
    seen = {tuple(draw_groups(5, 2, generator, cpu).tolist()) for _ in range(20)}
    assert seen == {(0, 1, 1, 2, 2), (0, 1, 2, 3, 3)}
    assert draw_groups(4, 1, generator, cpu).tolist() == [0, 1, 2, 3]


def test_frames_ahead_are_drawn_from_what_lies_before_the_gap():
    world = awake(dataclasses.replace(ACROSS, furthest_jump=3))
    clean, asked = sequence(world)
    gap = torch.full((ROWS, FRAMES), 2.0)
    other = clean.clone()
    other[:, 3] += 1
    with torch.no_grad():
        before, after = (
            world.network.predict_all(frames, dataclasses.replace(asked, gap=gap)) for frames in (clean, other)
        )
    assert torch.equal(before[:, 4], after[:, 4])  # the last frame is drawn from the third, two steps before it
    state = world.start(torch.rand(ROWS, *SPEC.frame_shape), torch.arange(ROWS))
    actions = torch.tensor([[0, 1, 2]] * ROWS)
    with torch.no_grad():
        near, far = (world.predict_ahead(state, actions[:, :steps]) for steps in (2, 3))
        first = world.imagine(state, actions[:, :1])[0].frames[:, 0]
        assert torch.equal(world.predict_ahead(state, actions[:, :1]), first)  # a jump of one step is a step
    assert near.shape == (ROWS, *SPEC.frame_shape)
    assert (near != far).any()
    with pytest.raises(ActionError, match="jump 3 steps ahead at most, not 4"):
        world.predict_ahead(state, torch.zeros(ROWS, 4, dtype=torch.int64))


def test_a_packed_past_has_as_many_tokens_however_long_it_is():
    world = awake(dataclasses.replace(PACKED, packing=((1, 1), (2, 2), (16, 4)), patch=4, denoiser_length=20))
    assert world.network.dit.tokens == 16 + 4 + 4 * 1
    assert world.spec.context_frames == 19
    assert world.network.dit.there(torch.tensor([0, 1, 2, 4]))[:, [0, 16, 20]].tolist() == [
        [False, False, False], [True, False, False], [True, True, False], [True, True, True],
    ]  # fmt: skip


def test_an_old_frame_reaches_what_is_drawn_through_the_packed_past():
    world = awake(dataclasses.replace(PACKED, packing=((1, 1), (4, 2))))
    frames = torch.rand(1, 6, *SPEC.frame_shape, generator=torch.Generator().manual_seed(0))
    drawn = []
    for change in (None, 0, 1):  # the first of the six is forgotten
        other = frames.clone()
        if change is not None:
            other[:, change] = 1 - other[:, change]
        with torch.no_grad():
            state = world.start(torch.zeros(1, *SPEC.frame_shape), torch.zeros(1, dtype=torch.int64))
            state = world.observe(state, torch.zeros(1, 6, dtype=torch.int64), other)
            drawn.append(world._draw(state, torch.zeros(1, 1, 3)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_guidance_of_one_is_none_and_more_goes_further():
    config = dataclasses.replace(TINY_DIT, hide_actions=0.1, quantise=False, passes=1)
    drawn = []
    for weight in (1.0, 1.0 + 1e-6, 2.0, 3.0):
        world = awake(dataclasses.replace(config, guide_actions=weight))
        state = world.start(
            torch.rand(2, *SPEC.frame_shape, generator=torch.Generator().manual_seed(0)), torch.arange(2)
        )
        with torch.no_grad():
            drawn.append(world._draw(state, world.action(torch.ones(2, 1, dtype=torch.int64))))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(drawn[3] - drawn[0], 2 * (drawn[2] - drawn[0]), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(drawn[0], drawn[2], atol=1e-3)


@pytest.mark.parametrize(
    "config", [tiny(), TINY_DIT, ACROSS, PACKED, TINY_LATENT], ids=["unet", "dit", "cdit", "packed", "latents"]
)
def test_rounded_weights_draw_almost_the_same_and_remember_in_full(config):
    world = awake(config)
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


def test_a_world_with_shortcuts_is_drawn_in_fewer_passes_without_training_anew():
    config = dataclasses.replace(TINY_DIT, **{**SHORT, "sampler": "euler", "stabilisation": 0.25, "passes": 4})
    world = World(awake(config), config, make_starts(4, 16, SPEC.action_space), make_provenance(16))
    quick = world.replaced(passes=1)
    calls = {}
    for name, one in (("slow", world), ("quick", quick)):
        seen, network = [], one.model.network
        predict = network.predict
        network.predict = lambda past, asked, seen=seen, predict=predict: seen.append(asked) or predict(past, asked)
        env = DreamEnv(one)
        env.reset(seed=0)
        env.step(1)
        calls[name] = [round(float(asked.step[0, 0]), 3) for asked in seen]
    assert calls == {"slow": [0.25] * 4, "quick": [1.0]}
    with pytest.raises(ConfigError, match="learned steps for 1, 2, 4 passes, not for 3"):
        world.replaced(passes=3)
    with pytest.raises(ConfigError, match="depth=3 needs other weights"):
        world.replaced(depth=3)
    with pytest.raises(ConfigError, match="context of 32 frames is longer"):
        world.replaced(context=32)
    with pytest.raises(UnknownNameError, match=r"'passe'.*'passes'"):
        world.replaced(passe=2)


def test_networks_are_compiled_where_a_model_offers_it(monkeypatch, tmp_path):
    calls = []

    def compile_(function):
        return lambda *arguments: calls.append(function) or function(*arguments)

    monkeypatch.setattr(torch, "compile", compile_)  # a stand-in: compiling takes minutes
    starts = make_starts(4, 16, SPEC.action_space)
    world = World(awake(tiny()), tiny(), starts, make_provenance(16))
    for compiled in (False, True):
        env = DreamEnv(world, compile=compiled)
        env.reset(seed=0)
        env.step(1)
        assert bool(calls) == compiled
    assert "predict" not in vars(world.model.network)  # a copy was compiled
    with pytest.raises(ConfigError, match="nothing to compile; use compile=False"):
        DreamEnv(make_world(), compile=True)


def test_latents_have_the_measure_that_noise_is_made_for(tmp_path):
    settings = TrainConfig(
        steps={"codec": 300, "denoiser": 1, "events": 1}, progress=False, device="cpu", start_context=2, eval_horizon=5,
        eval_windows=2, warmup_steps=20,
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


def test_events_see_latents_the_same_in_a_dream_and_of_the_frames_it_shows():
    world = awake(dataclasses.replace(TINY_LATENT, reencode=True, quantise=False))
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


def test_a_frames_error_counts_as_its_velocitys():
    def error(guess, **settings):
        world = awake(dataclasses.replace(TINY_DIT, **settings))
        world.network.predict_all = guess
        frames = torch.ones(ROWS, FRAMES, *SPEC.frame_shape)
        actions = world.action(torch.zeros(ROWS, FRAMES, dtype=torch.int64))
        generator = torch.Generator().manual_seed(2)
        return drawing_error(world.network, world.config, frames, actions, generator, training=False)[0]

    def as_velocity(clean, asked):
        alpha, sigma = (part[..., None, None, None] for part in TINY_DIT.process.at(asked.level))
        return alpha * asked.noisy / sigma  # of a frame of zeros

    plain, weighted = (error(lambda clean, asked: 0 * clean, weighting=name) for name in ("plain", "velocity"))
    torch.testing.assert_close(plain, torch.ones_like(plain))
    torch.testing.assert_close(weighted, error(as_velocity, target="velocity").clamp_max(1 / 0.05**2))
    assert float(weighted.max()) > 4


def test_a_frames_error_counts_where_it_moves():
    def error(frames, **settings):
        world = awake(dataclasses.replace(TINY_DIT, **settings))
        guess = torch.zeros_like(frames)
        guess[..., 0, 0] = 1  # wrong in one corner, by 1
        world.network.predict_all = lambda clean, asked: frames + guess
        actions = world.action(torch.zeros(*frames.shape[:2], dtype=torch.int64))
        generator = torch.Generator().manual_seed(2)
        return drawing_error(world.network, world.config, frames, actions, generator, training=False)[0]

    still = torch.zeros(ROWS, FRAMES, *SPEC.frame_shape)
    torch.testing.assert_close(error(still, moving=0.8), error(still))
    there, elsewhere = still.clone(), still.clone()
    there[:, 2:, :, 0, 0], elsewhere[:, 2:, :, 8, 8] = 1, 1  # what moves, moves between the second and the third frame
    plain = error(still)
    for frames, more in ((there, True), (elsewhere, False)):
        ratio = error(frames, moving=0.8) / plain
        assert (ratio[:, 2] > 2).all() == more  # as it moves
        assert (ratio[:, 3] > 2).all() == more  # and in the frame after
        if not more:
            assert (ratio[:, 2:4] < 1).all()
        torch.testing.assert_close(ratio[:, 4:], torch.ones_like(ratio[:, 4:]))


def test_turns_tell_distances_only():
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))

    def alike(places: tuple[int, ...], others: tuple[int, ...]) -> float:
        make = turns_in_time if len(places) == 1 else turns_of_all
        turned = (make(*(torch.tensor(one) for one in here), 8) for here in (places, others))  # type: ignore[operator]
        return float((next(turned)(query) * next(turned)(key)).sum())

    assert alike((3,), (0,)) == pytest.approx(alike((503,), (500,)), abs=1e-3)
    assert abs(alike((1,), (0,)) - alike((3,), (0,))) > 1e-3
    here = alike((3, 1, 2), (0, 0, 0))
    assert here == pytest.approx(alike((503, 8, 5), (500, 7, 3)), abs=1e-3)
    for nearer in ((1, 1, 2), (3, 0, 2), (3, 1, 0)):
        assert abs(alike(nearer, (0, 0, 0)) - here) > 1e-3


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
        ({"chunk": 2}, "'unet' draws one frame at a time, not 2"),
        ({"network": "rnn"}, "unet, dit, cdit, packed, public, not 'rnn'"),
        ({"actions": "by kind"}, "with network='dit' only, not with 'unet'"),
        ({"furthest_jump": 4}, "jumps of 4 steps need network='cdit'"),
        ({"network": "cdit", "furthest_jump": 9}, "cannot be learned in windows of 6"),
        ({"network": "packed", "packing": ()}, "packing must name"),
        ({"guide_actions": 2.0}, "train with hide_actions above 0"),
        ({"guide_past": 2.0}, "train with hide_past above 0"),
        ({"hide_past": 1.0}, "hide_past"),
        ({"corruption": -1.0}, "corruption"),
        ({"shortcut": 4}, "shortcuts need noise='flow', target='frame'"),
        ({**SHORT, "passes": 3}, "learned steps for 1, 2, 4 passes, not for 3"),
        ({**SHORT, "passes": 8}, "learned steps for 1, 2, 4 passes, not for 8"),
        ({**SHORT, "shortcut": 6}, "power of two, not of 6"),
        ({**SHORT, "sampler": "heun"}, "first order"),
        ({**SHORT, "network": "unet"}, "need a transformer"),
        ({**SHORT, "moving": 0.5}, "shortcuts count the error of all places alike: moving=0, not 0.5"),
        ({"moving": 1.0}, r"moving must be in \[0, 1\), not 1.0"),
        ({"codec": {"kind": "wavelet"}}, "'conv' or 'vit', not 'wavelet'"),
        ({"codec": {"stride": 4}}, "chunk of 4 does not divide the 6 steps"),
        ({"events_see": "latent"}, "needs a codec with a latent for every frame"),
        ({"weighting": "velocity"}, "not of 'edm' with 'karras'"),
        ({"weighting": "fair"}, "weighting must be one of plain, velocity, not 'fair'"),
        ({"events_see": "sound"}, "events_see must be one of frame, latent, not 'sound'"),
        ({"network": "dit", "chunk": 6, "plan": "groups", "group": 4}, "chunk of 4 does not divide 6"),
        ({"target": "velocity"}, "velocity.*does not go with Karras"),
        ({"noise": "white"}, "white"),
        ({"passes": 0}, "pass"),
        ({"sampler": "fast"}, "fast"),
        ({"network": "dit", "chunk": 4}, "chunk of 4 does not divide the 6 steps"),
        ({"network": "dit", "plan": "spiral"}, "spiral"),
        ({"context": 0}, "context must be at least 1, not 0"),
        ({"context": 7}, "context of 7 frames is longer than the windows of 6 that it is trained on"),
        ({"network": "packed"}, "context of 19 frames is longer than the windows of 6"),
        ({"condition": 33}, "even, not 33"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings, named):
    with pytest.raises(ConfigError, match=named):
        dataclasses.replace(tiny(), **settings)


def test_a_latent_world_without_its_codec_is_refused(tmp_path):
    world = World(awake(TINY_LATENT), TINY_LATENT, make_starts(4, 16, SPEC.action_space), make_provenance(16))
    with pytest.raises(ConfigError, match="codec=None, events_see='frame' needs other weights"):
        world.replaced(codec=None, events_see="frame")
    folder = world.save(tmp_path / "latent")
    description = json.loads((folder / "world.json").read_text())
    description["backbone"] |= {"codec": None, "events_see": "frame"}
    write_json(folder / "world.json", seal(description))
    with pytest.raises(WorldDamagedError, match="codec"):
        World.load(folder)


def test_a_codecs_setting_that_there_is_not_is_refused_with_the_one_that_was_meant():
    with pytest.raises(UnknownNameError, match=r"'sride'. Did you mean 'stride'"):
        dataclasses.replace(TINY_DIT, codec={"sride": 2})


def test_sizes_that_do_not_fit_the_frame_are_refused():
    with pytest.raises(ConfigError, match="16 x 16 are no multiple of 32"):
        dataclasses.replace(tiny(), channels=(8, 8, 8, 8), patch=4).build(SPEC)
    with pytest.raises(ConfigError, match="patch of 5 does not divide"):
        dataclasses.replace(TINY_DIT, patch=5).build(SPEC)
    with pytest.raises(ConfigError, match="3 heads"):
        dataclasses.replace(TINY_DIT, heads=3).build(SPEC)
    with pytest.raises(ConfigError, match="heads times a multiple of 8"):
        dataclasses.replace(PACKED, condition=24).build(SPEC)
    with pytest.raises(ConfigError, match="3 frames cannot be packed by 2"):
        dataclasses.replace(PACKED, packing=((1, 1), (3, 2))).build(SPEC)
    with pytest.raises(ConfigError, match="patch of 32 does not divide"):
        dataclasses.replace(PACKED, packing=((1, 1), (8, 8)), denoiser_length=12).build(SPEC)
    with pytest.raises(ConfigError, match="positive"):
        UNet((8, 8), 3, 3, 8, (), 1)


@pytest.mark.parametrize("config", [tiny(), TINY_DIT, ACROSS, PACKED], ids=["unet", "dit", "cdit", "packed"])
def test_a_falling_square_is_learned_and_dreamt(config, tmp_path):
    """After a few hundred steps the next frame is foretold far better than by the last one again."""
    dataset = toy_dataset(tmp_path / "toy", 30)
    settings = TrainConfig(
        steps={"denoiser": 400, "events": 100}, progress=False, device="cpu", start_context=2, eval_horizon=5,
        warmup_steps=20,
    )  # fmt: skip
    world = train(settings, config, dataset, tmp_path / "run")
    first = world.metrics["horizons"]["1"]
    assert first["psnr"]["mean"] > first["persistence_psnr"]["mean"] + 1.0
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


@pytest.mark.parametrize("preset", preset_names("denoising"))
def test_every_preset_draws_frames_of_64_pixels_and_learns(preset):
    """DIAMOND's denoiser for Atari has 4.4 million parameters."""
    world = make_config("denoising", preset).build(dataclasses.replace(SPEC, frame_shape=(3, 64, 64)))
    assert isinstance(world, DenoisingWorld)
    size = sum(parameter.numel() for parameter in world.network.parameters()) / 1e6
    assert size == pytest.approx(MILLIONS.get(preset, 2.45), rel=0.1)
    if preset in ("diamond", "diffusion_forcing_base"):
        return  # for a GPU
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

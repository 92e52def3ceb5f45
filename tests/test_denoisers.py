"""Denoisers: caches that agree with whole sequences, causality, blocks, time shifts, a packed past."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_worlds import TINY, TINY_CROSS, TINY_DIT, TINY_PACKED, presented, randomized, with_denoiser, with_training
from torch import Tensor

from dreamenv.backbones.denoising import DenoisingConfig, DenoisingWorld
from dreamenv.denoisers.base import DenoiserInput, DenoiserShape
from dreamenv.denoisers.causal_dit import CausalDiTConfig
from dreamenv.denoisers.cross_dit import CrossDiTConfig
from dreamenv.denoisers.framepack import FramePackConfig
from dreamenv.denoisers.unet import UNetConfig
from dreamenv.diffusion.context_noise import Stabilization
from dreamenv.errors import ActionError, ConfigError
from dreamenv.nn.rotary import axial_rotary, time_rotary
from dreamenv.nn.unet import UNet
from dreamenv.testing import SPEC

ROWS, FRAMES = 3, 5


def part(given: DenoiserInput, at: slice) -> DenoiserInput:
    return DenoiserInput(given.frames[:, at], given.time[:, at], given.actions[:, at])


def joined(first: DenoiserInput, second: DenoiserInput) -> DenoiserInput:
    pairs = zip((first.frames, first.time, first.actions), (second.frames, second.time, second.actions), strict=True)
    return DenoiserInput(*(torch.cat(both, dim=1) for both in pairs))


@pytest.mark.parametrize(
    "config",
    [
        with_denoiser(TINY, context=1),
        with_denoiser(TINY, context=3),
        with_denoiser(TINY_CROSS, context=2),
        TINY_CROSS,
        TINY_PACKED,
    ],
    ids=["unet 1", "unet 3", "cross_dit 2", "cross_dit 3", "framepack"],
)
def test_a_cache_agrees_with_the_whole_sequence_also_while_the_window_slides(config):
    world = randomized(config)
    clean, context, noisy = presented(world, rows=ROWS, frames=FRAMES)
    with torch.no_grad():
        whole = world.denoiser.forward_sequence(context, noisy)
        cache = world.denoiser.init_cache(clean[:, 0])
        for i in range(1, FRAMES):
            cache = world.denoiser.update_cache(cache, part(context, slice(i - 1, i)))
            alone = world.denoiser.forward_cached(cache, part(noisy, slice(i, i + 1)))
            torch.testing.assert_close(alone, whole[:, i : i + 1], rtol=1e-4, atol=1e-5)
    assert float(whole[:, 1:].std()) > 0.01


@pytest.mark.parametrize("mode", ["scaled", "labelled"])
@pytest.mark.parametrize("context", [2, 8])
def test_a_cached_step_equals_one_that_computes_everything_again(mode, context):
    """Within 1e-5, while the window stands; once it slides, with the cache that a sliding window makes."""
    config = dataclasses.replace(
        with_training(TINY_DIT, sequence_length=8),
        context_noise=Stabilization(stabilization_level=15.0, context_noise_mode=mode),
    )
    check_cache(with_denoiser(config, context=context))


def test_keys_of_earlier_steps_still_condition_the_model():
    check_cache(with_denoiser(TINY_DIT, action_conditioning="cross_attention", action_window=2))


def check_cache(config: DenoisingConfig) -> None:
    world = randomized(config)
    clean, context, noisy = presented(world, rows=ROWS, frames=FRAMES)
    with torch.no_grad():
        cache = world.denoiser.init_cache(clean[:, 0])
        for i in range(1, FRAMES):
            cache = world.denoiser.update_cache(cache, part(context, slice(i - 1, i)))
            alone = world.denoiser.forward_cached(cache, part(noisy, slice(i, i + 1)))
            sequence = joined(part(context, slice(0, i)), part(noisy, slice(i, i + 1)))
            again = world.denoiser.forward_sequence(context, sequence)
            torch.testing.assert_close(alone, again[:, -1:], rtol=1e-5, atol=1e-5)
    assert cache["keys"].shape[-2] == config.denoiser.context
    assert cache["length"].tolist() == [min(config.denoiser.context, FRAMES - 1)] * ROWS


def changed_by(world: DenoisingWorld, at: int, block_ids: Tensor | None = None) -> list[bool]:
    """Which predictions of a sequence another noisy frame there would change."""
    _, context, noisy = presented(world, rows=ROWS, frames=FRAMES)
    other = noisy.frames.clone()
    other[:, at] += 1
    with torch.no_grad():
        before, after = (
            world.denoiser.forward_sequence(context, dataclasses.replace(noisy, frames=frames, block_ids=block_ids))
            for frames in (noisy.frames, other)
        )
    return [bool((before[:, i] != after[:, i]).any()) for i in range(FRAMES)]


def test_a_frame_is_predicted_without_knowing_the_future_and_looks_no_further_back_than_it_says():
    world = randomized(with_denoiser(TINY_DIT, context=2, depth=1))
    assert changed_by(world, 2) == [False, False, True, True, True]
    assert changed_by(world, 0) == [True, True, True, False, False]


def test_frames_of_a_block_see_each_other_both_ways_and_no_later_block():
    world = randomized(TINY_DIT)
    assert changed_by(world, 2, torch.tensor([0, 1, 1, 2, 2])) == [False, True, True, True, True]
    assert changed_by(world, 4, torch.tensor([0, 1, 1, 2, 2])) == [False, False, False, True, True]


def test_frames_ahead_are_predicted_from_frames_before_the_gap():
    world = randomized(with_denoiser(TINY_CROSS, max_time_shift=3))
    clean, context, noisy = presented(world, rows=ROWS, frames=FRAMES)
    noisy = dataclasses.replace(noisy, time_shift=torch.full((ROWS, FRAMES), 2.0))
    other = clean.clone()
    other[:, 3] += 1
    with torch.no_grad():
        before, after = (
            world.denoiser.forward_sequence(dataclasses.replace(context, frames=frames), noisy)
            for frames in (clean, other)
        )
    assert torch.equal(before[:, 4], after[:, 4])  # the last frame is predicted from the third, two steps before it
    state = world.start(torch.rand(ROWS, *SPEC.frame_shape), torch.arange(ROWS))
    actions = torch.tensor([[0, 1, 2]] * ROWS)
    with torch.no_grad():
        near, far = (world.predict_ahead(state, actions[:, :steps]) for steps in (2, 3))
        first = world.imagine(state, actions[:, :1])[0].frames[:, 0]
        assert torch.equal(world.predict_ahead(state, actions[:, :1]), first)  # a shift of one step is a step
    assert near.shape == (ROWS, *SPEC.frame_shape)
    assert (near != far).any()
    with pytest.raises(ActionError, match=r"3 steps ahead at most.*not 4"):
        world.predict_ahead(state, torch.zeros(ROWS, 4, dtype=torch.int64))


def test_a_packed_past_has_as_many_tokens_however_long_it_is():
    config = with_denoiser(with_training(TINY_PACKED, sequence_length=20), packing=((1, 1), (2, 2), (16, 4)))
    world = randomized(config)
    assert len(world.denoiser.places) == 16 + 4 + 4 * 1
    assert world.spec.context_frames == 19
    assert world.denoiser._valid(torch.tensor([0, 1, 2, 4]))[:, [0, 16, 20]].tolist() == [
        [False, False, False], [True, False, False], [True, True, False], [True, True, True],
    ]  # fmt: skip


def test_an_old_frame_reaches_what_is_sampled_through_the_packed_past():
    world = randomized(with_denoiser(TINY_PACKED, packing=((1, 1), (4, 2))))
    frames = torch.rand(1, 6, *SPEC.frame_shape, generator=torch.Generator().manual_seed(0))
    sampled = []
    for change in (None, 0, 1):  # the first of the six is forgotten
        other = frames.clone()
        if change is not None:
            other[:, change] = 1 - other[:, change]
        with torch.no_grad():
            state = world.start(torch.zeros(1, *SPEC.frame_shape), torch.zeros(1, dtype=torch.int64))
            state = world.observe(state, torch.zeros(1, 6, dtype=torch.int64), other)
            sampled.append(world._sample(state, torch.zeros(1, 1, 3))[0])
    assert torch.equal(sampled[0], sampled[1])
    assert not torch.equal(sampled[0], sampled[2])


@pytest.mark.parametrize("config", [TINY, TINY_CROSS, TINY_PACKED], ids=["unet", "cross_dit", "framepack"])
def test_rows_whose_context_is_dropped_are_predicted_as_from_an_empty_cache(config):
    world = randomized(config)
    clean, context, noisy = presented(world, rows=ROWS, frames=FRAMES)
    drop = torch.tensor([True, False, True])
    unknown = torch.zeros_like(noisy.actions)  # a cache of no frames knows of no actions before either
    noisy = dataclasses.replace(noisy, actions=unknown)
    with torch.no_grad():
        kept = world.denoiser.forward_sequence(context, noisy)
        dropped = world.denoiser.forward_sequence(context, dataclasses.replace(noisy, drop_context=drop))
        empty = world.denoiser.init_cache(clean[:, 0])
        alone = world.denoiser.forward_cached(empty, part(noisy, slice(1, 2)))
    assert torch.equal(dropped[1], kept[1])
    assert not torch.equal(dropped[0], kept[0])
    torch.testing.assert_close(dropped[drop, 1:2], alone[drop], rtol=1e-4, atol=1e-5)


def test_rotary_positions_tell_distances_only():
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))

    def alike(places: tuple[int, ...], others: tuple[int, ...]) -> float:
        make = time_rotary if len(places) == 1 else axial_rotary
        turned = (make(*(torch.tensor(one) for one in at), 8) for at in (places, others))  # type: ignore[operator]
        return float((next(turned)(query) * next(turned)(key)).sum())

    assert alike((3,), (0,)) == pytest.approx(alike((503,), (500,)), abs=1e-3)
    assert abs(alike((1,), (0,)) - alike((3,), (0,))) > 1e-3
    here = alike((3, 1, 2), (0, 0, 0))
    assert here == pytest.approx(alike((503, 8, 5), (500, 7, 3)), abs=1e-3)
    for nearer in ((1, 1, 2), (3, 0, 2), (3, 1, 0)):
        assert abs(alike(nearer, (0, 0, 0)) - here) > 1e-3


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: UNetConfig(context=0), "context must be at least 1, not 0"),
        (lambda: UNetConfig(embed_dim=33), "even, not 33"),
        (lambda: UNetConfig(channels=()), "channels must be positive, at least one"),
        (lambda: CausalDiTConfig(context=0), "context must be at least 1, not 0"),
        (lambda: CausalDiTConfig(heads=3), "width of 128 cannot be 3 heads, each a multiple of 4"),
        (lambda: CausalDiTConfig(action_conditioning="by kind"), "'added' or 'cross_attention', not 'by kind'"),
        (lambda: CausalDiTConfig(action_window=2), "action_window of 2 needs action_conditioning='cross_attention'"),
        (lambda: CausalDiTConfig(action_window=-1), "action_window must be at least 0, not -1"),
        (lambda: CrossDiTConfig(max_time_shift=0), "max_time_shift must be at least 1, not 0"),
        (lambda: CrossDiTConfig(embed_dim=48, heads=4), "48 cannot be 4 heads, each a multiple of 8"),
        (lambda: FramePackConfig(packing=()), "packing must name"),
        (lambda: FramePackConfig(packing=((1, 1), (3, 2))), "3 frames cannot be packed by 2"),
        (lambda: FramePackConfig(packing=((0, 1),)), "0 frames cannot be packed by 1"),
        (lambda: FramePackConfig(embed_dim=24, heads=2), "24 cannot be 2 heads, each a multiple of 8"),
        (lambda: UNet((8, 8), 3, 3, 8, (), 1), "positive"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (UNetConfig(channels=(8, 8, 8, 8), patch=4), "16 x 16 are no multiple of 32"),
        (CausalDiTConfig(patch=5), "patch of 5 does not divide"),
        (CrossDiTConfig(patch=32), "patch of 32 does not divide"),
        (FramePackConfig(packing=((1, 1), (8, 8)), patch=4), "patch of 32 does not divide"),
    ],
    ids=lambda one: getattr(one, "kind", ""),
)
def test_frames_that_a_denoiser_cannot_have_are_refused(config, named):
    with pytest.raises(ConfigError, match=named):
        config.build(DenoiserShape(frame_shape=SPEC.frame_shape, discrete=(True,) * 3))


@pytest.mark.parametrize("name", ["frame", "hidden", "rng_key", "latent", "pictures"])
def test_a_cache_that_would_overwrite_the_worlds_memory_is_refused(name):
    model = TINY.build(SPEC)
    cache = model.denoiser.init_cache(torch.zeros(2, *model.latent_shape))
    model.denoiser.init_cache = lambda frames: {**cache, name: torch.zeros(len(frames), 1)}
    with pytest.raises(ConfigError, match=f"cache has an entry '{name}', which the world has too; rename it"):
        model.start(torch.zeros(2, *SPEC.frame_shape), torch.arange(2))

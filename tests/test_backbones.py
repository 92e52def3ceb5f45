"""Every backbone keeps the contract, and what they are made of keeps its own promises."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from multi_scale import PyramidConfig
from tiny_worlds import (
    TINY,
    TINY_CODEC,
    TINY_CROSS,
    TINY_DIT,
    TINY_FOVEATED,
    TINY_LATENT,
    TINY_PACKED,
    TINY_SHORTCUT,
    with_denoiser,
    with_training,
)

from dreamenv.backbones import persistence
from dreamenv.backbones.grid_rssm import presets as grid_rssm
from dreamenv.backbones.tokens import presets as token_world
from dreamenv.backbones.tokens.action_tokens import GroupedActionTokensConfig
from dreamenv.backbones.tokens.diagonal import DiagonalOrderConfig
from dreamenv.backbones.tokens.masked import MaskedOrderConfig
from dreamenv.backbones.tokens.next_scale import NextScaleOrderConfig
from dreamenv.codecs.vit_vae import ViTVAEConfig
from dreamenv.denoisers.gaze import HeldGaze, UncertaintyGaze
from dreamenv.diffusion.context_noise import NoiseAugmentation, Stabilization
from dreamenv.diffusion.guidance import Guidance
from dreamenv.diffusion.process import RectifiedFlow, VariancePreserving
from dreamenv.diffusion.sampler import DDIM, DPMSolver
from dreamenv.diffusion.schedule import Chunkwise, EndsFirst, Pyramid
from dreamenv.diffusion.target import Velocity
from dreamenv.errors import ConfigError
from dreamenv.nn import actions, pixels, twohot
from dreamenv.testing import SPEC, WorldModelContract
from dreamenv.world_model import WorldModel


class SlowToOverfit(WorldModelContract):
    """For networks that another class overfits in a quicker form."""

    @pytest.mark.slow
    def test_one_batch_can_be_overfitted(self, model: WorldModel) -> None:
        super().test_one_batch_can_be_overfitted(model)


class TestGridRSSM(WorldModelContract):
    config = grid_rssm.tiny()
    overfit_steps = 400


class TestTokensInRasterOrder(WorldModelContract):
    config = token_world.tiny()
    overfit_steps = 400


class TestTokensWithGroupedActions(SlowToOverfit):
    config = dataclasses.replace(token_world.tiny(), actions=GroupedActionTokensConfig())
    overfit_steps = 400


class TestTokensInDiagonals(SlowToOverfit):
    config = dataclasses.replace(token_world.tiny(), order=DiagonalOrderConfig())
    overfit_steps = 400


class TestTokensInGroups(SlowToOverfit):
    config = dataclasses.replace(token_world.tiny(), order=MaskedOrderConfig(groups=2))
    overfit_steps = 400


class TestTokensFromCoarseToFine(SlowToOverfit):
    config = dataclasses.replace(token_world.tiny(), tokenizer=PyramidConfig(), order=NextScaleOrderConfig())


class TestTokensOfChanges(SlowToOverfit):
    config = dataclasses.replace(token_world.tiny(), tokenizer=PyramidConfig(scales=((4, 4),), uses_context=True))


class TestDenoising(WorldModelContract):
    config = TINY


class TestDenoisingOnAChain(WorldModelContract):
    config = with_denoiser(
        dataclasses.replace(TINY, process=VariancePreserving(), target=Velocity(), sampler=DDIM(steps=2)), context=1
    )
    overfit_steps = 400  # its frames are noise, and noise of every strength is put upon them


class TestDenoisingWithCausalAttention(WorldModelContract):
    config = TINY_DIT
    overfit_steps = 400


class TestDenoisingInChunks(SlowToOverfit):
    config = dataclasses.replace(
        TINY_DIT,
        process=RectifiedFlow(),
        sampler=DPMSolver(steps=2),
        schedule=Pyramid(frames=2),
        context_noise=Stabilization(stabilization_level=0.02),
    )
    spec = dataclasses.replace(SPEC, chunk=2)
    overfit_steps = 400


class TestDenoisingInGroups(SlowToOverfit):
    """Observed frames are remembered one by one, sampled ones as the groups they were denoised in."""

    config = dataclasses.replace(
        with_training(TINY_DIT, sequence_length=8),
        sampler=DDIM(steps=4),
        schedule=Chunkwise(frames=4, group=2, in_flight=2),
    )
    spec = dataclasses.replace(SPEC, chunk=4)
    overfit_steps = 400


class TestDenoisingWithCrossAttention(WorldModelContract):
    config = with_denoiser(
        dataclasses.replace(TINY_CROSS, context_noise=NoiseAugmentation(max_std=0.1)), max_time_shift=3
    )
    overfit_steps = 400


class TestDenoisingFromAPackedPast(SlowToOverfit):
    config = dataclasses.replace(
        TINY_PACKED, schedule=EndsFirst(frames=2), guidance=Guidance(context_dropout=0.1, context_guidance_scale=1.2)
    )
    spec = dataclasses.replace(SPEC, chunk=2)
    overfit_steps = 400


class TestDenoisingWhereItLooks(WorldModelContract):
    config = TINY_FOVEATED
    overfit_steps = 400


class TestDenoisingWhereItIsUncertain(SlowToOverfit):
    config = with_denoiser(TINY_FOVEATED, gaze=UncertaintyGaze())
    overfit_steps = 400


class TestDenoisingWhereItIsTold(SlowToOverfit):
    config = with_denoiser(TINY_FOVEATED, patch=1, fovea=(2, 8), gaze=HeldGaze())
    overfit_steps = 400


class TestDenoisingWithShortcuts(SlowToOverfit):
    config = TINY_SHORTCUT
    overfit_steps = 800


class TestDenoisingWithGuidedKeys(SlowToOverfit):
    config = with_denoiser(
        dataclasses.replace(TINY_DIT, guidance=Guidance(action_dropout=0.2, action_guidance_scale=1.5)),
        action_conditioning="cross_attention",
        action_window=2,
    )
    overfit_steps = 400


class TestDenoisingLatents(WorldModelContract):
    config = TINY_LATENT
    overfit_steps = 400


class TestDenoisingLatentsOfSeveralFrames(SlowToOverfit):
    config = with_denoiser(
        dataclasses.replace(
            TINY_LATENT,
            codec=ViTVAEConfig(embed_dim=32, depth=1, temporal_stride=2, training=TINY_CODEC.training),
            head=TINY.head,
        ),
        action_conditioning="cross_attention",
        action_window=1,
    )
    spec = dataclasses.replace(SPEC, chunk=2)
    overfit_steps = 400


class TestPersistence(WorldModelContract):
    config = persistence.PersistenceConfig()


@pytest.mark.parametrize(("size", "factors"), [((64, 64), [4, 2, 2]), ((16, 16), [4]), ((32, 48), [4, 2])])
def test_frames_of_any_multiple_of_four_are_encoded_and_decoded(size: tuple[int, int], factors: list[int]) -> None:
    assert pixels.stage_factors(*size) == factors
    encoder = pixels.FrameEncoder((3, *size), (8, 12))
    decoder = pixels.FrameDecoder((3, *size), (8, 12))
    with torch.no_grad():
        assert encoder(torch.rand(2, 3, *size)).shape == (2, encoder.features)
        assert decoder(torch.rand(2, decoder.features)).shape == (2, 3, *size)


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 4, not 30x64"):
        pixels.stage_factors(30, 64)


def test_moving_pixels_into_channels_and_back_loses_nothing() -> None:
    frames = torch.rand(2, 3, 8, 12).contiguous(memory_format=torch.channels_last)
    moved = pixels.SpaceToChannels(4)(frames)
    assert moved.shape == (2, 48, 2, 3)
    assert moved.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels.ChannelsToSpace(4)(moved), frames)
    blocks = torch.nn.functional.pixel_unshuffle(frames, 4)
    assert torch.equal(moved.sort(dim=1).values, blocks.sort(dim=1).values)  # the same blocks, in another order


def test_a_two_hot_distribution_has_the_mean_that_was_encoded() -> None:
    head = twohot.TwoHot(41)
    head.set_range(-300.0, 4.0)
    targets = torch.tensor([-300.0, -39.0, -1.5, 0.0, 0.3, 4.0])
    encoded = head.encode(targets)
    torch.testing.assert_close(encoded.sum(dim=-1), torch.ones(6))
    assert int((encoded > 0).sum(dim=-1).max()) <= 2
    torch.testing.assert_close((encoded * head.centers).sum(dim=-1), targets, rtol=1e-4, atol=1e-4)
    assert float(head.mean(torch.randn(1000, 41)).max()) <= 4.0  # never more than was ever seen


def test_rewards_beyond_the_range_count_as_its_ends() -> None:
    head = twohot.TwoHot(11)
    head.set_range(0.0, 1.0)
    assert head.encode(torch.tensor([-5.0, 7.0])).argmax(dim=-1).tolist() == [0, 10]


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (gym.spaces.Discrete(3), 2, [0, 0, 1]),
        (gym.spaces.Discrete(3, start=-1), 0, [0, 1, 0]),
        (gym.spaces.MultiDiscrete([2, 3]), [1, 0], [0, 1, 1, 0, 0]),
        (gym.spaces.Box(np.array([0, -2], np.float32), np.array([4, 2], np.float32)), [1.0, 2.0], [-0.5, 1.0]),
        (gym.spaces.Box(-180, 180, (1,), np.float32), [90.0], [0.5]),
    ],
)
def test_actions_become_vectors(space: gym.Space, action: object, expected: list[float]) -> None:
    vector = actions.ActionVector(space)(torch.as_tensor(action)[None])
    assert vector[0].tolist() == expected


@pytest.mark.parametrize("bound", [1e5, 1e6, 1e8, 3e38, np.inf])
@pytest.mark.parametrize("small", [1e-3, 1.0])
def test_bounds_that_say_nothing_of_the_actions_do_not_make_them_one(bound: float, small: float) -> None:
    """Actions of a few units, in a space as wide as that, are as far apart as in a space of their own size."""
    space = gym.spaces.Dict({"narrow": gym.spaces.Box(-1, 1), "wide": gym.spaces.Box(-bound, bound)})
    values = torch.tensor([-small, 0.0, small, min(bound, 1e8)])
    given = torch.stack((torch.full((4,), 0.5), values), dim=-1)
    vectors = actions.ActionVector(space)(given)
    assert vectors[:, 0].tolist() == [0.5] * 4
    assert vectors[1, 1] == 0
    torch.testing.assert_close(vectors[:3, 1].diff(), torch.full((2,), small), rtol=0.15, atol=0)
    assert 10 < vectors[3, 1] < 100  # and large ones do not overwhelm the rest


def test_a_space_that_no_model_can_read_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"use Discrete, MultiDiscrete, MultiBinary, Box, or a Dict"):
        actions.ActionVector(gym.spaces.Text(5))

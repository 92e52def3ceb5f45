"""Every backbone keeps the contract, and what the RSSM is made of keeps its own promises."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from contract import SPEC, WorldModelContract
from torch import Tensor

from dreamenv.backbones import denoising, persistence, rssm
from dreamenv.backbones.denoising.codec import CodecConfig
from dreamenv.backbones.rssm.losses import joint_loss
from dreamenv.errors import ConfigError
from dreamenv.nn import actions, pixels, twohot
from dreamenv.world_model import Batch, DataStatistics, Imagined


class TestDenoising(WorldModelContract):
    config = denoising.presets.tiny()


class TestDenoisingOnAChain(WorldModelContract):
    config = dataclasses.replace(denoising.presets.tiny(), noise="chain", target="velocity", sampler="ddim", context=1)
    overfit_steps = 400  # its frames are noise, and noise of every strength is drawn upon them


TINY_DIT = dataclasses.replace(
    denoising.presets.tiny(), network="dit", noise="chain", schedule="sigmoid", target="frame", sampler="ddim",
    context=3, stabilisation=15.0, condition=64, depth=2, heads=2, patch=4,
)  # fmt: skip


class TestDenoisingWithCausalAttention(WorldModelContract):
    config = TINY_DIT
    overfit_steps = 400


class TestDenoisingInChunks(WorldModelContract):
    config = dataclasses.replace(TINY_DIT, chunk=2, plan="pyramid", noise="flow", sampler="dpm", stabilisation=0.02)
    spec = dataclasses.replace(SPEC, chunk=2)
    overfit_steps = 400


class TestDenoisingInGroups(WorldModelContract):
    """Observed frames are remembered one by one, drawn ones as the groups they were drawn in."""

    config = dataclasses.replace(TINY_DIT, chunk=4, plan="groups", group=2, in_flight=2, denoiser_length=8, passes=4)
    spec = dataclasses.replace(SPEC, chunk=4)
    overfit_steps = 400


class TestDenoisingAcross(WorldModelContract):
    config = dataclasses.replace(TINY_DIT, network="cdit", furthest_jump=3, corruption=0.1)
    overfit_steps = 400


class TestDenoisingFromAPackedPast(WorldModelContract):
    config = dataclasses.replace(
        TINY_DIT, network="packed", packing=((1, 1), (2, 2)), chunk=2, plan="ends first", hide_past=0.1, guide_past=1.2
    )
    spec = dataclasses.replace(SPEC, chunk=2)
    overfit_steps = 400


class TestDenoisingWithShortcuts(WorldModelContract):
    config = dataclasses.replace(
        TINY_DIT, noise="flow", sampler="euler", shortcut=4, stabilisation=0.25, manner="labelled"
    )
    overfit_steps = 800


class TestDenoisingWithGuidedKeys(WorldModelContract):
    config = dataclasses.replace(TINY_DIT, actions="by kind", action_window=2, hide_actions=0.2, guide_actions=1.5)
    overfit_steps = 400


TINY_CODEC = CodecConfig(downsample=4, latent_channels=4, channels=(16,), patch=2, rate=3e-3)
TINY_LATENT = dataclasses.replace(TINY_DIT, codec=TINY_CODEC, data_std=1.0, patch=1, events_see="latent")


class TestDenoisingLatents(WorldModelContract):
    config = TINY_LATENT
    overfit_steps = 400


class TestDenoisingLatentsOfSeveralFrames(WorldModelContract):
    config = dataclasses.replace(
        TINY_LATENT, codec=dataclasses.replace(TINY_CODEC, kind="vit", width=32, depth=1, stride=2), actions="by kind",
        events_see="frame",
        action_window=1,
    )  # fmt: skip
    spec = dataclasses.replace(SPEC, chunk=2)
    overfit_steps = 400


class TestPersistence(WorldModelContract):
    config = persistence.PersistenceConfig()


class TestRSSM(WorldModelContract):
    config = rssm.tiny()


class TestRSSMWithEndingReward(WorldModelContract):
    config = dataclasses.replace(rssm.tiny(), terminal_reward=True)


@pytest.mark.parametrize(("size", "factors"), [((64, 64), [4, 2, 2]), ((16, 16), [4]), ((32, 48), [4, 2])])
def test_frames_of_any_multiple_of_four_are_read_and_drawn(size: tuple[int, int], factors: list[int]) -> None:
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


def test_the_reward_head_gives_back_what_it_was_taught() -> None:
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
        (gym.spaces.Box(-np.inf, np.inf, (1,), np.float32), [7.5], [7.5]),
    ],
)
def test_actions_become_vectors(space: gym.Space, action: object, expected: list[float]) -> None:
    vector = actions.ActionVector(space)(torch.as_tensor(action)[None])
    assert vector[0].tolist() == expected


def test_a_space_that_no_model_can_read_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"use Discrete, MultiDiscrete, MultiBinary, Box, or a Dict"):
        actions.ActionVector(gym.spaces.Text(5))


@pytest.mark.parametrize(
    ("setting", "value"), [("memory", 0), ("classes", 1), ("uniform_mix", 1.0), ("dropout", -0.1), ("channels", ())]
)
def test_settings_that_cannot_work_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting):
        dataclasses.replace(rssm.small(), **{setting: value})


def imagine_after_learning(moves: Tensor, rewards: Tensor, ends: Tensor, **settings: bool) -> Imagined:
    """Learn these rewards and endings of these actions by heart, over frames that never change; imagine them."""
    torch.manual_seed(0)
    model = dataclasses.replace(rssm.tiny(), dropout=0.0, **settings).build(SPEC).train()
    rows, steps = moves.shape
    frame = torch.full((rows, 3, 16, 16), 0.5)
    batch = Batch(
        first_frame=frame,
        frames=frame[:, None].expand(-1, steps, -1, -1, -1),
        actions=moves,
        rewards=rewards,
        terminated=ends,
        weight=torch.ones(rows, steps),
        generator=torch.Generator().manual_seed(1),
    )
    usual, spread, share = float(rewards.mean()), float(rewards.std()), float(ends.float().mean())
    model.calibrate(DataStatistics(frame[0], usual, spread, 0.0, 1.0, share))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(120):
        loss, _ = joint_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        imagined, _ = model.imagine(model.start(frame, torch.arange(rows)), moves)
    return imagined


def test_rewards_and_endings_are_learned_where_they_happen() -> None:
    """Action i leads to reward i and ending i, not to those of the step before or after."""
    moves = torch.randint(3, (16, 12), generator=torch.Generator().manual_seed(0))
    rewards, ends = (moves == 1).float(), moves == 2
    imagined = imagine_after_learning(moves, rewards, ends)
    assert float((imagined.rewards - rewards).abs().mean()) < 0.1
    assert float((imagined.termination - ends.float()).abs().mean()) < 0.1


def test_a_reward_that_comes_with_the_ending_is_paid_by_the_ending_alone() -> None:
    """Action 2 ends one episode in two, for 1; what does not end pays nothing, though their mean would be a half."""
    generator = torch.Generator().manual_seed(0)
    moves = torch.randint(3, (16, 12), generator=generator)
    ends = (moves == 2) & (torch.rand(moves.shape, generator=generator) < 0.5)
    imagined = imagine_after_learning(moves, ends.float(), ends, terminal_reward=True)
    assert imagined.terminal_rewards is not None
    tried = moves == 2
    assert float(imagined.rewards.abs().max()) < 0.1
    assert float(imagined.terminal_rewards[tried].min()) > 0.9
    assert 0.2 < float(imagined.termination[tried].mean()) < 0.8
    assert 0.2 < float(imagined.expected_rewards[tried].mean()) < 0.8

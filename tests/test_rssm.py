"""The RSSM keeps the contract, and learns rewards and terminations where they happen."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from dreamenv.action_layout import ActionLayout
from dreamenv.backbones.rssm import RSSMConfig, RSSMStage, RSSMTraining
from dreamenv.backbones.rssm.presets import small, tiny
from dreamenv.errors import ConfigError
from dreamenv.nn.actions import ActionVector
from dreamenv.testing import SPEC, WorldModelContract
from dreamenv.world_model import Batch, DataStatistics, Imagined, WorldModelSpec


def with_head(config: RSSMConfig, **settings: object) -> RSSMConfig:
    return dataclasses.replace(config, head=dataclasses.replace(config.head, **settings))


class TestRSSM(WorldModelContract):
    config = tiny()


class TestRSSMWithTerminalReward(WorldModelContract):
    config = with_head(tiny(), terminal_reward=True)


@pytest.mark.parametrize(("setting", "value"), [("deter", 0), ("classes", 1), ("unimix", 1.0), ("channels", ())])
def test_settings_that_cannot_work_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting):
        dataclasses.replace(small(), **{setting: value})


def test_settings_of_training_that_cannot_work_are_refused_by_name() -> None:
    for setting, value in {"dropout": -0.1, "free_nats": -1.0, "foreground_weight": float("nan")}.items():
        with pytest.raises(ConfigError, match=setting):
            RSSMTraining(**{setting: value})
    with pytest.raises(ConfigError, match="sequence_length"):
        RSSMStage(steps=1, batch_size=1, sequence_length=0)


def imagine_after_learning(moves: Tensor, rewards: Tensor, ends: Tensor, *, terminal_reward: bool = False) -> Imagined:
    """Learn these rewards and terminations of these actions, over frames that never change; imagine them."""
    torch.manual_seed(0)
    config = dataclasses.replace(tiny(), training=dataclasses.replace(tiny().training, dropout=0.0))
    model = with_head(config, terminal_reward=terminal_reward).build(SPEC).train()
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
    joint = model.stages()[0].objectives[0]
    optimizer = torch.optim.Adam(joint.parameters, 3e-3)
    for _ in range(160):
        loss, _ = joint.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        imagined, _ = model.imagine(model.start(frame, torch.arange(rows)), moves)
    return imagined


def test_rewards_and_terminations_are_learned_at_their_step() -> None:
    """Action i leads to reward i and termination i, not to those of the step before or after."""
    moves = torch.randint(3, (16, 12), generator=torch.Generator().manual_seed(0))
    rewards, ends = (moves == 1).float(), moves == 2
    imagined = imagine_after_learning(moves, rewards, ends)
    assert float((imagined.rewards - rewards).abs().mean()) < 0.1
    assert float((imagined.termination - ends.float()).abs().mean()) < 0.1


def test_a_terminal_reward_is_paid_on_termination_only() -> None:
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


def test_frames_decoded_in_blocks_are_those_that_gradients_pass_through() -> None:
    torch.manual_seed(0)
    spec = WorldModelSpec(frame_shape=(3, 16, 16), action_space=gym.spaces.Discrete(3), frame_rate=10.0)
    model = tiny().build(spec).eval()
    model.autoencoder.mean_frame.copy_(torch.rand(3, 16, 16))
    latents = torch.randint(0, model.config.classes, (70, model.config.stoch))
    whole = model.autoencoder.decode(latents)
    with torch.no_grad():
        blocks = model.autoencoder.decode(latents)
    torch.testing.assert_close(blocks, whole.detach(), rtol=1e-5, atol=1e-6)
    assert whole.requires_grad
    assert float(blocks.min()) >= 0
    assert float(blocks.max()) <= 1


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(5),
        gym.spaces.Discrete(4, start=-2),
        gym.spaces.MultiDiscrete([3, 2]),
        gym.spaces.Box(-1, 2, (3,)),
    ],
    ids=str,
)
def test_looked_up_actions_are_the_product_of_their_vectors(space: gym.Space) -> None:
    encoder, layout = ActionVector(space), ActionLayout(space)
    weight = torch.randn(7, encoder.size)
    space.seed(0)
    for rows in (1, 20):
        actions = torch.from_numpy(np.stack([[layout.pack(space.sample())] for _ in range(rows)]))
        torch.testing.assert_close(encoder.project(actions, weight), encoder(actions) @ weight.t())

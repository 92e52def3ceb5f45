"""Heads start at the usual reward and termination, pay a rare reward nowhere else, and read no frame too many."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor

from dreamenv.errors import ConfigError
from dreamenv.heads.base import HeadOutput
from dreamenv.heads.recurrent import RecurrentHead, RecurrentHeadConfig
from dreamenv.heads.reward_termination import RewardTerminationHead, RewardTerminationHeadConfig
from dreamenv.nn.dropout import dropout
from dreamenv.nn.twohot import TwoHot
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.world_model import Batch, DataStatistics

FRAMES = (3, 16, 16)
TINY = RecurrentHeadConfig(hidden_size=32, channels=(8, 12), prediction=RewardTerminationHeadConfig(hidden_size=16))


def statistics(mean: float, low: float, high: float, rate: float) -> DataStatistics:
    return DataStatistics(torch.full(FRAMES, 0.5), mean, 1.0, low, high, rate)


def batch_of(rewards: Tensor, terminated: Tensor, frames: Tensor, **changes: object) -> Batch:
    """Steps that all count; ``frames`` (b, t + 1, ...)."""
    b, t = rewards.shape
    batch = Batch(
        first_frame=frames[:, 0], frames=frames[:, 1:], actions=torch.zeros(b, t, dtype=torch.long), rewards=rewards,
        terminated=terminated, weight=torch.ones(b, t), generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    return dataclasses.replace(batch, **changes)


def small_head(**settings: object) -> RewardTerminationHead:
    torch.manual_seed(0)
    return RewardTerminationHeadConfig(hidden_size=16, **settings).build(8)


@pytest.mark.parametrize("terminal_reward", [False, True])
@pytest.mark.parametrize(
    ("mean", "low", "high"),
    [(3.3, -300.0, 4.0), (0.001, 0.0, 1.0), (0.05, 0.0, 1000.0), (2.0, 2.0, 2.0), (-1.0, -1.0, 0.0)],
)
def test_a_head_starts_at_the_usual_reward_and_rate(
    mean: float, low: float, high: float, terminal_reward: bool
) -> None:
    head = small_head(terminal_reward=terminal_reward)
    head.calibrate(statistics(mean, low, high, 0.004))
    with torch.no_grad():
        predicted = head(torch.randn(5, 6, 8))
    torch.testing.assert_close(predicted.rewards, torch.full((5, 6), mean), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(predicted.termination, torch.full((5, 6), 0.004))
    if terminal_reward:
        torch.testing.assert_close(predicted.terminal_rewards, predicted.rewards)
    else:
        assert predicted.terminal_rewards is None


def test_no_reward_is_too_unlikely_at_initialisation() -> None:
    bins = TwoHot(65)
    bins.set_range(-300.0, 4.0)
    shares = bins.initial_logits(3.3).softmax(dim=-1)
    assert float(shares.min()) > 1e-4
    torch.testing.assert_close((shares * bins.centers).sum(), torch.tensor(3.3), rtol=1e-4, atol=1e-4)


def test_a_rare_reward_is_not_paid_elsewhere() -> None:
    """One step in 64 pays 50, marked by a feature; the others pay nothing."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(64, 16, 8, generator=generator)
    pays = torch.rand(64, 16, generator=generator) < 1 / 64
    features[..., 0] = torch.where(pays, 3.0, 0.0)
    rewards = 50.0 * pays
    head = small_head()
    head.calibrate(statistics(float(rewards.mean()), 0.0, 50.0, 0.01))
    batch = batch_of(rewards, torch.zeros_like(pays), torch.zeros(64, 17, 1))
    learn(head, lambda: head.loss(features, batch)[0], steps=150)
    with torch.no_grad():
        predicted = head(features).rewards
    assert float(predicted[pays].mean()) > 40
    assert float(predicted[~pays].mean()) < 0.1 * float(rewards.mean())


def test_each_reward_is_learned_from_its_own_steps() -> None:
    """Half the steps end, for 1; the others pay nothing."""
    generator = torch.Generator().manual_seed(0)
    features, ends = torch.randn(8, 16, 8, generator=generator), torch.rand(8, 16, generator=generator) < 0.5
    head = small_head(terminal_reward=True)
    head.calibrate(statistics(0.5, 0.0, 1.0, 0.5))
    batch = batch_of(ends.float(), ends, torch.zeros(8, 17, 1))
    learn(head, lambda: head.loss(features, batch)[0], steps=150)
    with torch.no_grad():
        predicted = head(features)
    assert float(predicted.rewards.mean()) < 0.1
    assert float(predicted.terminal_rewards.mean()) > 0.9


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    head = small_head(terminal_reward=True, reward_weight=2.0, termination_weight=3.0)
    ends = torch.tensor([[False, True, False]])
    batch = batch_of(
        torch.tensor([[0.0, 1.0, 0.5]]), ends, torch.zeros(1, 4, 1), weight=torch.tensor([[1.0, 1.0, 0.0]])
    )
    loss, terms = head.loss(torch.randn(1, 3, 8), batch)
    assert set(terms) == {"reward", "termination", "terminal_reward"}
    expected = 2 * terms["reward"] + 3 * (terms["termination"] + terms["terminal_reward"])
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("watches", ["frame", "latent"])
def test_a_recurrent_head_learns_what_each_action_leads_to(watches: str) -> None:
    """Action 1 pays and action 2 ends, over frames that never change; without reading the frame they led to."""
    actions = torch.randint(3, (16, 12), generator=torch.Generator().manual_seed(0))
    vectors = torch.nn.functional.one_hot(actions, 3).float()
    rewards, ends = (actions == 1).float(), actions == 2
    torch.manual_seed(0)
    head = dataclasses.replace(TINY, watches=watches, dropout=0.0).build(FRAMES, 3)
    head.calibrate(statistics(float(rewards.mean()), 0.0, 1.0, float(ends.float().mean())))
    frames = torch.full((16, 13, *FRAMES), 0.5)
    batch = batch_of(rewards, ends, frames, features=frames if watches == "latent" else None)
    learn(head, lambda: head.loss(vectors, batch)[0], steps=80, rate=1e-2)
    state = {"hidden": torch.zeros(16, 32), watches: frames[:, 0]}
    with torch.no_grad():
        predicted = head.follow(state, vectors, torch.full((16, 12, *FRAMES), 0.5))
    assert float((predicted.rewards - rewards).abs().mean()) < 0.1
    assert float((predicted.termination - ends.float()).abs().mean()) < 0.1


def test_following_in_pieces_agrees_with_one_pass_and_with_the_loss() -> None:
    torch.manual_seed(0)
    head = TINY.build(FRAMES, 3).eval()
    frames, actions = torch.rand(2, 7, *FRAMES), torch.randn(2, 6, 3)
    with torch.no_grad():
        whole_state = {"hidden": torch.zeros(2, 32), "frame": frames[:, 0]}
        whole = head.follow(whole_state, actions, frames[:, 1:])
        state = {"hidden": torch.zeros(2, 32), "frame": frames[:, 0]}
        pieces = []
        for i in range(6):
            pieces.append(head.follow(state, actions[:, i : i + 1], frames[:, i + 1 : i + 2]))
            state["frame"] = frames[:, i + 1]
        _, terms = head.loss(actions, batch_of(whole.rewards, whole.termination > 0.5, frames))
        logits = head.prediction.reward(path_of(head, frames, actions))
    torch.testing.assert_close(whole.rewards, torch.cat([one.rewards for one in pieces], dim=1))
    torch.testing.assert_close(whole.termination, torch.cat([one.termination for one in pieces], dim=1))
    torch.testing.assert_close(whole_state["hidden"], state["hidden"])
    torch.testing.assert_close(terms["reward"], head.prediction.bins.loss(logits, whole.rewards).mean())
    assert head.embed(whole_state).shape == (2, head.embedding_size)


def test_the_frame_that_a_step_led_to_is_not_read() -> None:
    head = TINY.build(FRAMES, 3).eval()
    frames, actions = torch.rand(2, 4, *FRAMES), torch.randn(2, 4, 3)
    outputs: list[HeadOutput] = []
    for last in (frames[:, -1], torch.zeros(2, *FRAMES)):
        state = {"hidden": torch.zeros(2, 32), "frame": torch.full((2, *FRAMES), 0.5)}
        with torch.no_grad():
            outputs.append(head.follow(state, actions, torch.cat((frames[:, :-1], last[:, None]), dim=1)))
    assert torch.equal(outputs[0].rewards, outputs[1].rewards)


def test_dropout_is_sampled_from_the_generator_alone() -> None:
    values = torch.ones(64, 5, 8)
    first, again = (dropout(values, 0.25, torch.Generator().manual_seed(3), (64, 5, 1)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(first, first[..., :1].expand_as(first))
    assert 0.15 < float((first == 0).float().mean()) < 0.35
    assert dropout(values, 0.0, None) is values


def test_the_settings_survive_json() -> None:
    assert part_from_json(json.loads(json.dumps(part_to_json(TINY)))) == TINY


@pytest.mark.parametrize(
    ("setting", "value"), [("hidden_size", 0), ("channels", ()), ("dropout", 1.0), ("watches", "sound")]
)
def test_settings_of_a_recurrent_head_that_cannot_work_are_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting):
        dataclasses.replace(TINY, **{setting: value})


@pytest.mark.parametrize(
    ("setting", "value"), [("hidden_size", 0), ("bins", 1), ("reward_weight", -1.0), ("termination_weight", -0.5)]
)
def test_settings_of_a_prediction_that_cannot_work_are_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting):
        RewardTerminationHeadConfig(**{setting: value})


def learn(head: torch.nn.Module, loss: object, steps: int, rate: float = 3e-3) -> None:
    optimizer = torch.optim.Adam(head.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    head.eval()


def path_of(head: RecurrentHead, frames: Tensor, actions: Tensor) -> Tensor:
    """The memories (b, t, hidden_size) of a sequence, one step after another."""
    hidden, path = torch.zeros(frames.shape[0], head.config.hidden_size), []
    for i in range(actions.shape[1]):
        seen = head.frame_proj(head.encoder(frames[:, i]))
        hidden = head.gru.step(head.gru_proj(torch.cat((seen, actions[:, i]), dim=-1)), hidden)
        path.append(hidden)
    return torch.stack(path, dim=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_weight": 0.0, "termination_weight": 0.0}, "are both 0, so the head would learn nothing"),
        ({"termination_weight": 0.0, "terminal_reward": True}, "the reward of a termination is not learned"),
    ],
)
def test_weights_that_leave_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RewardTerminationHeadConfig(**settings)

"""Reward and termination of each step, from what a backbone remembers before the step's frame is made.

The reward is a distribution over bins (`dreamenv.nn.twohot`), the termination a probability. Both start at the usual
value of the data, whatever the features are: terminations are rare, and so are rewards where a goal pays, and a head
that starts anywhere would first have to learn everywhere that nothing happens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.heads.base import HeadOutput
from dreamenv.nn.mlp import mlp
from dreamenv.nn.twohot import TwoHot
from dreamenv.parts import Part
from dreamenv.world_model import Batch, DataStatistics

__all__ = ["RewardTerminationHead", "RewardTerminationHeadConfig"]

_TERMINATION_RATES = 1e-5, 0.5  # that a head can start from


@dataclass(frozen=True, kw_only=True)
class RewardTerminationHeadConfig(Part, kind="reward_termination"):
    """Settings.

    Attributes:
        hidden_size: width of the hidden layer of each prediction.
        bins: of the distribution over rewards.
        terminal_reward: a prediction of its own for the reward of a step that ends an episode,
            p(r, end) = p(end) p(r | end). For goals, whose reward comes with the end alone: a dream then cannot pay it
            and go on.
        reward_weight: of the reward's cross-entropy.
        termination_weight: of the termination's cross-entropy, and of that of its reward.

    Raises:
        ConfigError: a size that is not positive, a negative weight, or weights of 0 that leave a prediction's settings
            without effect.
    """

    hidden_size: int = 128
    bins: int = 65
    terminal_reward: bool = False
    reward_weight: float = 1.0
    termination_weight: float = 5.0

    def __post_init__(self) -> None:
        if self.hidden_size < 1 or self.bins < 2:
            raise ConfigError(
                f"hidden_size must be at least 1 and bins at least 2, not {self.hidden_size} and {self.bins}."
            )
        for name in ("reward_weight", "termination_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}.")
        if self.reward_weight == self.termination_weight == 0:
            raise ConfigError(
                "reward_weight and termination_weight are both 0, so the head would learn nothing; make one positive."
            )
        if self.termination_weight == 0 and self.terminal_reward:
            raise ConfigError(
                "with a termination_weight of 0 the reward of a termination is not learned; leave terminal_reward out."
            )

    def build(self, features: int) -> RewardTerminationHead:
        """Return the untrained head, for features of a width."""
        return RewardTerminationHead(self, features)


class RewardTerminationHead(nn.Module):
    """The predictions.

    Args:
        config: its settings.
        features: width of what it reads.
    """

    def __init__(self, config: RewardTerminationHeadConfig, features: int) -> None:
        super().__init__()
        self.config, self.bins = config, TwoHot(config.bins)
        self.reward = mlp(features, config.hidden_size, config.bins)
        self.termination = mlp(features, config.hidden_size, 1)
        self.terminal_reward = mlp(features, config.hidden_size, config.bins) if config.terminal_reward else None

    def forward(self, features: Tensor) -> HeadOutput:
        """Features (..., n) -> predictions (...), rewards in the environment's units."""
        return HeadOutput(
            rewards=self.bins.mean(self.reward(features).float()),
            termination=self.termination(features).float().squeeze(-1).sigmoid(),
            terminal_rewards=self.bins.mean(self.terminal_reward(features).float()) if self.terminal_reward else None,
        )

    def loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what to minimise and its terms, in nats per step: ``reward``, ``termination``, ``terminal_reward``.

        Args:
            features: (b, t, n), which hold each action but not the frame it led to.
            batch: the steps.
        """
        config, ends = self.config, batch.terminated
        rewards = self.bins.loss(self.reward(features).float(), batch.rewards)
        terminations = functional.binary_cross_entropy_with_logits(
            self.termination(features).float().squeeze(-1), ends.float(), reduction="none"
        )
        steps = {"reward": rewards, "termination": terminations}
        if self.terminal_reward is not None:
            # Each learns from its own steps alone; both means are over all steps, as in log p(r, end).
            steps["reward"] = rewards * ~ends
            steps["terminal_reward"] = self.bins.loss(self.terminal_reward(features).float(), batch.rewards) * ends
        total = batch.weight.sum().clamp_min(1e-8)
        terms = {name: (values * batch.weight).sum() / total for name, values in steps.items()}
        loss = config.reward_weight * terms["reward"] + config.termination_weight * terms["termination"]
        if "terminal_reward" in terms:
            loss = loss + config.termination_weight * terms["terminal_reward"]
        return loss, terms

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the range of rewards from the data, and start at the mean reward and the rate of terminations."""
        self.bins.set_range(statistics.reward_min, statistics.reward_max)
        usual = self.bins.initial_logits(statistics.reward_mean)
        _start_at(self.reward, usual)
        if self.terminal_reward is not None:
            _start_at(self.terminal_reward, usual)
        least, most = _TERMINATION_RATES
        rate = min(max(statistics.termination_rate, least), most)
        _start_at(self.termination, usual.new_tensor([math.log(rate / (1 - rate))]))


@torch.no_grad()
def _start_at(head: nn.Sequential, logits: Tensor) -> None:
    """Predict these, whatever the features are."""
    last = head[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    last.bias.copy_(logits)

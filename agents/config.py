"""The settings of an agent, each with its unit and source."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from dreamenv.agents.observations import ObservationConfig
from dreamenv.errors import ConfigError, UnknownNameError

__all__ = ["AgentConfig"]


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """How an agent learns.

    Sources: [S] Schulman et al. 2017 (PPO), [H] Huang et al. 2022 (37 details of PPO), [P] our own trials.

    Attributes:
        algorithm: "ppo", or "recurrent_ppo" with an LSTM of ``lstm_size`` units.
        where: "dream", "real", or "mixed": dream rows and ``real_envs`` real rows in one batch (Dyna).
        observation: what the policy sees.
        total_steps: agent steps in all, over all rows.
        num_envs: rows in all.
        real_envs: how many of the rows are real when mixed; ignored otherwise.
        rollout_steps: steps per row between updates [P].
        batch_size: steps per gradient step; must divide ``num_envs * rollout_steps`` [P].
        epochs: passes over each rollout [H: 3 to 10].
        learning_rate: of Adam at the beginning [S].
        anneal: lower the learning rate linearly to 0 [H].
        gamma: discount per agent step [S].
        gae_lambda: of generalised advantage estimation [S].
        clip: largest change of an action's probability ratio [S].
        entropy: weight of the entropy bonus [S].
        value: weight of the value loss [S].
        max_grad_norm: gradients are clipped to this norm [H].
        normalize_reward: divide rewards by the running standard deviation of discounted returns [H].
        hidden: widths of the two heads' hidden layers [P].
        channels: of the three convolutions that read frames [P]; only for frames.
        features: width of what the convolutions hand on; only for frames.
        lstm_size: units; only for "recurrent_ppo".
        horizon: longest dream, in agent steps; None for the world's own limit.
        temperature: of the dream's sampling, or (low, high) to draw one per dream.
        uncertainty_penalty: how much reward a unit of the world's doubt costs in the dream.
        max_uncertainty: dreams are cut off where the world's doubt exceeds this; None never does.
        episode_starts_only: dreams begin only where recorded episodes began.
        seed: of everything, at least 0.
        num_threads: of torch; None leaves them.
        device: of policy and dream, "cpu" or "cuda".
        checkpoint_every: agent steps between checkpoints; 0 writes one at the end only.
        eval_every: agent steps between evaluations; 0 never evaluates.
        eval_episodes: episodes per evaluation.
    """

    algorithm: Literal["ppo", "recurrent_ppo"] = "ppo"
    where: Literal["dream", "real", "mixed"] = "dream"
    observation: ObservationConfig = field(default_factory=ObservationConfig)
    total_steps: int = 400_000
    num_envs: int = 64
    real_envs: int = 8
    rollout_steps: int = 64
    batch_size: int = 512
    epochs: int = 4
    learning_rate: float = 3e-4
    anneal: bool = False
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    value: float = 0.5
    max_grad_norm: float = 0.5
    normalize_reward: bool = True
    hidden: tuple[int, ...] = (128, 128)
    channels: tuple[int, int, int] = (16, 32, 32)
    features: int = 128
    lstm_size: int = 128
    horizon: int | None = 128
    temperature: float | tuple[float, float] = 1.0
    uncertainty_penalty: float = 0.0
    max_uncertainty: float | None = None
    episode_starts_only: bool = False
    seed: int = 0
    num_threads: int | None = None
    device: str = "cpu"
    checkpoint_every: int = 50_000
    eval_every: int = 0
    eval_episodes: int = 20

    def __post_init__(self) -> None:
        if self.algorithm not in ("ppo", "recurrent_ppo"):
            raise UnknownNameError("algorithm", self.algorithm, ("ppo", "recurrent_ppo"))
        if self.where not in ("dream", "real", "mixed"):
            raise UnknownNameError("place to train", self.where, ("dream", "real", "mixed"))
        for name in ("total_steps", "num_envs", "rollout_steps", "batch_size", "epochs", "features", "lstm_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("checkpoint_every", "eval_every", "eval_episodes", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}.")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], not {getattr(self, name)}.")
        for name in ("learning_rate", "clip", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}.")
        rollout = self.num_envs * self.rollout_steps
        if self.batch_size < 2 or rollout % self.batch_size:
            raise ConfigError(
                f"batch_size must be at least 2 and divide num_envs * rollout_steps = {rollout}, not {self.batch_size}."
            )
        if self.where == "mixed" and not 0 < self.real_envs < self.num_envs:
            raise ConfigError(
                f"real_envs must be between 1 and num_envs - 1 = {self.num_envs - 1}, not {self.real_envs}."
            )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> AgentConfig:
        """Read back what `to_json` gave."""
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        observation = ObservationConfig(**settings.pop("observation", {}))
        unknown = set(settings) - {entry.name for entry in dataclasses.fields(cls)}
        if unknown:
            raise UnknownNameError("agent setting", unknown.pop(), [entry.name for entry in dataclasses.fields(cls)])
        return cls(observation=observation, **settings)

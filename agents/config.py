"""The settings of an agent, each with its unit and source, under the names that stable-baselines3 has for them.

Sources: [S] Schulman et al. 2017 (PPO), [H] Huang et al. 2022 (37 details of PPO), [P] our own trials.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from dreamenv.agents.observations import ObservationConfig
from dreamenv.checks import check_flag, check_number, check_typed, check_whole, declared_types
from dreamenv.dream.config import DreamConfig, require
from dreamenv.errors import UnknownNameError

__all__ = ["AgentConfig", "NetworkConfig", "PPOConfig"]

Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """How PPO learns.

    Attributes:
        n_steps: steps per row between updates [P].
        batch_size: steps per gradient step, at least 2; must divide ``num_envs * n_steps`` [P].
        n_epochs: passes over each rollout [H: 3 to 10].
        learning_rate: of Adam, at first [S].
        anneal_lr: lower the learning rate linearly to 0 [H].
        gamma: discount per agent step [S].
        gae_lambda: of generalised advantage estimation [S].
        clip_range: largest change of an action's probability ratio [S].
        ent_coef: weight of the entropy bonus [S].
        vf_coef: weight of the value loss [S].
        max_grad_norm: gradients are clipped to this norm [H].
        normalize_reward: divide rewards by the running standard deviation of discounted returns [H].
    """

    n_steps: int = 64
    batch_size: int = 512
    n_epochs: int = 4
    learning_rate: float = 3e-4
    anneal_lr: bool = False
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    normalize_reward: bool = True

    def __post_init__(self) -> None:
        settle = functools.partial(object.__setattr__, self)  # numpy's numbers become Python's, which JSON knows
        for name, least in {"n_steps": 1, "batch_size": 2, "n_epochs": 1}.items():
            settle(name, check_whole(name, getattr(self, name), least=least))
        for name in ("ent_coef", "vf_coef"):
            settle(name, check_number(name, getattr(self, name), least=0))
        for name in ("gamma", "gae_lambda"):
            settle(name, check_number(name, getattr(self, name), least=0, most=1))
        for name in ("learning_rate", "clip_range", "max_grad_norm"):
            settle(name, check_number(name, getattr(self, name), least=0))
            require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}.")
        for name in ("anneal_lr", "normalize_reward"):
            settle(name, check_flag(name, getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The policy's network.

    Attributes:
        net_arch: widths of the hidden layers of the actor and of the critic [P].
        channels: of the three convolutions that read frames [P]; only for frames.
        features_dim: width of what the convolutions hand on; only for frames.
        lstm_hidden_size: units of the LSTM; only for "recurrent_ppo".
    """

    net_arch: tuple[int, ...] = (128, 128)
    channels: tuple[int, int, int] = (16, 32, 32)
    features_dim: int = 128
    lstm_hidden_size: int = 128

    def __post_init__(self) -> None:
        settle = functools.partial(object.__setattr__, self)
        for name in ("net_arch", "channels"):
            sizes = getattr(self, name)
            require(isinstance(sizes, tuple | list), f"{name} must be a tuple of widths, not {sizes!r}.")
            settle(name, tuple(check_whole(name, size) for size in sizes))
        require(len(self.channels) == 3, f"channels must be three numbers, not {self.channels}.")
        for name in ("features_dim", "lstm_hidden_size"):
            settle(name, check_whole(name, getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """What an agent learns, where, and for how long.

    Attributes:
        algorithm: "ppo", or "recurrent_ppo" with an LSTM.
        where: "dream", "real", or "mixed": dream rows and ``real_envs`` real rows in one batch (Dyna).
        observation: what the policy sees.
        ppo: how it learns.
        network: what it learns with.
        dream: how the world is dreamt; only for "dream" and "mixed". A horizon of None is 128 steps here [P], or the
            real environment's time limit where that is shorter.
        total_steps: agent steps in all, over all rows.
        num_envs: rows in all.
        real_envs: how many of the rows are real; only for "mixed".
        seed: of everything, at least 0.
        num_threads: of torch; None leaves its setting.
        device: of policy and dream, "cpu" or "cuda".
        checkpoint_every: agent steps between checkpoints; 0 writes one at the end only.
        eval_every: agent steps between evaluations; 0 never evaluates.
        eval_episodes: episodes per evaluation.
    """

    algorithm: Literal["ppo", "recurrent_ppo"] = "ppo"
    where: Literal["dream", "real", "mixed"] = "dream"
    observation: ObservationConfig = field(default_factory=ObservationConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    dream: DreamConfig = field(default_factory=DreamConfig)
    total_steps: int = 400_000
    num_envs: int = 64
    real_envs: int = 8
    seed: int = 0
    num_threads: int | None = None
    device: str = "cpu"
    checkpoint_every: int = 50_000
    eval_every: int = 0
    eval_episodes: int = 20

    def __post_init__(self) -> None:
        for name in ("algorithm", "where", "observation", "ppo", "network", "dream", "device"):
            check_typed(name, getattr(self, name), declared_types(AgentConfig)[name])
        if self.algorithm not in ("ppo", "recurrent_ppo"):
            raise UnknownNameError("algorithm", self.algorithm, ("ppo", "recurrent_ppo"))
        if self.where not in ("dream", "real", "mixed"):
            raise UnknownNameError("place to train", self.where, ("dream", "real", "mixed"))
        settle = functools.partial(object.__setattr__, self)
        for name, least in {
            "total_steps": 1, "num_envs": 1, "real_envs": 0, "seed": 0,
            "checkpoint_every": 0, "eval_every": 0, "eval_episodes": 0,
        }.items():  # fmt: skip
            settle(name, check_whole(name, getattr(self, name), least=least, most=2**62))
        if self.num_threads is not None:
            settle("num_threads", check_whole("num_threads", self.num_threads, also=", or None"))
        rollout, batch_size = self.num_envs * self.ppo.n_steps, self.ppo.batch_size
        require(
            rollout % batch_size == 0,
            f"batch_size must divide num_envs * n_steps = {rollout}, which {batch_size} does not.",
        )
        require(
            self.where != "mixed" or 0 < self.real_envs < self.num_envs,
            f"real_envs must be between 1 and num_envs - 1 = {self.num_envs - 1}, not {self.real_envs}.",
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AgentConfig:
        """Read back what `to_json` gave.

        Raises:
            UnknownNameError, ConfigError: a setting that does not exist, or a value that cannot work.
        """
        settings = dict(values)
        for name, part in (("observation", ObservationConfig), ("ppo", PPOConfig), ("network", NetworkConfig)):
            settings[name] = _read(part, settings.get(name, {}))
        settings["dream"] = DreamConfig.from_json(settings.get("dream", {}))
        return _read(cls, settings)


def _read(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    known = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise UnknownNameError("agent setting", name, known)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

"""A trained policy, on disk and in use: tensors and JSON, no pickle.

Like a dream, an acting policy is a pure function of its state and of what it sees: each row's random stream (and the
LSTM's memory) is part of the state, so an episode depends on its seed and not on the other rows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy

from dreamenv.agents.actions import PolicyActions
from dreamenv.agents.config import AgentConfig
from dreamenv.agents.networks import build_policy, load_tensors, tensors_of
from dreamenv.agents.policy_folder import POLICY, POLICY_REMEDY, TENSORS, find_policy_folder
from dreamenv.checks import check_path, check_typed, show, to_array
from dreamenv.data.provenance import Provenance
from dreamenv.data.spaces import space_from_json, space_to_json
from dreamenv.errors import CheckpointDamagedError, ConfigError, InputError, SeedError, StorageError
from dreamenv.randomness import categorical, normal, seed_keys
from dreamenv.storage import build_for_weights, read_shapes, read_tensors, refuse_malformed, write_tensors
from dreamenv.tensordicts import TensorDict

__all__ = ["PolicyState", "SavedPolicy"]

_STREAM = 2**30
"""The stream from which actions are sampled: neither a model's (below 2**16) nor an environment's (2**31)."""

PolicyState: TypeAlias = TensorDict


@dataclass(kw_only=True)
class SavedPolicy:
    """A policy and all that is needed to use it.

    Attributes:
        config: what it was trained with.
        network: stable-baselines3's policy.
        observation_space, action_space: what it sees, and what the environment it acts in takes.
        world_hash: fingerprint of the model whose latents it reads, or in which it was trained; "" without one.
        provenance: of the real environment; None if unknown.
        record: facts of its training: steps, seconds, scores.
    """

    config: AgentConfig
    network: ActorCriticPolicy
    observation_space: gym.spaces.Box
    action_space: gym.Space[Any]
    world_hash: str = ""
    provenance: Provenance | None = None
    record: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def policy_actions(self) -> PolicyActions:
        """Turns the policy's actions into the environment's."""
        return PolicyActions(self.action_space)

    def start(self, seeds: NDArray[np.int64]) -> PolicyState:
        """Return the state of rows at their episodes' start, one seed (b,) each."""
        device = self.network.device
        values = to_array("seeds", seeds, error=SeedError)
        if values.ndim != 1 or values.dtype.kind not in "iu" or (values.size and values.min() < 0):
            raise SeedError(f"seeds must be (b,) whole numbers of at least 0, not {show(seeds)}.")
        seed = torch.as_tensor(values.astype(np.int64), device=device)
        state = {"rng_key": seed_keys(seed), "rng_counter": torch.zeros_like(seed)}
        if isinstance(self.network, RecurrentActorCriticPolicy):
            layers, _, width = self.network.lstm_hidden_state_shape
            state["hidden"] = torch.zeros(len(seed), layers, width, device=device)
            state["cell"] = torch.zeros(len(seed), layers, width, device=device)
        return TensorDict(state, batch_size=[len(seed)])

    @torch.no_grad()  # not inference_mode: callers may write into the state that comes back
    def act(
        self, observations: NDArray[Any], state: PolicyState, *, deterministic: bool = False
    ) -> tuple[NDArray[Any], PolicyState]:
        """Choose actions.

        Args:
            observations: (b, ...) of the observation space.
            state: of as many rows.
            deterministic: act greedily instead of sampling.

        Raises:
            InputError: observations of another shape or kind.

        Returns:
            (b, ...) actions of the policy's own space (``policy_actions`` turns them into the environment's), and the
            rows' next state.
        """
        network = self.network
        network.set_training_mode(False)
        observations = to_array("observations", observations)
        if (
            observations.shape != (*state.batch_size, *self.observation_space.shape)
            or observations.dtype.kind not in "biuf"
        ):
            raise InputError(
                f"observations must be numbers {(*state.batch_size, *self.observation_space.shape)}, not "
                f"{observations.shape} {observations.dtype}."
            )
        seen: Any = network.obs_to_tensor(observations)[0]
        following = state.clone(recurse=False)
        distribution: Any
        if isinstance(network, RecurrentActorCriticPolicy):
            memory = tuple(state[name].transpose(0, 1).contiguous() for name in ("hidden", "cell"))
            never = torch.zeros(len(observations), device=network.device)
            distribution, memory = network.get_distribution(seen, memory, never)
            following["hidden"], following["cell"] = (part.transpose(0, 1) for part in memory)
        else:
            distribution = network.get_distribution(seen)
        actions = _choose(distribution, state, deterministic)
        following["rng_counter"] = state["rng_counter"] + 1
        own = self.policy_actions.space
        if isinstance(own, gym.spaces.Box):
            actions = actions.reshape(-1, *own.shape).clamp(
                torch.as_tensor(own.low, device=actions.device), torch.as_tensor(own.high, device=actions.device)
            )
        return actions.cpu().numpy(), following

    def save(self, path: str | Path) -> Path:
        """Write a folder with policy.safetensors and policy.json, whole or not at all; it replaces a policy there.

        Raises:
            StorageError: the disk refused, or something that is no policy is in the way.
        """
        path = check_path("where to save the policy", path, error=StorageError)
        values = {
            "config": self.config.to_json(),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "world_hash": self.world_hash,
            "provenance": self.provenance.to_json() if self.provenance is not None else None,
            "record": self.record,
        }

        def fill(folder: Path) -> dict[str, Any]:
            write_tensors(folder / TENSORS, tensors_of(self.network))
            return values

        POLICY.write(path, fill)
        return path

    def content_hash(self) -> str:
        """Return the SHA-256 of everything that its actions depend on: spaces, settings and parameters."""
        settings = [self.config.to_json(), space_to_json(self.observation_space), space_to_json(self.action_space)]
        digest = hashlib.sha256(json.dumps([*settings, self.world_hash], sort_keys=True).encode())
        for name, value in sorted(tensors_of(self.network).items()):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode() + value.numpy().tobytes())
        return digest.hexdigest()

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> SavedPolicy:
        """Read a policy from its folder, or from that of the run that trained it.

        Raises:
            PolicyError: a file of stable-baselines3.
            CheckpointDamagedError: a file is missing, cut short or altered.
            CheckpointError: no policy there, or one written by a newer dreamenv.
        """
        path = find_policy_folder(path)
        values = POLICY.read(path)
        shapes = read_shapes(path / TENSORS, CheckpointDamagedError, POLICY_REMEDY)

        def misfit(what: str) -> CheckpointDamagedError:
            return CheckpointDamagedError(
                f"the policy at {path} does not fit its own settings: {what}. {POLICY_REMEDY}"
            )

        with refuse_malformed(CheckpointDamagedError, f"the policy at {path}", POLICY_REMEDY):
            config = AgentConfig.from_json(values["config"])
            observation_space = space_from_json(values["observation_space"])
            action_space = space_from_json(values["action_space"])
            if not isinstance(observation_space, gym.spaces.Box):
                raise ValueError(f"it sees {observation_space}, not a Box")
            provenance = Provenance.from_json(values["provenance"]) if values["provenance"] is not None else None
            network = build_for_weights(
                lambda: build_policy(config, observation_space, action_space), shapes, tensors_of, misfit
            ).to(device)
            load_tensors(network, read_tensors(path / TENSORS, CheckpointDamagedError, POLICY_REMEDY))
            world_hash, record = check_typed("world_hash", values["world_hash"], str), dict(values["record"])
        return cls(
            config=config,
            network=network,
            observation_space=observation_space,
            action_space=action_space,
            world_hash=world_hash,
            provenance=provenance,
            record=record,
        )


def _choose(distribution: Any, state: PolicyState, deterministic: bool) -> torch.Tensor:
    """Take one action per row: the most probable one, or one sampled from the rows' own streams."""
    key, counter = state["rng_key"], state["rng_counter"]
    if isinstance(distribution, CategoricalDistribution | MultiCategoricalDistribution):
        several = isinstance(distribution, MultiCategoricalDistribution)
        parts: Any = distribution.distribution if several else [distribution.distribution]
        temperature = torch.ones(key.shape, device=key.device)
        chosen = [
            part.logits.argmax(dim=-1)
            if deterministic
            else categorical(part.logits[:, None], temperature, key, counter, stream=_STREAM + index)[:, 0]
            for index, part in enumerate(parts)
        ]
        return torch.stack(chosen, dim=1) if several else chosen[0]
    if isinstance(distribution, DiagGaussianDistribution):
        mean, std = distribution.distribution.mean, distribution.distribution.stddev
        noise = normal(key, counter, tuple(mean.shape[1:]), stream=_STREAM)
        return mean if deterministic else mean + std * noise
    raise ConfigError(f"policies with a {type(distribution).__name__} are not supported.")

"""Checkpoints of a training agent: all that PPO needs to go on, as tensors and JSON.

Environments are not part of it: on resuming, episodes start again from seeds that follow from the step reached.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from dreamenv.agents.config import AgentConfig
from dreamenv.agents.networks import load_tensors, tensors_of
from dreamenv.checks import show
from dreamenv.errors import CheckpointDamagedError, CheckpointError
from dreamenv.storage import refuse_malformed
from dreamenv.training.checkpoint import (
    Checkpoint,
    Checkpoints,
    flatten_optimizer,
    read_checkpoint,
    restore_optimizer,
)

__all__ = ["latest_checkpoint", "load_checkpoint", "save_checkpoint"]

_REMEDY = "Delete this checkpoint to resume from the one before."
_FREE = (
    "total_steps",
    "num_threads",
    "device",
    "checkpoint_every",
    "eval_every",
    "eval_episodes",
)  # may change on resume


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint under a folder that is whole, None if there is none; warn of damaged newer ones.

    Raises:
        CheckpointDamagedError: there are checkpoints but none is whole.
        CheckpointError: the newest whole one is of a newer dreamenv.
    """
    return Checkpoints(folder).newest()


def save_checkpoint(
    folder: Path, algorithm: OnPolicyAlgorithm, config: AgentConfig, seconds: float, surroundings: Mapping[str, Any]
) -> Path:
    """Write ``step-<steps>`` under a folder, whole or not at all, and remove all but the last ones.

    Args:
        folder: of the checkpoints.
        algorithm, config: what is trained, and how.
        seconds: trained so far.
        surroundings: JSON values that tell in what it is trained: the world, the real environment.

    Raises:
        StorageError: the disk refused; earlier checkpoints are untouched.
    """
    network = {f"network/{name}": tensor for name, tensor in tensors_of(algorithm.policy).items()}
    moments = flatten_optimizer("policy", algorithm.policy.optimizer)
    normalizer = algorithm.get_vec_normalize_env()
    state = {
        "updates": algorithm._n_updates,
        "seconds": seconds,
        "config": config.to_json(),
        "surroundings": dict(surroundings),
        "returns": _read_normalizer(normalizer) if normalizer is not None else None,
    }
    tensors = {"tensors": network | moments}
    return Checkpoints(folder).save(Checkpoint(step=algorithm.num_timesteps, tensors=tensors, state=state))


def load_checkpoint(
    path: Path, algorithm: OnPolicyAlgorithm, config: AgentConfig, surroundings: Mapping[str, Any]
) -> float:
    """Put an algorithm where a checkpoint was; return the seconds trained until then.

    Raises:
        CheckpointError: damaged, made with other settings, or in another world or real environment.
    """
    checkpoint = read_checkpoint(path)
    with refuse_malformed(CheckpointDamagedError, str(path), _REMEDY, passing=(CheckpointError,)):
        _check_same(path, checkpoint.state, config, surroundings)
        _put(algorithm, checkpoint)
        return float(checkpoint.state["seconds"])


def _check_same(path: Path, state: Mapping[str, Any], config: AgentConfig, surroundings: Mapping[str, Any]) -> None:
    now, then = (_flat(values) for values in (json.loads(json.dumps(config.to_json())), state["config"]))
    changed = sorted(key for key in now if key not in _FREE and now[key] != then.get(key))
    if changed:
        key = changed[0]
        raise CheckpointError(
            f"the checkpoint {path} was made with {key}={then.get(key)!r}, not {now[key]!r}; "
            "use the same settings, or another output folder."
        )
    before = state.get("surroundings", {})
    for name, value in json.loads(json.dumps(surroundings)).items():
        if name in before and before[name] != value:
            raise CheckpointError(
                f"the checkpoint {path} was made in another {name} ({show(before[name])}, not {show(value)}); give the "
                "same, or another output folder."
            )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their full names, ``ppo.gamma``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _put(algorithm: OnPolicyAlgorithm, checkpoint: Checkpoint) -> None:
    tensors, state = checkpoint.tensors["tensors"], checkpoint.state
    network = {name.removeprefix("network/"): value for name, value in tensors.items() if name.startswith("network/")}
    load_tensors(algorithm.policy, network)
    restore_optimizer("policy", algorithm.policy.optimizer, tensors)
    algorithm.num_timesteps = checkpoint.step
    algorithm._n_updates = int(state["updates"])
    normalizer = algorithm.get_vec_normalize_env()
    if normalizer is not None and state["returns"] is not None:
        returns = state["returns"]
        normalizer.ret_rms.mean, normalizer.ret_rms.var = np.array(returns["mean"]), np.array(returns["var"])
        normalizer.ret_rms.count = float(returns["count"])
    torch.manual_seed(algorithm.num_timesteps)  # fresh noise, and the same in every resumption


def _read_normalizer(normalizer: VecNormalize) -> dict[str, float]:
    statistics = normalizer.ret_rms
    return {"mean": float(statistics.mean), "var": float(statistics.var), "count": float(statistics.count)}

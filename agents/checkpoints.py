"""Checkpoints of a training agent: all that PPO needs to go on, as tensors and JSON.

Environments are not part of it: on resuming, episodes begin anew from seeds that follow from the step reached.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from dreamenv.agents.config import AgentConfig
from dreamenv.agents.networks import load_tensors, tensors_of
from dreamenv.agents.storage import read_json, read_tensors, write_folder
from dreamenv.errors import CheckpointError

__all__ = ["KEPT", "latest_checkpoint", "load_checkpoint", "save_checkpoint"]

KEPT = 2
"""How many checkpoints are kept."""

_FREE = (
    "total_steps",
    "num_threads",
    "device",
    "checkpoint_every",
    "eval_every",
    "eval_episodes",
)  # may change on resume


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint under a folder, None if there is none."""
    found = sorted(folder.glob("step_*")) if folder.is_dir() else []
    return found[-1] if found else None


def save_checkpoint(folder: Path, algorithm: OnPolicyAlgorithm, config: AgentConfig, seconds: float) -> Path:
    """Write ``step_<steps>`` under a folder, whole or not at all, and remove all but the last ones.

    Raises:
        StorageError: the disk refused; earlier checkpoints are untouched.
    """
    path = folder / f"step_{algorithm.num_timesteps:012d}"
    network = {f"network/{name}": tensor for name, tensor in tensors_of(algorithm.policy).items()}
    moments = {
        f"optimizer/{index}/{name}": value
        for index, values in algorithm.policy.optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (network | moments).items()}
    normalizer = algorithm.get_vec_normalize_env()
    progress = {
        "steps": algorithm.num_timesteps,
        "updates": algorithm._n_updates,
        "seconds": seconds,
        "config": config.to_json(),
        "returns": _read_normalizer(normalizer) if normalizer is not None else None,
    }

    def fill(target: Path) -> None:
        save_file(tensors, target / "tensors.safetensors")
        (target / "progress.json").write_text(json.dumps(progress, indent=1), encoding="utf-8")

    write_folder(path, fill)
    for old in sorted(folder.glob("step_*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_checkpoint(path: Path, algorithm: OnPolicyAlgorithm, config: AgentConfig) -> float:
    """Put an algorithm where a checkpoint was; return the seconds trained until then.

    Raises:
        CheckpointError: damaged, or made with other settings.
    """
    progress = read_json(path / "progress.json", "checkpoint")
    now = json.loads(json.dumps(config.to_json()))
    then = progress.get("config", {})
    changed = sorted(key for key in now if key not in _FREE and now[key] != then.get(key))
    if changed:
        key = changed[0]
        raise CheckpointError(
            f"the checkpoint {path} was made with {key}={then.get(key)!r}, not {now[key]!r}; "
            "use the same settings, or another output folder."
        )
    tensors = read_tensors(path / "tensors.safetensors", "checkpoint")
    try:
        _put(algorithm, progress, tensors)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(f"the checkpoint {path} is damaged: {error}.") from error
    return float(progress["seconds"])


def _put(algorithm: OnPolicyAlgorithm, progress: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, rest = name.split("/", 1)
        parts[part][rest] = tensor
    load_tensors(algorithm.policy, parts["network"])
    optimizer = algorithm.policy.optimizer
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        index, entry = name.split("/", 1)
        state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    algorithm.num_timesteps = int(progress["steps"])
    algorithm._n_updates = int(progress["updates"])
    normalizer = algorithm.get_vec_normalize_env()
    if normalizer is not None and progress["returns"] is not None:
        returns = progress["returns"]
        normalizer.ret_rms.mean, normalizer.ret_rms.var = np.array(returns["mean"]), np.array(returns["var"])
        normalizer.ret_rms.count = float(returns["count"])
    torch.manual_seed(algorithm.num_timesteps)  # fresh noise, and the same in every resumption


def _read_normalizer(normalizer: VecNormalize) -> dict[str, float]:
    statistics = normalizer.ret_rms
    return {"mean": float(statistics.mean), "var": float(statistics.var), "count": float(statistics.count)}

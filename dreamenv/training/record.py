"""Record how a run was made, and compare its settings with another's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from dreamenv.data.dataset import EpisodeDataset
from dreamenv.training.config import TrainConfig

__all__ = ["differences", "make_record", "version_record"]

_PACKAGES = ("dreamenv", "torch", "tensordict", "lightning-fabric", "numpy")


def make_record(
    config: TrainConfig,
    training: EpisodeDataset,
    held_out: EpisodeDataset,
    identity: Mapping[str, Any],
    compiled: Mapping[str, str],
    steps: int,
    seconds: float,
) -> dict[str, Any]:
    """Return the training record stored with a world, JSON values."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "optimizer_steps": steps,
        "processes": identity["processes"],
        "compile": dict(compiled),
        "train_config": config.to_json(),
        "data": {
            "sha256": identity["data"],
            "training_episodes": len(training),
            "training_steps": training.total_steps,
            "held_out_episodes": len(held_out),
            "held_out_steps": held_out.total_steps,
        },
        "versions": version_record(),
    }


def version_record() -> dict[str, str | None]:
    """Return the versions of what a world is trained with."""
    return {name: _version(name) for name in _PACKAGES}


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name every setting that differs, as ``train.seed: 0 then, 1 now``."""
    changes = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes += differences(old, new, f"{prefix}{key}.")
        elif _plain(old) != _plain(new):
            changes.append(f"{prefix}{key}: {old} then, {new} now")
    return changes


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

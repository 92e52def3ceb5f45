"""Record how a run was made, and compare its settings with another's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from dreamenv.data.dataset import EpisodeDataset
from dreamenv.errors import ConfigError
from dreamenv.training.config import TrainConfig

__all__ = ["choose_split", "differences", "make_record", "recorded_split", "version_record"]

_PACKAGES = ("dreamenv", "torch", "tensordict", "lightning-fabric", "numpy")


def make_record(
    config: TrainConfig,
    training: EpisodeDataset,
    held_out: EpisodeDataset,
    identity: Mapping[str, Any],
    compiled: Mapping[str, str],
    split: tuple[float, int],
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
            "split": dict(zip(("holdout", "seed"), split, strict=True)),
        },
        "versions": version_record(),
    }


def recorded_split(record: Mapping[str, Any], dataset: EpisodeDataset) -> tuple[float, int] | None:
    """Return holdout and seed by which the training of a world split a recording, for `EpisodeDataset.split`.

    Args:
        record: of the world.
        dataset: a recording, to which episodes may have been added since.

    Returns:
        None if the world was trained on another recording, or nobody knows.
    """
    data, config = record.get("data", {}), record.get("train_config", {})
    if not {"sha256", "training_episodes", "held_out_episodes"} <= {*data} or not {"holdout", "seed"} <= {*config}:
        return None
    if dataset.content_hash(data["training_episodes"] + data["held_out_episodes"]) != data["sha256"]:
        return None
    split = data.get("split", config)
    return split["holdout"], split["seed"]


def choose_split(config: TrainConfig, initial: Mapping[str, Any] | None, dataset: EpisodeDataset) -> tuple[float, int]:
    """Return holdout and seed for a training: its own, or those of the one it continues, on the same recording.

    What the first training learned from must not be held out now: figures of it would be too good.

    Args:
        config: of the training.
        initial: the record of the world that it continues, if there is one.
        dataset: the recording.

    Raises:
        ConfigError: another share was held out from the same recording.
    """
    before = None if initial is None else recorded_split(initial, dataset)
    if before is None or config.holdout == 0:
        return config.holdout, config.seed
    if before[0] != config.holdout:
        raise ConfigError(
            f"the initial world was trained on this recording with holdout={before[0]}; {config.holdout} would hold "
            f"out episodes that it has seen. Give holdout={before[0]}, 0 to hold out none, or another recording."
        )
    return before


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

"""Rewards for worlds whose published weights foretell frames alone: learned from episodes, frames left as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.store import FrameStore
from dreamenv.errors import ConfigError
from dreamenv.training import TrainConfig, train
from dreamenv.world import World

__all__ = ["learn_rewards", "with_rewards"]


def with_rewards(world: World) -> World:
    """Return a world of the same frames that has an untrained network of rewards and endings of our own.

    Where the world draws latents, that network sees them: what a codec leaves out does not tell it which frames are
    real.

    Raises:
        ConfigError: a world of another backbone.
    """
    if not isinstance(world.config, DenoisingConfig):
        raise ConfigError(f"only denoising worlds are imported without rewards, not {type(world.config).__name__}.")
    old: Any = world.model
    latents = old.codec is not None and old.stride == 1 and not any(side % 2 for side in old.drawn_shape[1:])
    config = dataclasses.replace(world.config, events=None, events_see="latent" if latents else "frame")
    model: Any = config.build(world.spec)
    model.network.load_state_dict(old.network.state_dict())
    if model.codec is not None:
        model.codec.load_state_dict(old.codec.state_dict())
    model.eval().to(world.device)
    imported = {**world.record.get("imported", {}), "rewards": False}
    return World(model, config, world.starts, world.provenance, {**world.record, "imported": imported}, world.metrics)


def learn_rewards(
    world: World,
    dataset: EpisodeDataset,
    out: str | Path,
    *,
    steps: int | None = None,
    config: TrainConfig | None = None,
) -> World:
    """Teach a world rewards and endings from recorded episodes; what draws its frames stays as it is.

    Args:
        world: without rewards, or with some to go on learning.
        dataset: episodes with the world's frames and actions, and rewards.
        out: folder of the run.
        steps: optimiser steps; None takes the world's own setting.
        config: of the run; its steps are not used.

    Raises:
        ConfigError, DatasetError, StorageError: see `dreamenv.training.train`.
    """
    silent = isinstance(world.config, DenoisingConfig) and world.config.events is not None
    initial = world
    if silent and not world.record.get("imported", {}).get("rewards"):
        initial = with_rewards(world)
        initial.model.calibrate(FrameStore(dataset).statistics())  # type: ignore[attr-defined]
    chosen = dict.fromkeys(("codec", "denoiser"), 0) | ({} if steps is None else {"events": steps})
    stages = {stage.name for stage in initial.model.stages()}
    run = dataclasses.replace(
        config or TrainConfig(), steps={name: count for name, count in chosen.items() if name in stages}
    )
    learned = train(run, initial.config, dataset, out, initial=initial)
    learned.starts, learned.provenance = world.starts, world.provenance or learned.provenance
    learned.record = {**learned.record, "imported": {**world.record.get("imported", {}), "rewards": True}}
    learned.save(Path(out) / "world")
    return learned

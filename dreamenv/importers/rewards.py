"""Rewards for worlds whose published weights predict frames alone: learned from episodes, frames left as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dreamenv.backbones.denoising import DenoisingConfig, DenoisingWorld
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.store import FrameStore
from dreamenv.errors import ConfigError
from dreamenv.heads.recurrent import RecurrentHeadConfig
from dreamenv.training import TrainConfig, train
from dreamenv.world import World

__all__ = ["learn_rewards", "with_rewards"]


def with_rewards(world: World) -> World:
    """Return a world of the same frames with an untrained head of ours, which predicts rewards and terminations.

    Where the world samples latents, the head watches them: they show it nothing that only real frames have.

    Raises:
        ConfigError: a world of another backbone.
    """
    config, old = world.config, world.model
    if not isinstance(config, DenoisingConfig) or not isinstance(old, DenoisingWorld):
        raise ConfigError(f"only denoising worlds are imported without rewards, not {config.kind!r}.")
    latents = config.codec is not None and old.stride == 1 and not any(side % 2 for side in old.latent_shape[1:])
    config = dataclasses.replace(config, head=RecurrentHeadConfig(watches="latent" if latents else "frame"))
    model = config.build(world.spec)
    model.denoiser.load_state_dict(old.denoiser.state_dict())
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
    """Teach a world rewards and terminations from recorded episodes; its frames stay as they are.

    Args:
        world: without rewards, or with some to go on learning.
        dataset: episodes with the world's frames and actions, and rewards.
        out: folder of the run.
        steps: optimiser steps; None takes the world's own setting.
        config: of the run; its steps are not used.

    Raises:
        ConfigError, DatasetError, StorageError: see `dreamenv.training.train`.
    """
    initial = world
    if not world.spec.predicts_rewards:
        initial = with_rewards(world)
        assert isinstance(initial.model, DenoisingWorld)
        initial.model.calibrate(FrameStore(dataset).statistics())
    chosen = dict.fromkeys(("codec", "denoiser"), 0) | ({} if steps is None else {"head": steps})
    stages = {stage.name for stage in initial.model.stages()}
    run = dataclasses.replace(
        config or TrainConfig(), steps={name: count for name, count in chosen.items() if name in stages}
    )
    learned = train(run, initial.config, dataset, out, initial=initial)
    learned.starts, learned.provenance = world.starts, world.provenance or learned.provenance
    learned.record = {**learned.record, "imported": {**world.record.get("imported", {}), "rewards": True}}
    learned.save(Path(out) / "world")
    return learned

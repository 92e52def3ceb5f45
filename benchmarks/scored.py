"""Worlds of several lengths of training, sizes and recordings: each trained once, and scored on the same episodes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamenv.benchmarks.common import cached, claim
from dreamenv.data import EpisodeDataset, FrameStore
from dreamenv.errors import ConfigError, DatasetError, WorldDamagedError
from dreamenv.metrics.bits import bits_per_dim, score_windows
from dreamenv.parts import part_to_json
from dreamenv.training import TrainConfig, train
from dreamenv.world import World
from dreamenv.world_model import BackboneConfig

__all__ = ["bits_of", "first_frames", "make_once", "train_once"]

_CONTEXT, _STEPS = 8, 16  # observed before, and scored, in each window


def make_once(place: Path, key: Mapping[str, Any], make: Callable[[], World]) -> World:
    """Return the world that was trained in a folder from the same, or train it.

    Raises:
        ConfigError: the folder has a world that was trained in another way.
    """
    claim(place / "made.json", key)
    if (place / "world" / "world.json").exists():
        with contextlib.suppress(WorldDamagedError):
            return World.load(place / "world")
    return make()


def first_frames(dataset: EpisodeDataset, frames: int, folder: Path) -> EpisodeDataset:
    """Copy the first episodes, as many as it takes to have so many frames to step to; copied once.

    They are a recording of their own, because some stages first compute features of all frames of one.

    Args:
        dataset: a recording or a view of one.
        frames: how many.
        folder: in which the copy is kept.

    Raises:
        DatasetError: there are fewer.
        ConfigError: the folder has other episodes.
    """
    if dataset.total_steps < frames:
        raise DatasetError(
            f"{dataset.path} has {dataset.total_steps} frames to learn from, and {frames} are asked for."
        )
    place, count = folder / f"first-{frames}", int(np.searchsorted(np.cumsum(dataset.lengths), frames)) + 1
    claim(place / "made.json", {"data": dataset.content_hash(), "episodes": count})
    path = place / "recording"
    if path.exists():
        copy = EpisodeDataset.open(path)
    else:
        copy = EpisodeDataset.create(path, dataset.provenance, dataset.action_space, dataset.frame_shape)
    for index in range(len(copy), count):
        copy.append(dataset[index])
    return copy


def train_once(
    config: BackboneConfig, steps: Mapping[str, int], dataset: EpisodeDataset, place: Path, *, threads: int | None
) -> World:
    """Train a world from scratch on all of these episodes, or find it trained; seed 0.

    Raises:
        ConfigError: the folder has a world that was trained in another way.
    """
    run = TrainConfig(steps=steps, num_threads=threads, eval_every=0, holdout=0, starts=768)
    key = {"train": run.resume_key(), "backbone": part_to_json(config), "data": dataset.content_hash()}
    return make_once(place, key, lambda: train(run, config, dataset, place))


def bits_of(world: World, held_out: EpisodeDataset, folder: Path, *, windows: int) -> dict[str, Any]:
    """Return what `score_windows` measures on these episodes, bits per value too; measured once.

    Raises:
        ConfigError: the world gives frames no probability, or the episodes are too short.
    """
    key = {"world": world.content_hash(), "data": held_out.content_hash(), "windows": windows}

    def measure() -> dict[str, Any]:
        found = score_windows(world.model, FrameStore(held_out), windows=windows, context=_CONTEXT, steps=_STEPS)
        if found is None:
            raise ConfigError(
                f"a world of the kind {world.config.kind!r} gives these episodes no bits: it has no score, or none of "
                f"them is longer than {_CONTEXT} steps."
            )
        return found | {"bits_per_dim": bits_per_dim(found["bits_per_frame"]["mean"], world.spec.frame_shape)}

    return cached(folder, "bits", key, measure)

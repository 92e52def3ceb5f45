"""Adapt a world to a changed environment: a bounded number of gradient steps on a small recording of it.

Old experience is rehearsed in every step, from the world's own dreams or from an old recording, so that what the world
knew is kept. Nothing of it is a second trainer: the stages, losses and optimisers are those that trained the world.
"""

from __future__ import annotations

import time
import warnings
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from dreamenv.allocator import keep_freed_memory
from dreamenv.checks import check_instance, check_whole, show
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.starts import Starts
from dreamenv.data.steps import StepStore
from dreamenv.data.store import FrameStore
from dreamenv.errors import ConfigError, DatasetError
from dreamenv.nn.twohot import TwoHot
from dreamenv.training.adapt_config import AdaptConfig
from dreamenv.training.features import feature_blocks
from dreamenv.training.learner import Learner
from dreamenv.training.random_state import derived_seed, eval_mode, isolated
from dreamenv.training.rehearsal import dream_old_experience, mixed_batches
from dreamenv.world import World
from dreamenv.world_model import Stage

__all__ = ["Replay", "adapt", "check_replay", "old_experience", "replay_record"]

Replay = Literal["dreams"] | EpisodeDataset | None
"""Where old experience comes from: the world's own dreams, a recording, or nowhere."""

_CLOSE = 0.01  # of the range of rewards, beyond which it is not the same


def adapt(
    world: World,
    recording: EpisodeDataset,
    budget: int,
    replay: Replay = "dreams",
    *,
    config: AdaptConfig = AdaptConfig(),  # noqa: B008 - frozen
) -> World:
    """Continue the training of a world on a small recording of a changed environment.

    Args:
        world: the world; it is not changed.
        recording: of the changed environment: the same frames and actions, whatever they show and do.
        budget: gradient steps in all, shared out among the stages in the proportions of their training.
        replay: old experience, rehearsed against forgetting: "dreams" of the world's own, from its starts; the old
            recording; or None.
        config: what learns, and how.

    Returns:
        The adapted world, an ordinary one: it starts where the recording did, has the recording's provenance, and its
        record says what it was adapted from, on what, and for how long. It has no metrics: measure it.

    Raises:
        DatasetError: a recording without steps, or of other frames or actions than the world's.
        ConfigError: a budget below 1, or settings that cannot work with this world.
        DivergedError: a loss became infinite or NaN.
        DeviceError: the device is not there.

    Warns:
        UserWarning: the recording has rewards beyond those that the world can predict.
    """
    check_instance("world", world, World)
    check_instance("config", config, AdaptConfig)
    budget = check_whole("budget", budget)
    _check_fits(world, recording, "recording")
    check_replay(world, replay)
    keep_freed_memory()
    began = time.monotonic()
    learner, new = Learner(world, config, budget), FrameStore(recording)
    _warn_of_rewards(world, new)
    with isolated(config.seed, config.num_threads, learner.device):
        _learn(learner, new, old_experience(world, replay, config), budget, config)
    record = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 1),
        "data": {
            "sha256": recording.content_hash(),
            "training_episodes": len(recording),
            "training_steps": recording.total_steps,
        },
        "replay": replay_record(replay),
    }
    starts = Starts.from_dataset(recording, count=config.starts, context=config.start_context, seed=config.seed)
    return learner.world(starts, recording.provenance, record)


def _check_fits(world: World, recording: EpisodeDataset, name: str) -> None:
    """Raise DatasetError unless a recording has steps, and the frames and actions of a world."""
    check_instance(name, recording, EpisodeDataset, error=DatasetError)
    c, h, w = world.spec.frame_shape
    if recording.frame_shape != (h, w, c):
        raise DatasetError(
            f"the {name} has frames {recording.frame_shape}, and the world {(h, w, c)}. Record with the world's size."
        )
    if recording.action_space != world.spec.action_space:
        raise DatasetError(
            f"the {name} has actions {recording.action_space}, and the world {world.spec.action_space}. A world adapts "
            "to what actions do, not to other actions; train one for these."
        )
    if recording.total_steps == 0:
        raise DatasetError(f"the {name} {recording.path} has no steps. Record some with: dreamenv collect")


def check_replay(world: World, replay: Any) -> None:
    """Raise unless it is old experience of a world.

    Raises:
        ConfigError: it is nothing that can be replayed, or dreams of a world without starts.
        DatasetError: a recording of other frames or actions.
    """
    if isinstance(replay, EpisodeDataset):
        _check_fits(world, replay, "recording to replay")
    elif replay is not None and not (isinstance(replay, str) and replay == "dreams"):
        raise ConfigError(f"replay must be 'dreams', a recording (an EpisodeDataset) or None, not {show(replay)}.")
    elif replay is not None and len(world.starts) == 0:
        raise ConfigError("this world has no starts to dream from; give an old recording to replay, or None.")


def old_experience(world: World, replay: Replay, config: AdaptConfig) -> StepStore | None:
    """Return what is rehearsed."""
    if isinstance(replay, EpisodeDataset):
        return FrameStore(replay)
    if replay is None:
        return None
    return dream_old_experience(world, steps=config.dreamed_steps, horizon=config.dream_horizon, seed=config.seed)


def replay_record(replay: Replay) -> Any:
    """Return what was rehearsed as JSON values: "dreams", the hash of a recording, or None."""
    return {"sha256": replay.content_hash()} if isinstance(replay, EpisodeDataset) else replay


def _learn(learner: Learner, new: StepStore, old: StepStore | None, budget: int, config: AdaptConfig) -> None:
    """Run the stages one after another, each on features that those before have settled."""
    with tqdm(total=budget, desc="adapt", unit="step", disable=not config.progress, mininterval=0.5) as bar:
        for index, (stage, steps) in enumerate(zip(learner.stages, learner.plan(budget), strict=True)):
            if steps == 0:
                continue
            make = mixed_batches(
                stage,
                new,
                old,
                rehearsal=config.rehearsal,
                seed=derived_seed(config.seed, index),
                device=learner.device,
                features=(_features(learner, stage, new), _features(learner, stage, old)),
            )
            for step in range(steps):
                learner.step(index, make(step))
                bar.update()


def _features(learner: Learner, stage: Stage, store: StepStore | None) -> Any:
    if stage.precompute is None or store is None:
        return None
    with eval_mode(learner.model, None, learner.device):
        return np.concatenate(list(feature_blocks(store.frames, stage.precompute, learner.device)))


def _warn_of_rewards(world: World, new: FrameStore) -> None:
    """Warn of rewards beyond those that the world can predict, which are learned as the nearest that it can."""
    rewards = np.concatenate(
        [new.rewards[row + 1 : row + t + 1] for row, t in zip(new.starts, new.lengths, strict=True)]
    )
    ranges = [module.centers for module in world.model.modules() if isinstance(module, TwoHot)]
    for low, high in {(float(centers[0]), float(centers[-1])) for centers in ranges}:
        if rewards.min() < low - _CLOSE * (high - low) or rewards.max() > high + _CLOSE * (high - low):
            warnings.warn(
                f"the recording has rewards from {rewards.min():g} to {rewards.max():g}, and the world predicts none "
                f"outside of {low:g} to {high:g}: it learns the nearest. Train a world from scratch for others.",
                stacklevel=3,
            )

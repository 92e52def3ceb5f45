"""A recording of pure chance, what is learned from it in a few optimiser steps, and what is then predicted.

Its frames are grey and never change. Every step ends the episode with the same probability, and one action, rarely
taken, pays: so whatever else is predicted was learned from how the recording is cut, or not unlearned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamenv.capabilities import SupportsCalibrate
from dreamenv.data import Episode, EpisodeDataset, FrameStore, Provenance
from dreamenv.data.windows import WindowSampler
from dreamenv.frames import frames_to_model, to_float
from dreamenv.world_model import Stage, WorldModel, WorldModelSpec

__all__ = ["ChancePrediction", "learn", "predict", "record_chance"]

_PAYING_ACTION, _PAYS = 2, 40.0
_HAZARD, _SHARE_OF_PAYING, _EPISODES = 0.05, 0.01, 120
_LEARNING_RATE, _ROWS = 3e-3, 32


@dataclass(frozen=True, kw_only=True)
class ChancePrediction:
    """What is predicted of a step with an action that does not pay, by the steps since the memory was empty.

    Attributes:
        termination: (ages,) float32, the probability.
        rewards: (ages,) float32.
    """

    termination: Tensor
    rewards: Tensor


def record_chance(folder: Path, spec: WorldModelSpec) -> FrameStore:
    """Write the recording; actions are those of a `gymnasium.spaces.Discrete` of 3 or more."""
    random = np.random.default_rng(0)
    shape = (*spec.frame_shape[1:], spec.frame_shape[0])
    provenance = Provenance(environment_id="chance-v0", frame_size=(shape[0], shape[1]))
    dataset = EpisodeDataset.create(folder, provenance, spec.action_space, shape)
    for steps in random.geometric(_HAZARD, size=_EPISODES).tolist():
        pays = random.random(steps) < _SHARE_OF_PAYING
        dataset.append(
            Episode(
                frames=np.full((steps + 1, *shape), 128, np.uint8),
                actions=np.where(pays, _PAYING_ACTION, random.integers(_PAYING_ACTION, size=steps)),
                rewards=np.where(pays, _PAYS, 0.0),
                terminated=True,
                truncated=False,
            )
        )
    return FrameStore(dataset)


def learn(model: WorldModel, stages: Sequence[Stage], store: FrameStore, steps: int) -> None:
    """Train a model by these of its stages, for as many optimiser steps each."""
    if isinstance(model, SupportsCalibrate):
        model.calibrate(store.statistics())
    model.train()
    for stage in stages:
        features = None
        if stage.precompute is not None:
            with torch.no_grad():
                features = stage.precompute(frames_to_model(store.frames)).float().numpy()
        sampler = WindowSampler(
            store, batch_size=stage.batch_size, sequence_length=stage.sequence_length, seed=0, features=features,
            crop_at_episode_ends=stage.crop_at_episode_ends,
        )  # fmt: skip
        optimizers = [torch.optim.Adam(objective.parameters, lr=_LEARNING_RATE) for objective in stage.objectives]
        for step in range(steps):
            batch = sampler.batch(step)
            for objective, optimizer in zip(stage.objectives, optimizers, strict=True):
                loss, _ = objective.loss(batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    model.eval()


@torch.no_grad()
def predict(model: WorldModel, ages: Sequence[int]) -> ChancePrediction:
    """Return what a model predicts after so many steps of the recording, in ascending order."""
    grey = to_float(torch.full((_ROWS, 1, *model.spec.frame_shape), 128, dtype=torch.uint8))
    state, age, found = model.start(grey[:, 0], torch.arange(_ROWS)), 0, []
    actions = torch.zeros((_ROWS, model.spec.chunk), dtype=torch.int64)
    for wanted in ages:
        for _ in range(wanted - age):
            state, age = model.observe(state, actions[:, :1], grey), wanted
        imagined, _ = model.imagine(state, actions)
        found.append([imagined.termination[:, 0].mean(), imagined.rewards[:, 0].mean()])
    termination, rewards = torch.tensor(found).unbind(1)
    return ChancePrediction(termination=termination, rewards=rewards)

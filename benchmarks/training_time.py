"""Estimate how many optimiser steps of each stage fit a given training time."""

from __future__ import annotations

import time
from typing import Any

import torch

from dreamenv.data import EpisodeDataset
from dreamenv.training import TrainConfig
from dreamenv.world_model import BackboneConfig, Batch, Stage, WorldModelSpec

__all__ = ["steps_in"]

# Share of the time by stage; the shares of missing stages go to the rest. Rewards and terminations train faster.
_SHARES = {"codec": 0.25, "tokenizer": 0.25, "denoiser": 0.75, "head": 0.1, "joint": 0.6, "dynamics": 0.4}


def steps_in(
    config: BackboneConfig, recording: EpisodeDataset, seconds: float, device: torch.device | None = None
) -> dict[str, int]:
    """Return how many optimiser steps of each stage fit the time: of the processor, or on a GPU by the clock."""
    place = device or torch.device("cpu")
    h, w, c = recording.frame_shape
    spec = WorldModelSpec(
        frame_shape=(c, h, w), action_space=recording.action_space, frame_rate=recording.provenance.frame_rate
    )
    torch.manual_seed(0)
    model: Any = config.build(spec)
    model.to(place).train()
    stages = model.stages()
    total = sum(_SHARES[stage.name] for stage in stages)
    frames = (recording.total_steps + len(recording)) * (1 - TrainConfig().holdout)
    described = {stage.precompute: stage for stage in stages if stage.precompute is not None}  # once, if they share it
    seconds -= sum(frames * _seconds_per_feature(stage, spec, place) for stage in described.values())
    return {
        stage.name: max(1, int(seconds * _SHARES[stage.name] / total / _seconds_per_step(stage, spec, place)))
        for stage in stages
    }


def _seconds_per_feature(
    stage: Stage, spec: WorldModelSpec, device: torch.device, *, chunk: int = 32, timed: int = 4
) -> float:
    """Time the stage's precomputation per frame."""
    assert stage.precompute is not None
    frames = torch.rand(chunk, *spec.frame_shape, device=device)
    with torch.no_grad():
        stage.precompute(frames)
        began = _clock(device)
        for _ in range(timed):
            stage.precompute(frames)
    return (_clock(device) - began) / (timed * chunk)


def _seconds_per_step(
    stage: Stage, spec: WorldModelSpec, device: torch.device, *, warm_up: int = 2, timed: int = 5
) -> float:
    """Time optimiser steps of a stage on random frames."""
    b, t = stage.batch_size, stage.sequence_length
    frames = torch.rand(b, t + 1, *spec.frame_shape, device=device)
    layout = spec.action_layout
    features = None
    if stage.precompute is not None:
        with torch.no_grad():
            features = stage.precompute(frames.flatten(0, 1)).unflatten(0, (b, t + 1))
    actions = torch.zeros((b, t, *layout.shape), dtype=torch.float32 if layout.dtype.kind == "f" else torch.int64)
    batch = Batch(
        first_frame=frames[:, 0], frames=frames[:, 1:], actions=actions.to(device),
        rewards=torch.zeros(b, t, device=device), terminated=torch.zeros(b, t, dtype=torch.bool, device=device),
        weight=torch.ones(b, t, device=device), features=features, generator=torch.Generator(device).manual_seed(0),
    )  # fmt: skip
    optimisers = [torch.optim.AdamW(list(one.parameters), lr=0.0) for one in stage.objectives]
    began = 0.0
    for step in range(-warm_up, timed):
        if step == 0:
            began = _clock(device)
        for objective, optimiser in zip(stage.objectives, optimisers, strict=True):
            loss, _ = objective.loss(batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return (_clock(device) - began) / timed


def _clock(device: torch.device) -> float:
    """Return seconds: of the processor by thread, which a busy machine does not stretch, or on a GPU of the clock."""
    if device.type == "cpu":
        return time.process_time() / torch.get_num_threads()
    torch.cuda.synchronize(device)
    return time.perf_counter()

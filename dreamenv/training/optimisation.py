"""Optimisers, learning rates and weight averages of a stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dreamenv.errors import ConfigError
from dreamenv.training.config import TrainConfig
from dreamenv.world_model import Objective, Stage

__all__ = ["WeightAverage", "check_stages", "learning_rate", "make_optimizer", "only_trainable", "stage_steps"]


def check_stages(stages: Sequence[Stage], config: TrainConfig) -> None:
    """Raise ConfigError for stages that cannot be run, and for step counts of stages that do not exist."""
    names = [stage.name for stage in stages]
    if len(set(names)) != len(names):
        raise ConfigError(f"stage names must differ: {names}.")
    unknown = sorted(set(config.steps) - set(names))
    if unknown:
        raise ConfigError(f"steps are given for the stage {unknown[0]!r}, but the stages are {names}.")
    for stage in stages:
        objectives = [objective.name for objective in stage.objectives]
        if not objectives or len(set(objectives)) != len(objectives):
            raise ConfigError(f"stage {stage.name!r} needs objectives of different names, not {objectives}.")
        for objective in stage.objectives:
            if not objective.parameters:
                raise ConfigError(
                    f"objective {objective.name!r} of stage {stage.name!r} has no parameters to optimise."
                )
        if stage.steps < 0 or stage.batch_size < 1 or stage.sequence_length < 1 or not stage.learning_rate > 0:
            raise ConfigError(f"stage {stage.name!r} has sizes that cannot work: {stage}.")


def stage_steps(stage: Stage, config: TrainConfig) -> int:
    """Return how many optimiser steps the stage runs."""
    return config.steps.get(stage.name, stage.steps)


def make_optimizer(objective: Objective, stage: Stage, config: TrainConfig) -> torch.optim.Optimizer:
    """Make AdamW for one objective; parameters of one axis (biases, norms) are not decayed."""
    parameters = list(objective.parameters)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.optimizer.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=stage.learning_rate,
        betas=config.optimizer.betas,
        eps=config.optimizer.epsilon,
        fused=all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters),
    )


def learning_rate(stage: Stage, step: int, config: TrainConfig) -> float:
    """Return the rate of optimiser step ``step`` (from 0) of the stage."""
    settings, steps = config.optimizer, stage_steps(stage, config)
    warmup = min(settings.warmup_steps, steps // 10)
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return stage.learning_rate
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return stage.learning_rate * (settings.final_rate + (1 - settings.final_rate) * cosine)


def only_trainable(model: nn.Module, objective: Objective) -> None:
    """Require gradients of the objective's own parameters only."""
    own = {id(parameter) for parameter in objective.parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in own)


class WeightAverage:
    """An exponential moving average of a model's parameters and of the statistics among its buffers.

    The decay rises to its final value as ``(1 + n) / (10 + n)`` after n steps, so that the average spans a tenth of the
    steps so far at most, and beginnings are forgotten.

    Args:
        model: what is averaged.
        decay: in (0, 1); the average spans about 1 / (1 - decay) steps in the end.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        saved, every = model.state_dict().keys(), [*model.named_parameters(), *model.named_buffers()]
        live = {name: tensor for name, tensor in every if name in saved and tensor.is_floating_point()}
        self._names, self._live = list(live), list(live.values())
        self._mean = [tensor.detach().clone() for tensor in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after optimiser step ``step`` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mean, [tensor.detach() for tensor in self._live], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's tensors and the average."""
        for mean, live in zip(self._mean, self._live, strict=True):
            previous = live.detach().clone()
            live.copy_(mean)
            mean.copy_(previous)

    @torch.no_grad()
    def restart(self) -> None:
        """Reset the average to the model's current tensors."""
        for mean, live in zip(self._mean, self._live, strict=True):
            mean.copy_(live)

    def tensors(self) -> dict[str, Tensor]:
        """Return name -> averaged tensor."""
        return dict(zip(self._names, self._mean, strict=True))

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load what `tensors` returned."""
        for name, mean in zip(self._names, self._mean, strict=True):
            mean.copy_(tensors[name])

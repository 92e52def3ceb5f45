"""The optimisers of one stage, and one training step on a batch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

from dreamenv.training.checkpoint import flatten_optimizer, restore_optimizer
from dreamenv.training.config import TrainConfig
from dreamenv.training.meter import Meter
from dreamenv.training.optimisation import WeightAverage, learning_rate, make_optimizer, only_trainable
from dreamenv.training.random_state import isolated_streams
from dreamenv.world_model import Batch, Stage

__all__ = ["Stepper"]


class Stepper:
    """Step a stage's objectives one after another on each batch.

    Args:
        stage: what to minimise.
        config: of the run.
        fabric: of the run.
        module: the model in its `Runner`, set up by the fabric.
        average: the moving average to update; None for none.
    """

    def __init__(
        self, stage: Stage, config: TrainConfig, fabric: Fabric, module: Any, average: WeightAverage | None = None
    ) -> None:
        self._stage, self._config, self._fabric, self._module, self._average = stage, config, fabric, module, average
        self._optimizers: dict[str, Any] = {
            objective.name: fabric.setup_optimizers(make_optimizer(objective, stage, config))
            for objective in stage.objectives
        }
        only_trainable(module, stage.objectives[0])
        module.train()

    def step(self, step: int, batch: Batch, meter: Meter) -> None:
        """Take optimiser step ``step`` (from 0) of the stage. Nothing here waits for the device."""
        rate = learning_rate(self._stage, step, self._config)
        for objective in self._stage.objectives:
            optimizer = self._optimizers[objective.name]
            for group in optimizer.param_groups:
                group["lr"] = rate
            if len(self._stage.objectives) > 1:
                only_trainable(self._module, objective)
            optimizer.zero_grad(set_to_none=True)
            loss, logs = self._module(partial(objective.loss, batch))
            self._fabric.backward(loss)
            limit = self._config.optimizer.gradient_clip or float("inf")
            norm = self._fabric.clip_gradients(self._module, optimizer, max_norm=limit, error_if_nonfinite=False)
            optimizer.step()
            meter.add(objective.name, loss, logs, norm)
        if self._average:
            self._average.update(step)

    def rehearse(self, batch: Batch) -> None:
        """Compute a step's losses and gradients, in all processes together, and change nothing."""
        buffers = [(buffer, buffer.clone()) for buffer in self._module.buffers()]
        with isolated_streams(self._fabric.device):
            for objective in self._stage.objectives:
                if len(self._stage.objectives) > 1:
                    only_trainable(self._module, objective)
                self._fabric.backward(self._module(partial(objective.loss, batch))[0])
        self.close()
        for buffer, before in buffers:
            buffer.copy_(before)

    def tensors(self) -> dict[str, Tensor]:
        """Return the optimisers' states by name."""
        tensors: dict[str, Tensor] = {}
        for name, optimizer in self._optimizers.items():
            tensors |= flatten_optimizer(name, optimizer.optimizer)
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `tensors` returned."""
        for name, optimizer in self._optimizers.items():
            restore_optimizer(name, optimizer.optimizer, tensors)

    def close(self) -> None:
        """Free the gradients."""
        for parameter in self._module.parameters():
            parameter.grad = None

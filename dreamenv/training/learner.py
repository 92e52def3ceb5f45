"""A copy of a world that goes on learning, gradient step by gradient step, by the stages of its own training.

`dreamenv.training.adapt` and `dreamenv.training.OnlineWorld` are made of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dreamenv.data.provenance import Provenance
from dreamenv.data.starts import Starts
from dreamenv.errors import ConfigError
from dreamenv.nn.low_rank import add_low_rank, merged_state, weights_once
from dreamenv.training.adapt_config import AdaptConfig
from dreamenv.training.config import OptimizerConfig, TrainConfig
from dreamenv.training.meter import Meter
from dreamenv.training.optimisation import check_stages, only_trainable
from dreamenv.training.processes import Runner, make_fabric
from dreamenv.training.random_state import derived_seed
from dreamenv.training.record import version_record
from dreamenv.training.stepper import Stepper
from dreamenv.world import World
from dreamenv.world_model import Batch, Objective, Stage, WorldModel

__all__ = ["Learner"]

_Loss = Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]
_Learned = Mapping[int, Sequence[nn.Parameter]]  # id of a parameter -> what learns in its place


class Learner:
    """The copy, its stages and their optimisers.

    Args:
        world: where it begins; never changed.
        config: what learns, and how.
        budget: gradient steps in all, over which learning rates fall; None if there is no end, and they stay.

    Attributes:
        stages: those that learn something here.
        model: the copy, with its adapters.
        device: where it is.
        steps: gradient steps taken, by stage.

    Raises:
        ConfigError: nothing of the world can learn.
        DeviceError: the device is not there.
    """

    def __init__(self, world: World, config: AdaptConfig, budget: int | None) -> None:
        self._world, self._config = world, config
        self.model = _copied(world)
        stages = [stage for stage in self.model.stages() if stage.steps > 0]
        learned = _learned(self.model, config)
        stages = [changed for stage in stages if (changed := self._changed(stage, learned)) is not None]
        if config.update == "heads":
            stages = stages[-1:]  # those before it train the head along with much else
        if not stages:
            raise ConfigError(
                f"nothing of a world of the kind {world.config.kind!r} learns with update={config.update!r}; "
                "worlds with stages of training, and heads, do."
            )
        self.stages = tuple(stages)
        self._shares = np.array([stage.steps for stage in stages], np.float64)
        self._shares /= self._shares.sum()
        falling = budget is not None
        settings = TrainConfig(
            seed=config.seed,
            device=config.device,
            compile="off",
            ema_decay=0.0,
            steps={} if budget is None else dict(zip([s.name for s in stages], self.plan(budget), strict=True)),
            optimizer=OptimizerConfig() if falling else OptimizerConfig(schedule="constant", warmup_steps=0),
        )
        check_stages(self.stages, settings)
        fabric = make_fabric(settings)
        self.device = fabric.device
        self._module = fabric.setup_module(Runner(self.model))
        self._steppers = [Stepper(stage, settings, fabric, self._module) for stage in self.stages]
        self._meters = [Meter(stage.name, "The world given is unchanged") for stage in self.stages]
        self.steps = [0] * len(self.stages)

    def plan(self, budget: int) -> list[int]:
        """Share out gradient steps among the stages, in the proportions of their training."""
        ends = np.rint(np.cumsum(self._shares) * budget).astype(int)
        return [int(steps) for steps in np.diff(ends, prepend=0)]

    def next_stage(self) -> int:
        """Return the stage that is furthest behind its share of the steps."""
        return int(np.argmax(self._shares * (sum(self.steps) + 1) - self.steps))

    def step(self, index: int, batch: Batch) -> None:
        """Take one gradient step of a stage.

        Raises:
            DivergedError: it is noticed within 50 steps, or by `check`.
        """
        only_trainable(self._module, self.stages[index].objectives[0])
        self._steppers[index].step(self.steps[index], batch, self._meters[index])
        self.steps[index] += 1
        if self.steps[index] % _CHECK_EVERY == 0:
            self._meters[index].take(0, 0.0)

    def check(self) -> None:
        """Raise DivergedError if a loss or gradient was not finite."""
        for meter in self._meters:
            meter.check()

    def world(self, starts: Starts, provenance: Provenance | None, record: Mapping[str, object]) -> World:
        """Return the world so far: an ordinary one, whose adapters are merged into its weights.

        Args:
            starts: of its dreams.
            provenance: of the environment that it has adapted to.
            record: how it did, JSON values.

        Raises:
            DivergedError: a loss or gradient was not finite.
        """
        self.check()
        world = self._world
        rate = world.spec.frame_rate if provenance is None else provenance.frame_rate
        with torch.random.fork_rng([]):
            model = world.config.build(dataclasses.replace(world.spec, frame_rate=rate))
        model.load_state_dict(merged_state(self.model))
        told = {
            "adapted_from": {"content_hash": world.content_hash(), "record": world.record},
            "optimizer_steps": sum(self.steps),
            "steps": dict(zip([stage.name for stage in self.stages], self.steps, strict=True)),
            "adapt_config": self._config.to_json(),
            "versions": version_record(),
            **{name: value for name, value in world.record.items() if name == "imported"},  # whose weights they were
        }
        return World(model.eval().to(world.device), world.config, starts, provenance, {**told, **record})

    def _changed(self, stage: Stage, learned: _Learned) -> Stage | None:
        """Return the stage of what learns here; None if nothing does."""
        objectives = []
        for objective in stage.objectives:
            unique = {id(one): one for p in objective.parameters for one in learned.get(id(p), ())}
            if unique:
                objectives.append(Objective(objective.name, list(unique.values()), self._cached(objective.loss)))
        if not objectives:
            return None
        return dataclasses.replace(
            stage,
            objectives=objectives,
            learning_rate=stage.learning_rate * self._config.learning_rate,
            batch_size=self._config.batch_size or stage.batch_size,
        )

    def _cached(self, loss: _Loss) -> _Loss:
        def computed(batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
            with weights_once(self.model):
                return loss(batch)

        return computed


_CHECK_EVERY = 50  # steps, since it waits for the device


def _copied(world: World) -> WorldModel:
    """Return a model with the same weights as a world's."""
    with torch.random.fork_rng([]):
        model = world.config.build(world.spec)
    model.load_state_dict(world.model.state_dict())
    return model


def _learned(model: WorldModel, config: AdaptConfig) -> _Learned:
    if config.update == "low_rank":
        generator = torch.Generator().manual_seed(derived_seed(config.seed, config.adapter_rank))
        return add_low_rank(model, config.adapter_rank, generator)
    part: nn.Module | None = getattr(model, "head", None) if config.update == "heads" else model
    return {} if part is None else {id(parameter): (parameter,) for parameter in part.parameters()}

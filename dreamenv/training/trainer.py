"""Train a model: run its stages one after another, whatever the model is.

``out/`` becomes: ``world/`` (the result), ``checkpoints/``, ``compile.json`` (what was chosen), ``tensorboard/``,
``videos/`` and ``features/`` (while a stage needs them). Run again with the same settings, an interrupted run resumes
from its last checkpoint, and on the CPU ends with exactly the weights it would have had.
"""

from __future__ import annotations

import shutil
import time
import warnings
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from tqdm.auto import tqdm

from dreamenv.allocator import keep_freed_memory
from dreamenv.capabilities import SupportsCalibrate, SupportsPrompt
from dreamenv.checks import check_flag, check_instance, check_path
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.starts import Starts
from dreamenv.data.store import FrameStore
from dreamenv.data.windows import WindowSampler
from dreamenv.errors import (
    CheckpointDamagedError,
    CheckpointError,
    ConfigError,
    WorldDamagedError,
    WorldNotFoundError,
)
from dreamenv.locks import locked_run
from dreamenv.metrics.verdict import fidelity_verdict
from dreamenv.parts import part_to_json
from dreamenv.training.checkpoint import Checkpoint, Checkpoints
from dreamenv.training.compiling import Compiling
from dreamenv.training.config import TrainConfig
from dreamenv.training.evaluation import Evaluator
from dreamenv.training.features import compute_features, open_features
from dreamenv.training.meter import Meter
from dreamenv.training.optimisation import WeightAverage, check_stages, learning_rate, stage_steps
from dreamenv.training.prefetch import batches
from dreamenv.training.processes import Runner, make_fabric, share_of_batch
from dreamenv.training.random_state import derived_seed, eval_mode, isolated, random_state, set_random_state
from dreamenv.training.record import choose_split, differences, make_record
from dreamenv.training.stepper import Stepper
from dreamenv.training.tensorboard_logger import TensorBoardLogger
from dreamenv.world import World
from dreamenv.world_model import BackboneConfig, Stage, WorldModelSpec

__all__ = ["train"]


def train(
    config: TrainConfig,
    backbone_config: BackboneConfig,
    dataset: EpisodeDataset,
    out: str | Path,
    *,
    initial: World | None = None,
    resume: bool = True,
) -> World:
    """Train a world on recorded episodes.

    Args:
        config: of the run.
        backbone_config: of the model.
        dataset: what to learn from; a share of its episodes is held out.
        out: folder of the run.
        initial: a world of the same backbone to continue training, on the same or other data; None starts from scratch.
            On the same recording, or that with more episodes, the episodes stay held out that were, whatever the seed.
        resume: continue from the run's last checkpoint if there is one; False deletes its checkpoints and starts over.

    Returns:
        The world, also saved in ``out/world``.

    Raises:
        DatasetError: no episodes, none with a step, or no reward where a share before rewards is asked for.
        FolderInUseError: another process trains in ``out``.
        CheckpointError: ``out`` holds a run with other settings or other data, or one that cannot be read.
        ConfigError, DeviceError: settings that cannot work here.
        DivergedError: a loss became infinite or NaN; the last good checkpoint is kept.
        StorageError: the disk refused; what was there is untouched.
    """
    for name, value, kind in (
        ("config", config, TrainConfig),
        ("backbone_config", backbone_config, BackboneConfig),
        ("dataset", dataset, EpisodeDataset),
    ):
        check_instance(name, value, kind)
    if initial is not None:
        check_instance("initial", initial, World)
    folder, resume = check_path("out", out), check_flag("resume", resume)
    keep_freed_memory()
    fabric = make_fabric(config)
    with (
        locked_run(folder) if fabric.is_global_zero else nullcontext(),
        isolated(config.seed, config.num_threads, fabric.device),
        closing(_Run(config, backbone_config, dataset, folder, fabric, initial)) as run,
    ):
        world = run.run(resume)
    if config.progress and fabric.is_global_zero:
        print(fidelity_verdict(world.metrics))
    return world


class _Run:
    """One run: its data, model and bookkeeping."""

    def __init__(
        self,
        config: TrainConfig,
        backbone_config: BackboneConfig,
        dataset: EpisodeDataset,
        out: Path,
        fabric: Fabric,
        initial: World | None,
    ) -> None:
        self.config, self.backbone_config, self.dataset = config, backbone_config, dataset
        self.out, self.fabric, self.is_main_process = out, fabric, fabric.is_global_zero
        self.checkpoints = Checkpoints(out / "checkpoints")
        self.logger = TensorBoardLogger(None)
        self.identity: dict[str, Any] = {
            "train": config.resume_key(),
            "backbone": part_to_json(backbone_config),
            "data": dataset.content_hash(),
            "processes": fabric.world_size,
        }
        self.initial = initial
        if initial is not None:
            self.identity["initial"] = initial.content_hash()
        self.split = choose_split(config, None if initial is None else initial.record, dataset)
        self.training, self.held_out = dataset.split(*self.split)
        self.store = FrameStore(self.training)
        self.store.require_rewards("windows_before_reward", config.windows_before_reward)
        self.store.require_rewards("starts_before_reward", config.starts_before_reward, after=1)
        height, width, channels = dataset.frame_shape
        self.spec = WorldModelSpec(
            frame_shape=(channels, height, width),
            action_space=dataset.action_space,
            frame_rate=dataset.provenance.frame_rate,
        )
        model = backbone_config.build(self.spec)
        if isinstance(model, SupportsPrompt) and self.store.prompts is None:
            raise ConfigError(
                f"{dataset.path} has no captions, from which a world learns to follow prompts; leave prompt out of the "
                "backbone's settings, or add captions with dreamenv.data.with_captions."
            )
        self.model = model
        self.trainable = {name: p.requires_grad for name, p in model.named_parameters()}
        self.stages = tuple(self.model.stages())
        check_stages(self.stages, config)
        self.compiling = Compiling(config, fabric, out)
        self.compiling.check(self.stages)
        self.module = fabric.setup_module(Runner(model)) if self.stages else fabric.to_device(model)
        self.average = WeightAverage(model, config.ema_decay) if config.ema_decay else None
        self.evaluator = Evaluator(config, self.held_out, fabric.device)
        self.done = 0  # optimiser steps of the whole run
        self.seconds, self.start_time = 0.0, time.monotonic()  # of earlier processes, and of this one's start

    def run(self, resume: bool) -> World:
        """Train the remaining stages and save the world."""
        first, checkpoint = self._resume(resume)
        if first == len(self.stages) and checkpoint:
            try:
                return World.load(self.out / "world", device=str(self.fabric.device))
            except (WorldNotFoundError, WorldDamagedError) as error:
                if isinstance(error, WorldDamagedError):
                    warnings.warn(f"{error} It is made again from {self.out / 'checkpoints'}.", stacklevel=3)
                    if self.is_main_process:
                        shutil.rmtree(self.out / "world", ignore_errors=True)
        self.logger = TensorBoardLogger(
            self.out / "tensorboard" if self.is_main_process else None, self.done + 1 if checkpoint else None
        )
        if checkpoint is None:
            self._initialize()
        for index in range(first, len(self.stages)):
            first_step = checkpoint.state["stage_step"] if checkpoint and index == first else 0
            self._run_stage(index, first_step, checkpoint if first_step else None)
        return self._finish()

    def _initialize(self) -> None:
        """Set up the model from the data's statistics, or with another world's weights."""
        if self.initial is None:
            if isinstance(self.model, SupportsCalibrate):
                self.model.calibrate(self.store.statistics())
            return
        other, spec = self.initial.spec, self.spec
        before, now = part_to_json(self.initial.config), part_to_json(self.backbone_config)
        before |= {"frame_shape": other.frame_shape, "action_space": other.action_space}
        now |= {"frame_shape": spec.frame_shape, "action_space": spec.action_space}
        wrong = differences(before, now)
        if wrong:
            raise ConfigError(
                f"the initial world has other settings ({'; '.join(wrong)}). Give a world of the same backbone, "
                "settings, frames and actions."
            )
        source: Any = self.initial.model
        self.model.load_state_dict(source.state_dict())

    def close(self) -> None:
        """Close files and restore what was set on the model."""
        self.logger.close()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self.trainable[name])

    def _run_stage(self, index: int, first_step: int, checkpoint: Checkpoint | None) -> None:
        config, stage = self.config, self.stages[index]
        steps = stage_steps(stage, config)
        if steps == 0:
            return
        sampler = WindowSampler(
            self.store,
            batch_size=share_of_batch(stage.batch_size, self.fabric.world_size),
            sequence_length=stage.sequence_length,
            seed=derived_seed(config.seed, index),
            features=self._features(index, fresh=first_step == 0),
            crop_at_episode_ends=stage.crop_at_episode_ends,
            before_reward=config.windows_before_reward,
        )

        def make(step: int) -> Any:
            # Each process reads different windows.
            return sampler.batch(step * self.fabric.world_size + self.fabric.global_rank, self.fabric.device)

        stepper = self._prepare(index, checkpoint)
        hidden = not (config.progress and self.is_main_process)
        with (
            self.compiling.stage(stage, steps - first_step, lambda: stepper.rehearse(make(first_step))),
            closing(batches(make, first_step, steps)) as stream,
            tqdm(total=steps, initial=first_step, desc=stage.name, unit="step", disable=hidden, mininterval=0.5) as bar,
        ):
            meter = Meter(stage.name)
            for step, batch in enumerate(stream, start=first_step):
                stepper.step(step, batch, meter)
                self.done += 1
                bar.update()
                last = step + 1 == steps
                if last or self.done % config.log_every == 0:
                    rate = learning_rate(stage, step, config)
                    scalars = meter.take(stage.batch_size * stage.sequence_length, rate)
                    self.logger.scalars(scalars, self.done)
                    bar.set_postfix_str(f"loss {scalars[f'{stage.objectives[0].name}/loss']:.4g}", refresh=False)
                if last:
                    break
                self._periodic(index, step + 1, stepper, meter)
        if self.average:
            self.average.swap()
        self._evaluate(stage, None)
        self._record_video(None)
        stepper.close()
        self._checkpoint(index + 1, 0, None)
        if self.is_main_process and not self._shares_features(index, index + 1):
            shutil.rmtree(self.out / "features", ignore_errors=True)

    def _prepare(self, index: int, checkpoint: Checkpoint | None) -> Stepper:
        """Make the stage's optimisers, with their saved state if the stage resumes."""
        stepper = Stepper(self.stages[index], self.config, self.fabric, self.module, self.average)
        if checkpoint:
            stepper.restore(checkpoint.tensors["optimizer"])
            set_random_state(checkpoint.tensors["optimizer"], self.fabric.device)
        else:
            torch.manual_seed(derived_seed(self.config.seed, index, self.fabric.global_rank))
            if self.average:
                self.average.restart()
        return stepper

    def _periodic(self, index: int, stage_step: int, stepper: Stepper, meter: Meter) -> None:
        config = self.config
        with meter.paused():
            if config.eval_every and self.done % config.eval_every == 0:
                self._evaluate(self.stages[index], self.average)
            if config.video_every and self.done % config.video_every == 0:
                self._record_video(self.average)
            if self.done % config.checkpoint_every == 0:
                meter.check()
                self._checkpoint(index, stage_step, stepper)

    def _evaluate(self, stage: Stage, average: WeightAverage | None) -> None:
        if self.is_main_process:
            with eval_mode(self.model, average, self.fabric.device):
                self.logger.scalars(self.evaluator.scalars(self.model, stage), self.done)

    def _record_video(self, average: WeightAverage | None) -> None:
        if self.is_main_process:
            with eval_mode(self.model, average, self.fabric.device):
                self.evaluator.video(self.model, self.out / "videos", self.logger, self.done)

    def _features(self, index: int, *, fresh: bool) -> Any:
        """Compute the stage's features, or read those of the stage before, or its own from before an interruption.

        What is missing or damaged is computed again, and is the same: no stage trains what its features are made with.
        """
        stage, first = self.stages[index], index
        if stage.precompute is None:
            return None
        while self._shares_features(first - 1, first):
            first -= 1
        path = self.out / "features" / self.stages[first].name
        if self.is_main_process and ((fresh and first == index) or not self._are_whole(path)):
            shutil.rmtree(path, ignore_errors=True)
            with eval_mode(self.model, None, self.fabric.device):
                compute_features(
                    path, self.store.frames, stage.precompute, self.fabric.device, progress=self.config.progress
                )
        self.fabric.barrier()
        return open_features(path, check=False)

    def _are_whole(self, path: Path) -> bool:
        try:
            open_features(path, check=True)
        except CheckpointDamagedError as error:
            if path.exists():
                warnings.warn(str(error), stacklevel=2)
            return False
        return True

    def _shares_features(self, earlier: int, later: int) -> bool:
        """Tell whether both stages exist, take steps, and use the same features."""
        if earlier < 0 or later == len(self.stages):
            return False
        first, second = self.stages[earlier], self.stages[later]
        both = stage_steps(first, self.config) > 0 and stage_steps(second, self.config) > 0
        return both and first.precompute is not None and first.precompute == second.precompute

    def _resume(self, resume: bool) -> tuple[int, Checkpoint | None]:
        """Load the model's weights from the last checkpoint; return the stage to resume at, and the checkpoint."""
        if not resume:
            if self.is_main_process:
                self.checkpoints.clear()
            self.fabric.barrier()
        checkpoint = self.checkpoints.latest()
        self.compiling.restore(resume=resume)
        if checkpoint is None:
            return 0, None
        different = differences(checkpoint.state["identity"], self.identity)
        if different:
            raise CheckpointError(
                f"the run in {self.out} was started with other settings ({'; '.join(different)}). Train into another "
                "folder, restore the settings, or pass resume=False to start over."
            )
        self.model.load_state_dict(checkpoint.tensors["model"])
        self.done, self.seconds = checkpoint.step, checkpoint.state["seconds"]
        if self.average:
            extra = checkpoint.tensors["optimizer"]
            self.average.load({name.removeprefix("average/"): tensor for name, tensor in extra.items()})
        return int(checkpoint.state["stage"]), checkpoint

    def _checkpoint(self, stage: int, stage_step: int, stepper: Stepper | None) -> None:
        """Save a checkpoint of the run, ``stage_step`` steps into this stage."""
        if self.is_main_process:
            extra = random_state(self.fabric.device)
            if self.average:
                extra |= {f"average/{name}": value for name, value in self.average.tensors().items()}
            if stepper:
                extra |= stepper.tensors()
            state = {"stage": stage, "stage_step": stage_step, "seconds": self._elapsed(), "identity": self.identity}
            tensors = {"model": self.model.state_dict(), "optimizer": extra}
            self.checkpoints.save(Checkpoint(step=self.done, tensors=tensors, state=state))
        self.fabric.barrier()

    def _finish(self) -> World:
        self.model.eval()
        with eval_mode(self.model, None, self.fabric.device):
            metrics = self.evaluator.final(self.model) if self.is_main_process else {}
        world = World(
            self.model,
            self.backbone_config,
            Starts.from_dataset(
                self.training,
                count=self.config.starts,
                context=self.config.start_context,
                seed=self.config.seed,
                before_reward=self.config.starts_before_reward,
            ),
            self.dataset.provenance,
            make_record(
                self.config,
                self.training,
                self.held_out,
                self.identity,
                self.compiling.choices,
                self.split,
                self.done,
                self._elapsed(),
            ),
            metrics,
        )
        if self.is_main_process:
            world.save(self.out / "world")
        self.fabric.barrier()
        return world

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.start_time

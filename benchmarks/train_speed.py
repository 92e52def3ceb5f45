"""Measure the training speed of a world: ``python -m dreamenv.benchmarks.train_speed [--data D]``.

Frames per second of every stage of a backbone, through the trainer, compiled and not, and through a bare torch loop in
turn; which share that is of the rate at which this machine multiplies large matrices, measured in the same rounds; and
peak memory. Without a recording, random frames of the size are used; speed does not depend on their content.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from dreamenv.allocator import keep_freed_memory
from dreamenv.benchmarks.common import envelope, interleaved, peak_memory_mib, print_table, write_json
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.episode import Episode
from dreamenv.data.provenance import Provenance
from dreamenv.data.store import FrameStore
from dreamenv.data.windows import WindowSampler
from dreamenv.parts import part_to_json
from dreamenv.presets import make_config
from dreamenv.training.compiling import compiled
from dreamenv.training.config import TrainConfig
from dreamenv.training.features import compute_features, open_features
from dreamenv.training.meter import Meter
from dreamenv.training.optimisation import make_optimizer, only_trainable
from dreamenv.training.prefetch import batches
from dreamenv.training.processes import Runner, make_fabric
from dreamenv.training.stepper import Stepper
from dreamenv.world_model import Stage, WorldModelSpec

__all__ = ["TrainSpeed", "main", "measure"]

_SIDE = 2048  # of square matrices, which do not fit the caches
_MATRICES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class TrainSpeed:
    """Measure the training speed of a world.

    Attributes:
        data: folder of a recording; None for random frames.
        backbone: kind of model.
        preset: of the backbone, one or several; none for its default.
        size: height and width of random frames, in pixels.
        steps: optimiser steps per round.
        rounds: timed rounds of trainer and bare loop each.
        compile: also measure compiled networks; compiling takes one to four minutes per stage.
        processor_seconds: count seconds of the processor, for busy machines; of all threads, so take one.
        threads: CPU threads; None leaves torch's setting.
        device: "auto", "cpu", "cuda", ...
        out: JSON file to write.
    """

    data: Path | None = None
    backbone: str = "rssm"
    preset: tuple[str, ...] = ()
    size: int = 64
    steps: int = 8
    rounds: int = 3
    compile: bool = False
    processor_seconds: bool = False
    threads: int | None = None
    device: str = "auto"
    out: Path = Path("train_speed.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    settings = tyro.cli(TrainSpeed, args=arguments, description=__doc__)
    results = {name or "default": measure(settings, name) for name in settings.preset or (None,)}
    rows = [
        (
            preset, name, stage["batch"], stage["frames_per_second"], stage["gflops_per_second"],
            *(f"{100 * stage['share_of_matmul'][kind]:.0f}%" for kind in _MATRICES),
            stage["trainer_over_bare_loop"], stage["compiled_over_eager"] or "-",
        )
        for preset, result in results.items()
        for name, stage in result["stages"].items()
    ]  # fmt: skip
    shares = tuple(f"of {kind} matmul" for kind in _MATRICES)
    header = ("preset", "stage", "windows x steps", "frames/s", "GFLOP/s", *shares, "/ bare loop", "compiled / eager")
    print_table(header, rows)
    for preset, result in results.items():
        print(f"{preset}: {result['parameters']:,} parameters; peak memory so far {result['peak_memory_mib']:.0f} MiB")
    print(f"wrote {write_json(settings.out, envelope('train_speed', results, vars(settings)))}", file=sys.stderr)


def measure(settings: TrainSpeed, preset: str | None = None) -> dict[str, Any]:
    """Return ``stages`` (name -> rates, shares and ratios), ``peak_memory_mib`` and ``parameters`` of a preset."""
    keep_freed_memory()  # as training does
    config = TrainConfig(device=settings.device, progress=False)
    fabric = make_fabric(config)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    results: dict[str, Any] = {}
    try:
        with _dataset(settings) as dataset, tempfile.TemporaryDirectory() as scratch:
            store = FrameStore(dataset)
            height, width, channels = dataset.frame_shape
            spec = WorldModelSpec(
                frame_shape=(channels, height, width),
                action_space=dataset.action_space,
                frame_rate=dataset.provenance.frame_rate,
            )
            backbone = make_config(settings.backbone, preset)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model: Any = backbone.build(spec)
            module = fabric.setup_module(Runner(model))
            for stage in model.stages():
                path = Path(scratch) / stage.name
                if stage.precompute is not None:
                    compute_features(path, store.frames, stage.precompute, fabric.device)
                features = open_features(path, check=False) if stage.precompute is not None else None
                sampler = WindowSampler(
                    store,
                    batch_size=stage.batch_size,
                    sequence_length=stage.sequence_length,
                    seed=0,
                    features=features,
                    crop_at_episode_ends=stage.crop_at_episode_ends,
                )
                results[stage.name] = _time_stage(settings, config, fabric, module, stage, sampler)
        return {
            "stages": results,
            "peak_memory_mib": peak_memory_mib(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "backbone": part_to_json(backbone),
            "frame_shape": list(spec.frame_shape),
        }
    finally:
        torch.set_num_threads(threads)


def _time_stage(
    settings: TrainSpeed, config: TrainConfig, fabric: Any, module: Any, stage: Stage, sampler: WindowSampler
) -> dict[str, Any]:
    frames = stage.batch_size * stage.sequence_length

    def make(step: int) -> Any:
        return sampler.batch(step, fabric.device)

    def finished() -> int:
        if fabric.device.type == "cuda":
            torch.cuda.synchronize(fabric.device)
        return settings.steps * frames

    stepper, meter = Stepper(stage, config, fabric, module), Meter(stage.name)

    def trainer() -> float:
        with closing(batches(make, 0, settings.steps)) as stream:
            for step, batch in enumerate(stream):
                stepper.step(step, batch, meter)
        meter.take(frames, 0.0)
        return finished()

    candidates: dict[str, Callable[[], float]] = {
        "bare loop": _bare_loop(settings, config, stage, module, make, finished)
    }
    for kind, dtype in _MATRICES.items():
        candidates[kind] = _matrices(dtype, fabric.device)
    with FlopCounterMode(display=False) as counter:
        stepper.rehearse(make(0))
    flops = counter.get_total_flops() / frames
    with compiled(stage.networks) as switch:

        def fast() -> float:
            switch.on = True
            try:
                return trainer()
            finally:
                switch.on = False

        if settings.compile and stage.networks:
            candidates["compiled"] = fast
        comparison = interleaved(
            {**candidates, "trainer": trainer},
            rounds=settings.rounds,
            clock=time.process_time if settings.processor_seconds else time.perf_counter,
        )
    stepper.close()
    rates, timing = {name: one.rate for name, one in comparison.timings.items()}, comparison.timings["trainer"]
    return {
        "gflops_per_second": timing.rate * flops / 1e9,
        "share_of_matmul": {kind: timing.rate * flops / rates[kind] for kind in _MATRICES},
        "compiled_over_eager": rates["compiled"] / timing.rate if "compiled" in rates else None,
        "frames_per_second": timing.rate,
        "frames_per_second_interval": [timing.low, timing.high],
        "steps_per_second": timing.rate / frames,
        "trainer_over_bare_loop": comparison.ratios["trainer"],
        "batch": f"{stage.batch_size} x {stage.sequence_length}",
    }


def _matrices(dtype: torch.dtype, device: torch.device) -> Callable[[], float]:
    """Return the product of two large matrices, whose work is counted in FLOPs."""
    left, right = (torch.randn(_SIDE, _SIDE, device=device).to(dtype) for _ in range(2))

    def run() -> float:
        (left @ right).sum().item()
        return float(2 * _SIDE**3)

    return run


def _bare_loop(
    settings: TrainSpeed,
    config: TrainConfig,
    stage: Stage,
    module: Any,
    make: Callable[[int], Any],
    finished: Callable[[], int],
) -> Callable[[], float]:
    """Return a minimal training loop: batch, loss, gradients, step."""
    optimizers = [(objective, make_optimizer(objective, stage, config)) for objective in stage.objectives]

    def run() -> float:
        for step in range(settings.steps):
            batch = make(step)
            for objective, optimizer in optimizers:
                only_trainable(module, objective)
                optimizer.zero_grad(set_to_none=True)
                loss, _ = objective.loss(batch)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(objective.parameters, config.optimizer.gradient_clip)
                optimizer.step()
        return finished()

    return run


@contextmanager
def _dataset(settings: TrainSpeed) -> Iterator[EpisodeDataset]:
    if settings.data is not None:
        yield EpisodeDataset.open(settings.data)
        return
    with tempfile.TemporaryDirectory() as folder:
        provenance = Provenance(environment_id="random-frames", frame_size=settings.size)
        shape = (settings.size, settings.size, 3)
        dataset = EpisodeDataset.create(Path(folder) / "random", provenance, gym.spaces.Discrete(3), shape)
        random = np.random.default_rng(0)
        for _ in range(8):
            steps = 100
            dataset.append(
                Episode(
                    frames=random.integers(0, 256, (steps + 1, *shape), dtype=np.uint8),
                    actions=random.integers(3, size=steps),
                    rewards=random.normal(size=steps).astype(np.float32),
                    terminated=True,
                    truncated=False,
                )
            )
        yield dataset


if __name__ == "__main__":
    main()

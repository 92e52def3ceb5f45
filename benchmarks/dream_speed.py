"""Measure the speed and memory of dreams, and whether either changes as a dream gets long.

::

    python -m dreamenv.benchmarks.dream_speed --world runs/take_cover/world --out dream_speed.json

Steps per second of `DreamVectorEnv` under random actions, autoresets included, for batches of rows, frames and latents,
one thread and two. Then one long dream, terminations ignored: steps of a dream thousands of steps old are timed in turn
with those of a new one, and the growth of the process's memory is measured.
"""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from dreamenv.benchmarks.common import envelope, interleaved, peak_memory_mib, print_table, write_json
from dreamenv.capabilities import SupportsEmbed
from dreamenv.dream import DreamVectorEnv
from dreamenv.dream.batch import DreamBatch
from dreamenv.dream.chunking import frame_by_frame
from dreamenv.dream.starting import StartStates
from dreamenv.errors import ConfigError
from dreamenv.world import World

__all__ = ["DreamSpeedConfig", "main", "measure_long_dream", "measure_speed"]

_STEPS_AT_ONCE = 256  # minimum rows x steps per timing, so that the clock's own cost is negligible


@dataclass(frozen=True, kw_only=True)
class DreamSpeedConfig:
    """What to measure.

    Attributes:
        world: a folder, hf://owner/name, or the name of a shipped world; empty for the default world.
        batches: numbers of rows.
        threads: numbers of torch threads.
        rounds: how often each figure is taken; they are taken in turn.
        long_steps: steps of the long dream; 0 leaves it out.
        device: where to dream.
        precision: of the model's weights.
        out: JSON file to write; nothing is written without it.
    """

    world: str = ""
    batches: tuple[int, ...] = (1, 16, 64, 256)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 7
    long_steps: int = 10_000
    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    out: Path | None = None

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1 or not self.threads or min(self.threads) < 1:
            raise ConfigError(f"batches and threads must be positive, not {self.batches} and {self.threads}.")
        if self.rounds < 1 or self.long_steps < 0:
            raise ConfigError(
                f"rounds must be at least 1, long_steps at least 0, not {self.rounds}, {self.long_steps}."
            )


def measure_speed(world: World, config: DreamSpeedConfig) -> list[dict[str, Any]]:
    """Return a record per number of threads, observation and batch: steps_per_second with its interval, memory_mib."""
    records = []
    before = torch.get_num_threads()
    try:
        for threads in config.threads:
            torch.set_num_threads(threads)
            candidates = {
                f"{observation} {batch}": _stepping(world, observation, batch, config)
                for observation in _observations(world)
                for batch in config.batches
            }
            timings = interleaved(candidates, rounds=config.rounds).timings
            for name, timing in timings.items():
                observation, batch = name.split()
                records.append(
                    {
                        "threads": threads,
                        "observation": observation,
                        "batch": int(batch),
                        "steps_per_second": timing.rate,
                        "interval_95": [timing.low, timing.high],
                    }
                )
    finally:
        torch.set_num_threads(before)
    return records


def measure_long_dream(world: World, config: DreamSpeedConfig) -> list[dict[str, Any]]:
    """Return, per observation, the cost of a late step relative to an early one, and the growth of memory in MiB."""
    records = []
    for observation in _observations(world):
        old, young = (_dreams(world, observation) for _ in range(2))
        actions = _random_actions(world, 1, 64)
        state = young.get_state()

        def advance(dreams: DreamBatch, steps: int, actions: list[torch.Tensor] = actions) -> int:
            for step in range(steps):
                dreams.advance(dreams.imagine(actions[step % len(actions)]))
            return steps

        def early(dreams: DreamBatch = young, state: Any = state) -> int:
            dreams.set_state(state)
            return advance(dreams, 64)

        settle = min(200, config.long_steps // 10)  # the allocator takes its share at first
        advance(old, settle)
        gc.collect()
        memory = _memory_mib()
        advance(old, config.long_steps - settle)
        gc.collect()
        growth = None if memory is None else (_memory_mib() or 0.0) - memory
        late: Callable[[], int] = lambda dreams=old: advance(dreams, 64)  # type: ignore[misc]  # noqa: E731
        comparison = interleaved({"early": early, "late": late}, rounds=3 * config.rounds)
        records.append(
            {
                "observation": observation,
                "steps": config.long_steps,
                "cost_late_over_early": 1.0 / comparison.ratios["late"],
                "memory_growth_mib": growth,
            }
        )
    return records


def main(config: DreamSpeedConfig) -> dict[str, Any]:
    """Measure, print and write."""
    world = World.load(config.world, config.device) if config.world else World.default(config.device)
    results: dict[str, Any] = {"world": repr(world), "content_hash": world.content_hash()}
    results["speed"] = measure_speed(world, config)
    results["latent_over_frame"] = _ratios(results["speed"])
    if config.long_steps:
        results["long_dream"] = measure_long_dream(world, config)
    results["peak_memory_mib"] = peak_memory_mib()
    print_table(
        ("threads", "observation", "rows", "steps/s", "low", "high"),
        [(*list(record.values())[:4], *record["interval_95"]) for record in results["speed"]],
    )
    for record in results.get("long_dream", ()):
        growth = record["memory_growth_mib"]
        print(
            f"{record['observation']}: after {record['steps']:,} steps a step costs "
            f"{record['cost_late_over_early']:.3f} times what it cost at first; memory grew by "
            f"{'an unknown amount' if growth is None else f'{growth:.1f} MiB'}."
        )
    print(f"Peak memory: {results['peak_memory_mib']:.0f} MiB.")
    values = envelope("dream_speed", results, asdict(config))
    if config.out is not None:
        print(f"Wrote {write_json(config.out, values)}.")
    return values


def _observations(world: World) -> list[Literal["frame", "latent"]]:
    return ["frame", "latent"] if isinstance(world.model, SupportsEmbed) else ["frame"]


def _stepping(
    world: World, observation: Literal["frame", "latent"], batch: int, config: DreamSpeedConfig
) -> Callable[[], float]:
    env = DreamVectorEnv(world, batch, observation=observation, precision=config.precision)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(64)]
    steps = max(8, _STEPS_AT_ONCE // batch)
    env.reset(seed=0)

    def run() -> float:
        for step in range(steps):
            env.step(actions[step % len(actions)])
        return steps * batch

    return run


def _dreams(world: World, observation: Literal["frame", "latent"]) -> DreamBatch:
    model = frame_by_frame(world.model)
    starts = StartStates(model, world.starts, world.device)
    dreams = DreamBatch(
        model,
        starts,
        1,
        device=world.device,
        horizon=sys.maxsize,
        temperatures=(1.0, 1.0),
        decode=observation == "frame",
        max_uncertainty=None,
    )
    dreams.streams.seed(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    dreams.begin(np.zeros(1, dtype=np.int64), np.array([0, starts.segments]))
    return dreams


def _random_actions(world: World, rows: int, count: int) -> list[torch.Tensor]:
    space, layout = world.spec.action_space, world.spec.action_layout
    space.seed(0)
    steps = [np.stack([[layout.pack(space.sample())] for _ in range(rows)]) for _ in range(count)]
    return [torch.from_numpy(actions).to(world.device) for actions in steps]


def _ratios(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rate = {(r["threads"], r["observation"], r["batch"]): r["steps_per_second"] for r in records}
    return [
        {"threads": threads, "batch": batch, "ratio": value / rate[threads, "frame", batch]}
        for (threads, observation, batch), value in rate.items()
        if observation == "latent"
    ]


def _memory_mib() -> float | None:
    """Return the memory this process holds resident now; None where the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main(tyro.cli(DreamSpeedConfig, description=__doc__))

"""Measure the speed of Minetest in lock-step, and the engine's share of the time.

    python -m dreamenv.benchmarks.minetest_speed --out minetest_speed.json

Synchronised agent steps per second (every frame is waited for) on natural terrain and in the maze, under random walks,
timed in turn. The targets are 60 on terrain and 150 in the maze on two idle cores. Also reported: the
processor time per step, in milliseconds, of the engine, its display and this process, which on a busy machine predicts
the speed of an idle one; and the time of a reset.

``--soak 10000`` plays so many steps in the maze instead, and compares every frame with an earlier frame of the
same place and direction: a drift between the numbers of steps and frames would show as a mismatch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from dreamenv.benchmarks.common import envelope, interleaved, print_table, write_json
from dreamenv.envs.minetest.env import MinetestEnv
from dreamenv.errors import UnavailableError

__all__ = ["MinetestSpeed", "main", "measure", "soak"]

_HERTZ = os.sysconf("SC_CLK_TCK")
_WALK = np.array([0.1, 0.6, 0.15, 0.15])  # noop, forward, turn_left, turn_right


@dataclass(frozen=True, kw_only=True)
class MinetestSpeed:
    """What to measure.

    Attributes:
        steps: agent steps per round of each task.
        rounds: how often each is timed; they are timed in turn.
        soak: play so many steps in the maze and compare frames, instead of timing.
        seed: of episodes and walks.
        out: JSON file to write; nothing is written without it.
    """

    steps: int = 500
    rounds: int = 3
    soak: int = 0
    seed: int = 1
    out: Path | None = None


class _Walker:
    """An environment and a random walk in it."""

    def __init__(self, task: str, seed: int) -> None:
        from dreamenv.envs.minetest.missing import missing_parts

        missing = missing_parts()
        if missing is not None:
            raise UnavailableError(task, missing.what, missing.remedy)
        self.env, self._random, self._seed = MinetestEnv(task), np.random.default_rng(seed), seed
        self.resets: list[float] = []
        self.steps = 0
        self.reset()

    def reset(self) -> None:
        began = time.perf_counter()
        self.env.reset(seed=self._seed)
        self.resets.append(time.perf_counter() - began)
        self._seed += 1
        self._action = 0

    def step(self, probabilities: NDArray[np.float64] = _WALK) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Take a step; the next one begins an episode if this one ended."""
        if self._random.random() < 0.2:
            self._action = int(self._random.choice(4, p=probabilities))
        frame, _, terminated, truncated, info = self.env.step(self._action)
        self.steps += 1
        if terminated or truncated:
            self.reset()
        return frame, info

    def processor_seconds(self) -> dict[str, float]:
        """Return the processor time of each process so far."""
        engine = self.env.engine
        assert engine is not None
        return {**{name: _seconds(pid) for name, pid in engine.pids.items()}, "python": time.process_time()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    settings = tyro.cli(MinetestSpeed, args=arguments, description=__doc__)
    results = soak(settings) if settings.soak else measure(settings)
    if settings.soak:
        print_table(("what", "number"), list(results.items()))
    else:
        rows = [(name, timing["rate"], timing["low"], timing["high"]) for name, timing in results["timings"].items()]
        print_table(("task", "steps/s", "95% low", "high"), rows)
        print_table(("processor time", "ms a step"), [*results["processor_ms"].items()])
        print(f"load {results['load']}, resets {results['reset_seconds']} s")
    if settings.out:
        print(f"wrote {write_json(settings.out, envelope('minetest_speed', results, vars(settings)))}")


def measure(settings: MinetestSpeed) -> dict[str, Any]:
    """Return ``timings`` and ``ratios`` (see `interleaved`), ``processor_ms`` per step, ``reset_seconds``, ``load``."""
    walkers = {
        name: _Walker(task, settings.seed)
        for name, task in (("terrain", "minetest_navigate"), ("maze", "minetest_maze"))
    }
    spent: dict[str, dict[str, float]] = {name: {} for name in walkers}

    def play(name: str) -> float:
        walker, before = walkers[name], walkers[name].processor_seconds()
        for _ in range(settings.steps):
            walker.step()
        for process, seconds in walker.processor_seconds().items():
            spent[name][process] = spent[name].get(process, 0.0) + seconds - before[process]
        return float(settings.steps)

    try:
        comparison = interleaved(
            {name: lambda name=name: play(name) for name in walkers},  # type: ignore[misc]
            rounds=settings.rounds,
        )
        steps = settings.steps * (settings.rounds + 1)
        return {
            **comparison.to_json(),
            "processor_ms": {
                f"{name}, {process}": 1000 * seconds / steps
                for name, processes in spent.items()
                for process, seconds in processes.items()
            },
            "reset_seconds": {name: float(np.median(walker.resets)) for name, walker in walkers.items()},
            "load": os.getloadavg()[0],
        }
    finally:
        for walker in walkers.values():
            walker.env.close()


def soak(settings: MinetestSpeed) -> dict[str, Any]:
    """Return how many ``steps`` were played, frames ``compared`` with an earlier one, and ``mismatches`` among them."""
    walker = _Walker("minetest_maze", settings.seed)
    known: dict[Any, bytes] = {}
    compared = mismatches = 0
    began = time.perf_counter()
    try:
        while walker.steps < settings.soak:
            episode = len(walker.resets)
            frame, info = walker.step(np.array([0.1, 0.1, 0.4, 0.4]))
            place = (episode, info["position"], info["yaw"])
            if place in known:
                compared += 1
                mismatches += known[place] != frame.tobytes()
            known[place] = frame.tobytes()
    finally:
        walker.env.close()
    return {
        "steps": walker.steps,
        "compared": compared,
        "mismatches": mismatches,
        "seconds": time.perf_counter() - began,
        "load": os.getloadavg()[0],
    }


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _HERTZ


if __name__ == "__main__":
    main()

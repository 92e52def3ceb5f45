"""Measure each kind of world: frames per second, and the latency from action to frame.

::

    python -m dreamenv.benchmarks.throughput --out throughput.json
    python -m dreamenv.benchmarks.throughput --device cuda --batches 1 32 256 --precision bfloat16 --compile

Every preset, untrained, with its memory full: a step costs the same whatever the weights are. Worlds of chunks are
measured as environments see them: with a repeated action, and with one that changes at every step, so that each
chunk is sampled for one frame. All presets of one batch are timed in turn. On a GPU, the share of the machine's rate
of matrix products is reported too, from counted operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dreamenv.benchmarks.common import Comparison, envelope, interleaved, print_table, write_json
from dreamenv.devices import find_device
from dreamenv.dream.chunking import frame_by_frame
from dreamenv.dream.loading import compiled, in_bfloat16
from dreamenv.errors import ConfigError
from dreamenv.presets import backbone_names, make_config, preset_names
from dreamenv.world_model import WorldModel, WorldModelSpec

__all__ = ["Throughput", "main", "measure"]

_FOR_A_GPU = ("denoising:diamond", "denoising:diffusion_forcing_like_base")
_MATRIX = 4096  # rows and columns of the product that the machine's rate is measured with


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """What to measure.

    Attributes:
        presets: backbone:preset; empty for all that are meant for the device.
        batches: dreams at once.
        size: pixels per side of a frame.
        actions: of a Discrete space.
        device: "cpu", "cuda", ...
        threads: of torch, on a CPU.
        precision: "float32" or "bfloat16", where the world supports it.
        compile: compile the networks with `torch.compile`, where the world supports it.
        rounds: how often each figure is taken; presets are taken in turn.
        seconds: approximate time of one round of one preset.
        waits: single steps of one dream whose latency is measured.
        out: JSON file to write; nothing is written without it.
    """

    presets: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1, 16, 64)
    size: int = 64
    actions: int = 4
    device: str = "cpu"
    threads: int = 2
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    rounds: int = 5
    seconds: float = 1.0
    waits: int = 100
    out: Path | None = None

    def __post_init__(self) -> None:
        for name in ("size", "actions", "threads", "rounds", "waits"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.batches or min(self.batches) < 1:
            raise ConfigError(f"batches must be positive, not {self.batches}.")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    settings = tyro.cli(Throughput, args=arguments, description=__doc__)
    results = measure(settings)
    print_table(
        ("preset", "million parameters", "dreams", "action", "frames/s", "95% low", "high", "of the matrix rate"),
        [
            (
                row["preset"], row["parameters"] / 1e6, row["batch"], row["action"], row["frames_per_second"],
                *row["interval_95"], "-" if row["share"] is None else row["share"],
            )
            for row in results["rows"]
        ],
    )  # fmt: skip
    print()
    print_table(
        ("preset", "ms from action to frame, median", "99%"),
        [(name, wait["p50_ms"], wait["p99_ms"]) for name, wait in results["latency"].items()],
    )
    values = envelope("throughput", results, asdict(settings))
    if settings.out is not None:
        print(f"Wrote {write_json(settings.out, values)}.")
    return values


def measure(settings: Throughput) -> dict[str, Any]:
    """Return ``rows`` by preset, batch and action, ``latency`` of one dream by preset, ``matrix_flops_per_second``."""
    device = find_device(settings.device)
    names = settings.presets or tuple(
        f"{backbone}:{preset}"
        for backbone in backbone_names()
        if backbone != "persistence"
        for preset in preset_names(backbone)
        if device.type != "cpu" or f"{backbone}:{preset}" not in _FOR_A_GPU
    )
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads if device.type == "cpu" else before)
    try:
        rate = None if device.type == "cpu" else _matrix_rate(device, settings.precision)
        rows: list[dict[str, Any]] = []
        for batch in settings.batches:
            dreams = {name: _Dreaming(name, settings, batch, device) for name in names}
            for change in (False, True):
                these = {name: one for name, one in dreams.items() if one.chunk > 1 or not change}
                if these:
                    timed = interleaved(
                        {name: one.stepper(settings.seconds, change=change) for name, one in these.items()},
                        rounds=settings.rounds,
                    )
                    rows += [_row(name, one, change, timed, rate) for name, one in these.items()]
        order = {name: place for place, name in enumerate(names)}
        rows.sort(key=lambda row: (order[row["preset"]], row["batch"], row["action"]))
        latency = {name: _Dreaming(name, settings, 1, device).latency(settings.waits) for name in names}
    finally:
        torch.set_num_threads(before)
    return {"rows": rows, "latency": latency, "matrix_flops_per_second": rate}


class _Dreaming:
    """Dreams of an untrained world, a step at a time."""

    def __init__(self, name: str, settings: Throughput, batch: int, device: torch.device) -> None:
        backbone, _, preset = name.partition(":")
        spec = WorldModelSpec(
            frame_shape=(3, settings.size, settings.size),
            action_space=gym.spaces.Discrete(settings.actions),
            frame_rate=10.0,
        )
        torch.manual_seed(0)
        model: Any = make_config(backbone, preset or None).build(spec)
        model.eval().to(device)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        if settings.precision == "bfloat16":
            model = in_bfloat16(model)
        if settings.compile and hasattr(model, "compile_networks"):
            model = compiled(model)
        self.chunk: int = model.spec.chunk
        self.model: WorldModel = frame_by_frame(model)
        self.batch, self.device, self.kinds = batch, device, settings.actions
        frames = torch.rand(batch, 1, 3, settings.size, settings.size, device=device)
        with torch.inference_mode():
            self.state = self.model.start(frames[:, 0], torch.arange(batch, device=device))
            for _ in range(max(1, model.spec.context_frames or 1)):
                self.state = self.model.observe(self.state, self._action(0), frames)

    def step(self, action: int) -> None:
        """Take one step in every dream, and wait for it."""
        with torch.inference_mode():
            _, self.state = self.model.imagine(self.state, self._action(action))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def stepper(self, seconds: float, *, change: bool) -> Callable[[], float]:
        """Return a function that steps whole chunks for about ``seconds``, and counts frames."""
        chunks = 1 if change else self.chunk

        def run() -> float:
            began, steps = time.perf_counter(), 0
            while steps == 0 or time.perf_counter() - began < seconds:
                for _ in range(chunks):
                    self.step(steps % self.kinds if change else 0)
                    steps += 1
            return float(steps * self.batch)

        return run

    def operations(self) -> int:
        """Count the additions and multiplications of a step's products, on average over a chunk."""
        counter = FlopCounterMode(display=False)
        with counter:
            for _ in range(self.chunk):
                self.step(0)
        return int(counter.get_total_flops()) // self.chunk

    def latency(self, steps: int) -> dict[str, float]:
        """Time single steps under a repeated action."""
        waits = []
        for step in range(-3 * self.chunk, steps):
            began = time.perf_counter()
            self.step(0)
            if step >= 0:
                waits.append((time.perf_counter() - began) * 1e3)
        return {"p50_ms": float(np.quantile(waits, 0.5)), "p99_ms": float(np.quantile(waits, 0.99))}

    def _action(self, action: int) -> torch.Tensor:
        return torch.full((self.batch, 1), action, device=self.device)


def _row(name: str, one: _Dreaming, change: bool, timed: Comparison, rate: float | None) -> dict[str, Any]:
    timing = timed.timings[name]
    return {
        "preset": name,
        "parameters": one.parameters,
        "batch": one.batch,
        "action": "changes" if change else "repeated",
        "frames_per_second": timing.rate,
        "interval_95": [timing.low, timing.high],
        "share": None if rate is None or change else timing.rate / one.batch * one.operations() / rate,
    }


def _matrix_rate(device: torch.device, precision: str) -> float:
    """Return operations per second of one large matrix product, the median of ten."""
    layer = nn.Linear(_MATRIX, _MATRIX, bias=False, device=device, dtype=getattr(torch, precision))
    inputs = torch.rand(_MATRIX, _MATRIX, device=device, dtype=getattr(torch, precision))
    waits = []
    with torch.inference_mode():
        for _ in range(13):
            torch.cuda.synchronize(device)
            began = time.perf_counter()
            layer(inputs)
            torch.cuda.synchronize(device)
            waits.append(time.perf_counter() - began)
    return 2 * _MATRIX**3 / float(np.median(waits[3:]))


if __name__ == "__main__":
    main()

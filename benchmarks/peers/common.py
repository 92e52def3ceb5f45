"""What all comparisons with a peer share."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dreamenv.dream.settings import compiled, with_precision

__all__ = ["Where", "peer_code", "randomised", "relative_difference", "stand_ins"]


@dataclass(frozen=True, kw_only=True)
class Where:
    """On what both are timed, and how ours is made.

    Attributes:
        device: where both compute.
        compile: time ours as `torch.compile` makes it, too.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    compile: bool = False

    def ways(self, model: Any) -> dict[str, Any]:
        """Return ours by name: in float32, with weights rounded to bfloat16, and both compiled, if asked for."""
        model = model.to(self.device)
        found = {"dreamenv": model, "dreamenv, bfloat16": with_precision(model, "bfloat16", self.device, rows=1)}
        if self.compile:
            found.update({f"{name}, compiled": compiled(one) for name, one in list(found.items())})
        return found

    def wait(self) -> None:
        """Let what was begun come to its end, so that a clock shows what it took."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, step: Callable[[], object], units: int = 1, seconds: float = 2.0) -> Callable[[], float]:
        """Return what takes steps for about so long, waits for them, and counts units."""

        def run() -> float:
            began, steps = time.perf_counter(), 0
            while steps < 1 or time.perf_counter() - began < seconds:
                step()
                self.wait()
                steps += 1
            return float(steps * units)

        return run


@contextlib.contextmanager
def peer_code(folder: Path) -> Iterator[None]:
    """Let modules of a peer's folder be imported, for as long as the context lasts."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).is_relative_to(folder):
                del sys.modules[name]


@contextlib.contextmanager
def stand_ins(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """Let modules stand in for packages that a peer imports and that are not needed, or cannot be had, here."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def randomised(module: nn.Module, seed: int = 0, spread: float = 0.02) -> nn.Module:
    """Make every weight random, also those that begin as 0, so that all of them count; return the module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 0
            scale = fan**-0.5 if fan else spread
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(noise if fan else parameter + noise)
    return module.eval()


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest absolute difference over the largest absolute value of theirs."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))

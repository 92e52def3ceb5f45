"""Tools of all comparisons with a peer."""

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

from dreamenv.dream.loading import compiled, in_bfloat16

__all__ = ["Where", "peer_code", "randomised", "relative_difference", "replaced_packages"]


@dataclass(frozen=True, kw_only=True)
class Where:
    """The device of both programs, and whether ours is compiled.

    Attributes:
        device: where both compute.
        compile: time ours as `torch.compile` makes it, too.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    compile: bool = False

    def variants(self, model: Any) -> dict[str, Any]:
        """Return ours by name: in float32, with weights rounded to bfloat16, and both compiled, if asked for."""
        model = model.to(self.device)
        variants = {"dreamenv": model, "dreamenv, bfloat16": in_bfloat16(model)}
        if self.compile:
            variants.update({f"{name}, compiled": compiled(one) for name, one in list(variants.items())})
        return variants

    def wait(self) -> None:
        """Synchronise the device before reading a clock."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, step: Callable[[], object], units: int = 1, seconds: float = 2.0) -> Callable[[], float]:
        """Return a function that steps for about ``seconds``, synchronised, and counts units."""

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
def replaced_packages(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """Replace packages that a peer imports but does not need, or that are unavailable, by modules."""
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

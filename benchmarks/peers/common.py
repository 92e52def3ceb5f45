"""What all comparisons with a peer share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

__all__ = ["peer_code", "randomised", "relative_difference", "stand_ins"]


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

"""What all comparisons with a peer share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["peer_code", "randomised", "relative_difference"]


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

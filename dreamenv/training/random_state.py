"""Isolate a run's global state from its caller's: torch's global random streams and its threads.

dreamenv samples from its own generators, but initial weights and layers such as dropout use torch's global stream, so a
run gets one that nothing else uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamenv.training.optimisation import WeightAverage

__all__ = ["derived_seed", "eval_mode", "isolated", "isolated_streams", "random_state", "set_random_state"]


def derived_seed(*words: int) -> int:
    """Hash several small numbers into one 63-bit seed."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def isolated(seed: int, num_threads: int | None, device: torch.device) -> Iterator[None]:
    """Give a run its own random streams and threads; restore the caller's afterwards."""
    threads = torch.get_num_threads()
    with isolated_streams(device):
        torch.manual_seed(seed)
        try:
            if num_threads is not None:
                torch.set_num_threads(num_threads)
            yield
        finally:
            torch.set_num_threads(threads)


def isolated_streams(device: torch.device) -> AbstractContextManager[None]:
    """Restore torch's global random streams afterwards."""
    return torch.random.fork_rng([device.index or 0] if device.type == "cuda" else [])


@contextmanager
def eval_mode(model: Any, average: WeightAverage | None, device: torch.device) -> Iterator[None]:
    """Put a model in evaluation mode: no gradients, averaged weights; restore everything afterwards."""
    training = model.training
    with isolated_streams(device), torch.no_grad():
        model.eval()
        if average:
            average.swap()
        try:
            yield
        finally:
            if average:
                average.swap()
            model.train(training)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return torch's global random streams as tensors."""
    streams = {"random/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        streams["random/cuda"] = torch.cuda.get_rng_state(device)
    return streams


def set_random_state(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(tensors["random/cpu"])
    if device.type == "cuda" and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"], device)

"""The process's global random generators, from which stable-baselines3 samples, kept as others left them."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch

__all__ = ["isolated_generators", "seeded_generators"]


@contextlib.contextmanager
def isolated_generators(device: torch.device) -> Iterator[None]:
    """Restore the generators of Python, numpy and torch (on the CPU and on a device) afterwards."""
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)


@contextlib.contextmanager
def seeded_generators(policy: Any, seed: int) -> Iterator[None]:
    """Seed all that a foreign policy may sample from, its action space included, and restore it afterwards."""
    device, space = getattr(policy, "device", None), getattr(policy, "action_space", None)
    device = device if isinstance(device, torch.device) else torch.device("cpu")
    with isolated_generators(device):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        if not isinstance(space, gym.Space):
            yield
            return
        before = copy.deepcopy(space.np_random)
        space.seed(seed)
        try:
            yield
        finally:
            space._np_random = before

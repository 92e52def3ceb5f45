"""Average a run's scalars between two logs, on the device and without synchronising it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from dreamenv.errors import DivergedError

__all__ = ["Meter"]


class Meter:
    """Sums of scalars since the last `take`.

    Args:
        stage: name of the stage, for messages.
        kept: what is left when it diverges, likewise.
    """

    def __init__(self, stage: str, kept: str = "The last good checkpoint is kept") -> None:
        self._stage, self._kept = stage, kept
        self._sums: dict[str, Tensor] = {}
        self._health: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}
        self._start = time.perf_counter()

    @torch.no_grad()
    def add(self, objective: str, loss: Tensor, logs: Mapping[str, Tensor], norm: Tensor | None) -> None:
        """Add the scalars of one step of one objective."""
        self._count(f"{objective}/loss", loss.detach())
        for name, value in logs.items():
            self._count(f"{objective}/{name}", value.detach())
        health = loss.detach()
        if norm is not None:
            self._count(f"{objective}/gradient_norm", norm.detach())
            health = health + norm.detach()
        # NaN and infinity survive addition, so one sum covers every step since the last check.
        self._health[objective] = self._health[objective] + health if objective in self._health else health

    def check(self) -> None:
        """Synchronise the device and raise DivergedError if any loss or gradient so far was not finite."""
        for objective, value in self._health.items():
            if not math.isfinite(float(value)):
                raise DivergedError(
                    f"objective {objective!r} of stage {self._stage!r} diverged: its loss or gradient is no longer "
                    f"finite. {self._kept}; lower the learning rate or gradient_clip, or look for faulty values in the "
                    "data."
                )

    def take(self, frames_per_step: int, rate: float) -> dict[str, float]:
        """Return the means since the last call, and reset.

        Raises:
            DivergedError: a loss or gradient was not finite.
        """
        self.check()
        seconds = max(time.perf_counter() - self._start, 1e-9)
        steps = max(self._steps.values(), default=0)
        means = {name: float(total) / self._steps[name] for name, total in self._sums.items()}
        self._sums, self._health, self._steps = {}, {}, {}
        self._start = time.perf_counter()
        return means | {
            "train/learning_rate": rate,
            "train/frames_per_second": steps * frames_per_step / seconds,
            "train/steps_per_second": steps / seconds,
        }

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the enclosed code from the measured speed."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def _count(self, name: str, value: Tensor) -> None:
        total = self._sums.get(name)
        self._sums[name] = value if total is None else total + value
        self._steps[name] = self._steps.get(name, 0) + 1

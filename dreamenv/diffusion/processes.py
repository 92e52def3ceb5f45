"""Noise processes: how much of a frame is left, and how much noise is in it, at each noise level.

A noisy frame is ``x = alpha x0 + sigma e`` with e ~ N(0, I). Each process counts levels on the scale that its users
know: the number of a step (`VariancePreserving`, where -1 is clean), the noise itself (`Karras`), or the share of the
way to noise (`Flow`). Levels are tensors of any shape, one entry per frame; nothing here knows about the frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from dreamenv.errors import ConfigError

__all__ = ["Flow", "Karras", "NoiseProcess", "VariancePreserving", "half_log_snr"]

_LARGEST_BETA = 0.999
_LEAST = 1e-12  # keeps logarithms finite


@runtime_checkable
class NoiseProcess(Protocol):
    """What samplers, objectives and denoisers know of a process."""

    @property
    def clean(self) -> float:
        """The level without noise."""
        ...

    def at(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), float32 tensors shaped like the level."""
        ...

    def spacing(self, passes: int) -> Tensor:
        """Return the levels (passes + 1,) float32 that a sampler visits, from pure noise to clean.

        Raises:
            ConfigError: fewer than one pass, or more than the process has levels.
        """
        ...

    def draw(self, uniform: Tensor) -> Tensor:
        """Turn uniform numbers in (0, 1) into levels to train on, of the same shape."""
        ...

    def time(self, level: Tensor) -> Tensor:
        """Return what a network is told of a level, of the same shape."""
        ...


def half_log_snr(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return log(alpha / sigma); finite, if large, where one of them is 0."""
    return alpha.clamp_min(_LEAST).log() - sigma.clamp_min(_LEAST).log()


@dataclass(frozen=True, kw_only=True)
class VariancePreserving:
    """A chain of steps with alpha^2 + sigma^2 = 1 (Ho et al. 2020). Levels are step numbers, -1 (clean) to steps - 1.

    Attributes:
        schedule: "linear" (Ho et al. 2020), "cosine" (Nichol and Dhariwal 2021) or "sigmoid" (Jabri et al. 2022, from
            -3 to 3 with temperature 1, as in Oasis).
        steps: of the chain.
        shift: above 1 for more noise at every step, as large frames need: the ratio of signal to noise, alpha / sigma,
            is divided by it (Hoogeboom et al. 2023).
        ends: visit the first step and the last one and those between as evenly as can be, so that ``passes`` steps are
            evaluated (Nichol and Dhariwal 2021); else steps from the last one down to the clean level, evenly.

    Raises:
        ConfigError: an unknown schedule, no step, or a shift that is not positive.
    """

    schedule: Literal["linear", "cosine", "sigmoid"] = "cosine"
    steps: int = 1000
    shift: float = 1.0
    ends: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in _REMAINS:
            raise ConfigError(f"schedule must be one of {', '.join(_REMAINS)}, not {self.schedule!r}.")
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, not {self.steps}.")
        _check_shift(self.shift)

    @property
    def clean(self) -> float:
        """The level before the first step."""
        return -1.0

    @cached_property
    def signal(self) -> Tensor:
        """alpha^2 by level, (steps + 1,) float64; the first is that of the clean level, 1."""
        kept = _REMAINS[self.schedule](self.steps)
        kept = kept / (kept + self.shift**2 * (1 - kept))
        return torch.cat([torch.ones(1, dtype=torch.float64), kept])

    @cached_property
    def _tables(self) -> dict[torch.device, Tensor]:
        return {}

    def _table(self, device: torch.device) -> Tensor:
        """Alpha and sigma by level, (2, steps + 1), copied to a device once: it waits for copies, in every pass."""
        if device not in self._tables:
            table = torch.stack([self.signal.sqrt(), (1 - self.signal).sqrt()])
            self._tables[device] = table.to(device, torch.float32)
        return self._tables[device]

    def at(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Look (alpha, sigma) up; levels are rounded down to a step."""
        alpha, sigma = self._table(level.device)[:, (level + 1).long().clamp(0, self.steps)]
        return alpha, sigma

    def spacing(self, passes: int) -> Tensor:
        """Spread the passes evenly over the steps: the last step first, then down to -1."""
        _check_passes(passes, self.steps)
        if self.ends:
            first = [] if passes == 1 else [round(i * (self.steps - 1) / (passes - 1)) for i in range(passes)]
            return torch.tensor([-1.0, *(first or [self.steps - 1])]).flip(0)
        return torch.linspace(-1, self.steps - 1, passes + 1, dtype=torch.float64).trunc().flip(0).float()

    def draw(self, uniform: Tensor) -> Tensor:
        """Draw every step alike."""
        return (uniform * self.steps).floor().clamp(0, self.steps - 1)

    def time(self, level: Tensor) -> Tensor:
        """The share of the steps, in [0, 1); a clean frame passes for one at step 0."""
        return level.clamp_min(0) / self.steps


@dataclass(frozen=True, kw_only=True)
class Karras:
    """Noise is added to an unchanged frame, alpha = 1 (EDM, Karras et al. 2022). A level is sigma itself.

    Attributes:
        sigma_min, sigma_max: least and greatest noise of a sampler, in units of the frame. DIAMOND has 0.002 and 5.
        rho: how much the passes crowd at low noise.
        mean, std: of log sigma in training.

    Raises:
        ConfigError: bounds that are not positive or not in order.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ConfigError(f"0 < sigma_min < sigma_max must hold, not {self.sigma_min} and {self.sigma_max}.")
        if not (self.rho > 0 and self.std > 0):
            raise ConfigError(f"rho and std must be positive, not {self.rho} and {self.std}.")

    @property
    def clean(self) -> float:
        """No noise."""
        return 0.0

    def at(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(1, the level)."""
        sigma = level.float()
        return torch.ones_like(sigma), sigma

    def spacing(self, passes: int) -> Tensor:
        """Equation 5 of the paper, and 0 at the end."""
        _check_passes(passes)
        ends = torch.tensor([self.sigma_max, self.sigma_min], dtype=torch.float64) ** (1 / self.rho)
        way = torch.arange(passes, dtype=torch.float64) / max(1, passes - 1)
        sigmas = (ends[0] + way * (ends[1] - ends[0])) ** self.rho
        return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)]).float()

    def draw(self, uniform: Tensor) -> Tensor:
        """Draw log sigma from a normal distribution, cut where the sampler never goes."""
        logs: Tensor = self.mean + self.std * torch.special.ndtri(uniform.double())
        return logs.exp().clamp(self.sigma_min, self.sigma_max).float()

    def time(self, level: Tensor) -> Tensor:
        """A quarter of log sigma; a clean frame passes for one at sigma_min."""
        return level.clamp_min(self.sigma_min).log() / 4


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A straight way from the frame to noise, alpha = 1 - s and sigma = s (Lipman et al. 2022; Liu et al. 2022).

    Attributes:
        shift: above 1 for more time in high noise, as large frames need (Esser et al. 2024).
        spread: of the logit of s in training, around 0 (the same source); None draws s uniformly.

    Raises:
        ConfigError: a shift or spread that is not positive.
    """

    shift: float = 1.0
    spread: float | None = None

    def __post_init__(self) -> None:
        _check_shift(self.shift)
        if self.spread is not None and not self.spread > 0:
            raise ConfigError(f"spread must be positive or None, not {self.spread}.")

    @property
    def clean(self) -> float:
        """The way's beginning."""
        return 0.0

    def at(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(1 - s, s)."""
        sigma = level.float()
        return 1 - sigma, sigma

    def spacing(self, passes: int) -> Tensor:
        """Equal steps, shifted."""
        _check_passes(passes)
        return self._shifted(torch.linspace(1, 0, passes + 1, dtype=torch.float64)).float()

    def draw(self, uniform: Tensor) -> Tensor:
        """Draw s as the settings say, shifted."""
        way = uniform.double()
        if self.spread is not None:
            way = (self.spread * torch.special.ndtri(way)).sigmoid()
        return self._shifted(way).float()

    def time(self, level: Tensor) -> Tensor:
        """The level itself."""
        return level.float()

    def _shifted(self, way: Tensor) -> Tensor:
        return self.shift * way / (1 + (self.shift - 1) * way)


def _linear(steps: int) -> Tensor:
    scale = 1000 / steps
    betas = torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64).clamp_max(_LARGEST_BETA)
    return (1 - betas).cumprod(0)


def _cosine(steps: int) -> Tensor:
    way = (torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008
    return _from_curve((way * math.pi / 2).cos() ** 2)


def _sigmoid(steps: int) -> Tensor:
    way = torch.linspace(-3, 3, steps + 1, dtype=torch.float64).sigmoid()
    return _from_curve((way[-1] - way) / (way[-1] - way[0]))


def _from_curve(curve: Tensor) -> Tensor:
    """Turn alpha^2 at steps + 1 points into that of a chain whose last steps do not remove everything at once."""
    betas = (1 - curve[1:] / curve[:-1]).clamp_max(_LARGEST_BETA)
    return (1 - betas).cumprod(0)


_REMAINS = {"linear": _linear, "cosine": _cosine, "sigmoid": _sigmoid}


def _check_passes(passes: int, most: int | None = None) -> None:
    if passes < 1 or (most is not None and passes > most):
        asked = "at least 1" if most is None else f"from 1 to {most}, the steps of the chain"
        raise ConfigError(f"passes must be {asked}, not {passes}.")


def _check_shift(shift: float) -> None:
    if not shift > 0:
        raise ConfigError(f"shift must be positive, not {shift}; 1 leaves the process as it is.")

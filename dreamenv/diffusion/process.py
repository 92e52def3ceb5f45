"""Noise processes: how much of a frame is left, and how much noise is in it, at each noise level.

A noisy frame is ``x = alpha x0 + sigma e`` with e ~ N(0, I). Each process counts levels on the scale that its users
know: the timestep (`VariancePreserving`, where -1 is clean), the noise itself (`EDM`), or the share of the way to noise
(`RectifiedFlow`). Levels are tensors of any shape, one entry per frame; nothing here knows about the frames.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from dreamenv.checks import check_whole
from dreamenv.errors import ConfigError
from dreamenv.parts import Part

__all__ = ["EDM", "MAX_STEPS", "NoiseProcess", "RectifiedFlow", "VariancePreserving", "half_log_snr"]

MAX_STEPS = 10_000
"""The most steps of a chain or of a sampler; published ones have 1000."""

_LARGEST_BETA = 0.999
_RHO = 7.0  # Karras et al. 2022
_LEAST = 1e-12  # keeps logarithms finite


@dataclass(frozen=True, kw_only=True)
class NoiseProcess(Part, ABC):
    """What samplers, losses and worlds know of a process."""

    @property
    @abstractmethod
    def clean(self) -> float:
        """The level without noise."""

    @abstractmethod
    def alpha_sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), float32 tensors shaped like the level."""

    @abstractmethod
    def sampling_levels(self, steps: int) -> Tensor:
        """Return the levels (steps + 1,) float32 that a sampler visits, from pure noise to clean.

        Raises:
            ConfigError: fewer than one step, or more than the process has levels.
        """

    @abstractmethod
    def training_levels(self, uniform: Tensor) -> Tensor:
        """Turn uniform numbers in (0, 1) into levels to train on, of the same shape."""

    @abstractmethod
    def time(self, level: Tensor) -> Tensor:
        """Return what a network is given as the level, of the same shape."""


def half_log_snr(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return log(alpha / sigma); finite, if large, where one of them is 0."""
    return alpha.clamp_min(_LEAST).log() - sigma.clamp_min(_LEAST).log()


@dataclass(frozen=True, kw_only=True)
class VariancePreserving(NoiseProcess, kind="vp"):
    """A chain of steps with alpha^2 + sigma^2 = 1 (Ho et al. 2020). Levels are step numbers, -1 (clean) to steps - 1.

    Attributes:
        schedule: "linear" (Ho et al. 2020), "cosine" (Nichol and Dhariwal 2021) or "sigmoid" (Jabri et al. 2022, from
            -3 to 3 with temperature 1, as in Oasis).
        steps: of the chain.
        shift: above 1 for more noise at every step, as large frames need: the ratio of signal to noise, alpha / sigma,
            is divided by it (Hoogeboom et al. 2023).
        timestep_spacing: of a sampler: "trailing" steps evenly from the last one down to the clean level; "linspace"
            visits the first step, the last one and those between as evenly as can be (Nichol and Dhariwal 2021).
        time_scale: a network is given the timestep as its share of the steps in [0, 1), times this: 1 for networks of
            ours, ``steps`` for those that take the timestep itself.

    Raises:
        ConfigError: an unknown schedule or spacing, no step, or a shift or scale that is not positive.
    """

    schedule: Literal["linear", "cosine", "sigmoid"] = "cosine"
    steps: int = 1000
    shift: float = 1.0
    timestep_spacing: Literal["trailing", "linspace"] = "trailing"
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in _SCHEDULES:
            raise ConfigError(f"schedule must be one of {', '.join(_SCHEDULES)}, not {self.schedule!r}.")
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, not {self.steps}.")
        check_whole("steps", self.steps, most=MAX_STEPS)
        if self.timestep_spacing not in ("trailing", "linspace"):
            raise ConfigError(f"timestep_spacing must be 'trailing' or 'linspace', not {self.timestep_spacing!r}.")
        if not self.time_scale > 0:
            raise ConfigError(f"time_scale must be positive, not {self.time_scale}.")
        _check_shift(self.shift)

    @property
    def clean(self) -> float:
        """The level before the first step."""
        return -1.0

    @cached_property
    def signal(self) -> Tensor:
        """alpha^2 by level, (steps + 1,) float64; the first is that of the clean level, 1."""
        kept = _SCHEDULES[self.schedule](self.steps)
        kept = kept / (kept + self.shift**2 * (1 - kept))
        return torch.cat([torch.ones(1, dtype=torch.float64), kept])

    @cached_property
    def _tables(self) -> dict[torch.device, Tensor]:
        return {}

    def _table(self, device: torch.device) -> Tensor:
        """Alpha and sigma by level, (2, steps + 1), copied to a device once: a copy in every step would wait for it."""
        if device not in self._tables:
            table = torch.stack([self.signal.sqrt(), (1 - self.signal).sqrt()])
            self._tables[device] = table.to(device, torch.float32)
        return self._tables[device]

    def alpha_sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Look (alpha, sigma) up; levels are rounded down to a step."""
        alpha, sigma = self._table(level.device)[:, (level + 1).long().clamp(0, self.steps)]
        return alpha, sigma

    def sampling_levels(self, steps: int) -> Tensor:
        """Spread them over the steps of the chain: the last one first, then down to -1."""
        _check_steps(steps, self.steps)
        if self.timestep_spacing == "linspace":
            if steps in (1, self.steps):
                raise ConfigError(
                    f"{steps} of {self.steps} steps can be spaced in one way only; leave timestep_spacing at "
                    "'trailing'."
                )
            first = [round(i * (self.steps - 1) / (steps - 1)) for i in range(steps)]
            return torch.tensor([-1.0, *first]).flip(0)
        return torch.linspace(-1, self.steps - 1, steps + 1, dtype=torch.float64).trunc().flip(0).float()

    def training_levels(self, uniform: Tensor) -> Tensor:
        """Take every step equally often."""
        return (uniform * self.steps).floor().clamp(0, self.steps - 1)

    def time(self, level: Tensor) -> Tensor:
        """The share of the steps, times ``time_scale``; a clean frame is given the time of step 0."""
        return level.clamp_min(0).floor() / (self.steps / self.time_scale)


@dataclass(frozen=True, kw_only=True)
class EDM(NoiseProcess, kind="edm"):
    """Noise is added to an unchanged frame, alpha = 1 (EDM, Karras et al. 2022). A level is sigma itself.

    Attributes:
        sigma_min, sigma_max: least and greatest noise of a sampler, in units of the frame. DIAMOND has 0.002 and 5.
        rho: how much a sampler's steps crowd at low noise.
        p_mean, p_std: mean and standard deviation of log sigma in training.

    Raises:
        ConfigError: bounds that are not positive or not in order.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = _RHO
    p_mean: float = -1.2
    p_std: float = 1.2

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ConfigError(f"0 < sigma_min < sigma_max must hold, not {self.sigma_min} and {self.sigma_max}.")
        if not (self.rho > 0 and self.p_std > 0):
            raise ConfigError(f"rho and p_std must be positive, not {self.rho} and {self.p_std}.")

    @property
    def clean(self) -> float:
        """No noise."""
        return 0.0

    def alpha_sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(1, the level)."""
        sigma = level.float()
        return torch.ones_like(sigma), sigma

    def sampling_levels(self, steps: int) -> Tensor:
        """Equation 5 of the paper, and 0 at the end."""
        _check_steps(steps)
        if steps < 3 and self.rho != _RHO:
            raise ConfigError(f"rho has no effect on {steps} steps, sigma_max and sigma_min; leave it at {_RHO}.")
        ends = torch.tensor([self.sigma_max, self.sigma_min], dtype=torch.float64) ** (1 / self.rho)
        way = torch.arange(steps, dtype=torch.float64) / max(1, steps - 1)
        sigmas = (ends[0] + way * (ends[1] - ends[0])) ** self.rho
        return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)]).float()

    def training_levels(self, uniform: Tensor) -> Tensor:
        """Draw log sigma from a normal distribution, cut where the sampler never goes."""
        logs: Tensor = self.p_mean + self.p_std * torch.special.ndtri(uniform.double())
        return logs.exp().clamp(self.sigma_min, self.sigma_max).float()

    def time(self, level: Tensor) -> Tensor:
        """A quarter of log sigma; a clean frame is given the time of sigma_min."""
        return level.clamp_min(self.sigma_min).log() / 4


@dataclass(frozen=True, kw_only=True)
class RectifiedFlow(NoiseProcess, kind="flow"):
    """A straight way from the frame to noise, alpha = 1 - s and sigma = s (Lipman et al. 2022; Liu et al. 2022).

    Attributes:
        shift: above 1 for more time in high noise, as large frames need (Esser et al. 2024).
        logit_std: standard deviation of the logit of s in training (the same source); None samples s uniformly.

    Raises:
        ConfigError: a shift or standard deviation that is not positive.
    """

    shift: float = 1.0
    logit_std: float | None = 1.0

    def __post_init__(self) -> None:
        _check_shift(self.shift)
        if self.logit_std is not None and not self.logit_std > 0:
            raise ConfigError(f"logit_std must be positive or None, not {self.logit_std}.")

    @property
    def clean(self) -> float:
        """The way's beginning."""
        return 0.0

    def alpha_sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(1 - s, s)."""
        sigma = level.float()
        return 1 - sigma, sigma

    def sampling_levels(self, steps: int) -> Tensor:
        """Equal steps, shifted."""
        _check_steps(steps)
        return self._shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64)).float()

    def training_levels(self, uniform: Tensor) -> Tensor:
        """Draw s as the settings say, shifted."""
        way = uniform.double()
        if self.logit_std is not None:
            way = (self.logit_std * torch.special.ndtri(way)).sigmoid()
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


_SCHEDULES = {"linear": _linear, "cosine": _cosine, "sigmoid": _sigmoid}


def _check_steps(steps: int, most: int | None = None) -> None:
    if steps < 1 or (most is not None and steps > most):
        needed = "at least 1" if most is None else f"from 1 to {most}, the steps of the chain"
        raise ConfigError(f"a sampler's steps must be {needed}, not {steps}.")


def _check_shift(shift: float) -> None:
    if not shift > 0:
        raise ConfigError(f"shift must be positive, not {shift}; 1 leaves the process as it is.")

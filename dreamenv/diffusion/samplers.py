"""Samplers: from one noise level to the next, for any process, target and arrangement of frames.

Every frame has its own level before and after a pass, (b, f) each; a frame whose level stays is returned as it was. The
formulas are written in alpha and sigma (`dreamenv.diffusion.processes`), of which variance-preserving chains, EDM and
flows are cases: a probability flow obeys dx = x0 d(alpha) + e d(sigma), whatever the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from dreamenv.diffusion.processes import NoiseProcess, half_log_snr
from dreamenv.diffusion.targets import Prediction, per_frame
from dreamenv.errors import ConfigError

__all__ = ["DDIM", "Ancestral", "DPMSolver", "Denoise", "Euler", "Heun", "Past", "Sampler"]

Denoise = Callable[[Tensor, Tensor], Prediction]
"""(noisy frames (b, f, ...), levels (b, f)) -> what is expected of them."""

_LEAST = 1e-20


@dataclass(frozen=True)
class Past:
    """What a multistep sampler remembers of the pass before.

    Attributes:
        frame: the clean frames expected then, (b, f, ...).
        step: by how much log(alpha / sigma) grew in it, (b, f); infinite where there was no such pass.
    """

    frame: Tensor
    step: Tensor


class Sampler(Protocol):
    """One pass of denoising."""

    @property
    def stochastic(self) -> bool:
        """Whether it needs fresh noise in every pass."""
        ...

    def step(
        self,
        process: NoiseProcess,
        denoise: Denoise,
        noisy: Tensor,
        here: Tensor,
        there: Tensor,
        *,
        noise: Tensor | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, Past | None]:
        """Bring frames from their levels to less noisy ones.

        Args:
            process: that made the noise.
            denoise: the network.
            noisy: (b, f, ...) frames.
            here, there: (b, f) levels before and after.
            noise: (b, f, ...) standard normal, for stochastic samplers.
            past: what the last pass returned, for multistep samplers; None in the first.

        Returns:
            The frames, and what the next pass should be given.

        Raises:
            ConfigError: a stochastic sampler got no noise.
        """
        ...


@dataclass(frozen=True)
class Euler:
    """First order; on a variance-preserving chain, DDIM without noise (Song et al. 2020). One evaluation a pass."""

    @property
    def stochastic(self) -> bool:
        """No."""
        return False

    def step(
        self,
        process: NoiseProcess,
        denoise: Denoise,
        noisy: Tensor,
        here: Tensor,
        there: Tensor,
        *,
        noise: Tensor | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, None]:
        """See `Sampler.step`."""
        del noise, past
        found = denoise(noisy, here)
        return _unless_still(_mixed(process, found, there), noisy, here, there), None


@dataclass(frozen=True)
class Heun:
    """Second order, trapezoidal rule (Karras et al. 2022, algorithm 1). Two evaluations a pass, one in the last."""

    @property
    def stochastic(self) -> bool:
        """No."""
        return False

    def step(
        self,
        process: NoiseProcess,
        denoise: Denoise,
        noisy: Tensor,
        here: Tensor,
        there: Tensor,
        *,
        noise: Tensor | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, None]:
        """See `Sampler.step`."""
        del noise, past
        first = denoise(noisy, here)
        reached = _mixed(process, first, there)
        alpha, sigma = process.at(here)
        later_alpha, later_sigma = process.at(there)
        if bool((later_sigma > 0).any()):
            second = denoise(_unless_still(reached, noisy, here, there), there)
            frame, error = (first.frame + second.frame) / 2, (first.noise + second.noise) / 2
            better = (
                noisy + per_frame(later_alpha - alpha, noisy) * frame + per_frame(later_sigma - sigma, noisy) * error
            )
            reached = torch.where(per_frame(later_sigma > 0, noisy), better, reached)
        return _unless_still(reached, noisy, here, there), None


@dataclass(frozen=True)
class DDIM:
    """Song et al. 2020, equation 12. One evaluation a pass.

    Attributes:
        eta: share of the noise that is drawn anew; 0 draws none, 1 is the ancestral sampler with its least variance.

    Raises:
        ConfigError: eta is negative or above 1.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta must be in [0, 1], not {self.eta}.")

    @property
    def stochastic(self) -> bool:
        """If eta is positive."""
        return self.eta > 0

    def step(
        self,
        process: NoiseProcess,
        denoise: Denoise,
        noisy: Tensor,
        here: Tensor,
        there: Tensor,
        *,
        noise: Tensor | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, None]:
        """See `Sampler.step`."""
        del past
        found = denoise(noisy, here)
        least, _ = _variances(process, here, there)
        reached = _redrawn(process, found, there, self.eta**2 * least, self.eta**2 * least, noise, self)
        return _unless_still(reached, noisy, here, there), None


@dataclass(frozen=True)
class Ancestral:
    """Ho et al. 2020: draws from the posterior of the chain, also of one that skips steps. One evaluation a pass.

    Attributes:
        variance: "least" (that of a known frame), "greatest" (that of unknown white ones), or "learned", between the
            two as the prediction says (Nichol and Dhariwal 2021).

    Raises:
        ConfigError: an unknown variance, or a learned one that the network does not predict.
    """

    variance: Literal["least", "greatest", "learned"] = "least"

    def __post_init__(self) -> None:
        if self.variance not in ("least", "greatest", "learned"):
            raise ConfigError(f"variance must be 'least', 'greatest' or 'learned', not {self.variance!r}.")

    @property
    def stochastic(self) -> bool:
        """Always."""
        return True

    def step(
        self,
        process: NoiseProcess,
        denoise: Denoise,
        noisy: Tensor,
        here: Tensor,
        there: Tensor,
        *,
        noise: Tensor | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, None]:
        """See `Sampler.step`."""
        del past
        found = denoise(noisy, here)
        least, greatest = _variances(process, here, there)
        drawn = per_frame(least if self.variance == "least" else greatest, noisy)
        if self.variance == "learned":
            if found.variance is None:
                raise ConfigError("the network learned no variance; sample with variance 'least' or 'greatest'.")
            low = per_frame(least, noisy).clamp_min(_LEAST).log()
            drawn = (low + found.variance * (drawn.clamp_min(_LEAST).log() - low)).exp()
        drawn = torch.where(per_frame(least > 0, noisy), drawn, 0.0)  # nothing is drawn in the step to a clean frame
        reached = _redrawn(process, found, there, least, drawn, noise, self)
        return _unless_still(reached, noisy, here, there), None


@dataclass(frozen=True)
class DPMSolver:
    """DPM-Solver++(2M): second order from what the pass before expected (Lu et al. 2022, algorithm 2).

    One evaluation a pass. The first pass and the one to a clean frame are of first order.
    """

    @property
    def stochastic(self) -> bool:
        """No."""
        return False

    def step(
        self,
        process: NoiseProcess,
        denoise: Denoise,
        noisy: Tensor,
        here: Tensor,
        there: Tensor,
        *,
        noise: Tensor | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, Past]:
        """See `Sampler.step`."""
        del noise
        found = denoise(noisy, here)
        alpha, sigma = process.at(here)
        later_alpha, later_sigma = process.at(there)
        step = half_log_snr(later_alpha, later_sigma) - half_log_snr(alpha, sigma)
        frame, moved = found.frame, here != there
        if past is not None:
            weight = torch.where(later_sigma > 0, step / (2 * past.step.clamp_min(_LEAST)), 0.0)
            frame = frame + per_frame(torch.where(past.step.isinf(), 0.0, weight), noisy) * (frame - past.frame)
        shrink = (later_sigma / sigma.clamp_min(_LEAST)).clamp_max(1.0)
        gain = later_alpha - alpha * later_sigma / sigma.clamp_min(_LEAST)  # alpha' (1 - exp(-step))
        reached = per_frame(shrink, noisy) * noisy + per_frame(gain, noisy) * frame
        remembered, step_before = found.frame, torch.full_like(step, torch.inf)
        if past is not None:
            remembered = torch.where(per_frame(moved, noisy), found.frame, past.frame)
            step_before = past.step
        known = alpha > 0  # from noise alone the way in log(alpha / sigma) has no length
        now = Past(remembered, torch.where(moved & known, step, step_before))
        return _unless_still(reached, noisy, here, there), now


def _mixed(process: NoiseProcess, found: Prediction, level: Tensor) -> Tensor:
    """Put the expected frame and noise together again, at another level."""
    alpha, sigma = process.at(level)
    return per_frame(alpha, found.frame) * found.frame + per_frame(sigma, found.frame) * found.noise


def _redrawn(
    process: NoiseProcess,
    found: Prediction,
    level: Tensor,
    replaced: Tensor,
    drawn: Tensor,
    noise: Tensor | None,
    sampler: Sampler,
) -> Tensor:
    """Put them together with some of the noise's variance replaced, and some drawn."""
    if sampler.stochastic and noise is None:
        raise ConfigError(f"{type(sampler).__name__} draws noise in every pass; give it as noise=.")
    alpha, sigma = process.at(level)
    kept = (sigma**2 - replaced).clamp_min(0).sqrt()
    mean = per_frame(alpha, found.frame) * found.frame + per_frame(kept, found.frame) * found.noise
    return mean if noise is None else mean + per_frame(drawn, found.frame).sqrt() * noise


def _variances(process: NoiseProcess, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest variance of a step between two levels, (b, f) each."""
    alpha, sigma = (value.double() for value in process.at(here))
    later_alpha, later_sigma = (value.double() for value in process.at(there))
    greatest = (sigma**2 - (alpha / later_alpha) ** 2 * later_sigma**2).clamp_min(0)
    least = later_sigma**2 / (sigma**2).clamp_min(_LEAST) * greatest
    return least.float(), greatest.float()


def _unless_still(reached: Tensor, noisy: Tensor, here: Tensor, there: Tensor) -> Tensor:
    return torch.where(per_frame(here != there, noisy), reached, noisy)

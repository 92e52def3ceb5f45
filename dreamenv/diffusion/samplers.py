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

__all__ = ["DDIM", "Ancestral", "DPMSolver", "Denoise", "Euler", "Heun", "Pass", "Past", "Sampler"]

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


@dataclass(frozen=True)
class Pass:
    """One pass over frames, which brings them from their levels to less noisy ones.

    Attributes:
        process: that made the noise.
        noisy: (b, f, ...) frames.
        here, there: (b, f) levels before and after.
        noise: (b, f, ...) standard normal, for samplers that draw some.
        past: what the last pass left, for multistep samplers; None in the first.
    """

    process: NoiseProcess
    noisy: Tensor
    here: Tensor
    there: Tensor
    noise: Tensor | None = None
    past: Past | None = None

    def mixed(self, found: Prediction) -> Tensor:
        """Put the expected frame and noise together again, at the level there."""
        alpha, sigma = (per_frame(value, self.noisy) for value in self.process.at(self.there))
        return alpha * found.frame + sigma * found.noise

    def variances(self) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest variance of a step of the chain, (b, f) each."""
        alpha, sigma = (value.double() for value in self.process.at(self.here))
        later_alpha, later_sigma = (value.double() for value in self.process.at(self.there))
        greatest = (sigma**2 - (alpha / later_alpha) ** 2 * later_sigma**2).clamp_min(0)
        least = later_sigma**2 / (sigma**2).clamp_min(_LEAST) * greatest
        return least.float(), greatest.float()

    def redrawn(self, found: Prediction, replaced: Tensor, drawn: Tensor) -> Tensor:
        """Put them together with some of the noise's variance (b, f) replaced, and some (b, f, ...) drawn anew.

        Raises:
            ConfigError: there is no noise to draw from.
        """
        if self.noise is None:
            raise ConfigError("this sampler draws noise in every pass; give it as noise=.")
        alpha, sigma = self.process.at(self.there)
        kept = (sigma**2 - replaced).clamp_min(0).sqrt()
        mean = per_frame(alpha, self.noisy) * found.frame + per_frame(kept, self.noisy) * found.noise
        return mean + drawn.sqrt() * self.noise

    def unless_still(self, reached: Tensor) -> Tensor:
        """Leave frames whose level stays as they were."""
        return torch.where(per_frame(self.here != self.there, self.noisy), reached, self.noisy)


class Sampler(Protocol):
    """How a pass is made."""

    @property
    def stochastic(self) -> bool:
        """Whether it needs fresh noise in every pass."""
        ...

    def step(self, denoise: Denoise, this: Pass) -> tuple[Tensor, Past | None]:
        """Make a pass with a network; return the frames, and what the next pass should be given as its past.

        Raises:
            ConfigError: noise, or a prediction of the variance, is wanted and not there.
        """
        ...


@dataclass(frozen=True)
class Euler:
    """First order; on a variance-preserving chain, DDIM without noise (Song et al. 2020). One evaluation a pass."""

    @property
    def stochastic(self) -> bool:
        """No."""
        return False

    def step(self, denoise: Denoise, this: Pass) -> tuple[Tensor, None]:
        """See `Sampler.step`."""
        return this.unless_still(this.mixed(denoise(this.noisy, this.here))), None


@dataclass(frozen=True)
class Heun:
    """Second order, trapezoidal rule (Karras et al. 2022, algorithm 1). Two evaluations a pass, one in the last."""

    @property
    def stochastic(self) -> bool:
        """No."""
        return False

    def step(self, denoise: Denoise, this: Pass) -> tuple[Tensor, None]:
        """See `Sampler.step`."""
        first = denoise(this.noisy, this.here)
        reached = this.mixed(first)
        alpha, sigma = this.process.at(this.here)
        later_alpha, later_sigma = this.process.at(this.there)
        if bool((later_sigma > 0).any()):
            second = denoise(this.unless_still(reached), this.there)
            frame, error = (first.frame + second.frame) / 2, (first.noise + second.noise) / 2
            less, more = per_frame(later_sigma - sigma, this.noisy), per_frame(later_alpha - alpha, this.noisy)
            better = this.noisy + more * frame + less * error
            reached = torch.where(per_frame(later_sigma > 0, this.noisy), better, reached)
        return this.unless_still(reached), None


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

    def step(self, denoise: Denoise, this: Pass) -> tuple[Tensor, None]:
        """See `Sampler.step`."""
        found = denoise(this.noisy, this.here)
        if not self.stochastic:
            return this.unless_still(this.mixed(found)), None
        replaced = self.eta**2 * this.variances()[0]
        return this.unless_still(this.redrawn(found, replaced, per_frame(replaced, this.noisy))), None


@dataclass(frozen=True)
class Ancestral:
    """Ho et al. 2020: draws from the posterior of the chain, also of one that skips steps. One evaluation a pass.

    Attributes:
        variance: "least" (that of a known frame), "greatest" (that of unknown white ones), or "learned", between the
            two as the prediction says (Nichol and Dhariwal 2021).

    Raises:
        ConfigError: an unknown variance.
    """

    variance: Literal["least", "greatest", "learned"] = "least"

    def __post_init__(self) -> None:
        if self.variance not in ("least", "greatest", "learned"):
            raise ConfigError(f"variance must be 'least', 'greatest' or 'learned', not {self.variance!r}.")

    @property
    def stochastic(self) -> bool:
        """Always."""
        return True

    def step(self, denoise: Denoise, this: Pass) -> tuple[Tensor, None]:
        """See `Sampler.step`."""
        found = denoise(this.noisy, this.here)
        least, greatest = this.variances()
        drawn = per_frame(least if self.variance == "least" else greatest, this.noisy)
        if self.variance == "learned":
            if found.variance is None:
                raise ConfigError("the network learned no variance; sample with variance 'least' or 'greatest'.")
            low = per_frame(least, this.noisy).clamp_min(_LEAST).log()
            drawn = (low + found.variance * (drawn.clamp_min(_LEAST).log() - low)).exp()
        drawn = torch.where(per_frame(least > 0, this.noisy), drawn, 0.0)  # none in the step to a clean frame
        return this.unless_still(this.redrawn(found, least, drawn)), None


@dataclass(frozen=True)
class DPMSolver:
    """DPM-Solver++(2M): second order from what the pass before expected (Lu et al. 2022, algorithm 2).

    One evaluation a pass. The first pass and the one to a clean frame are of first order.
    """

    @property
    def stochastic(self) -> bool:
        """No."""
        return False

    def step(self, denoise: Denoise, this: Pass) -> tuple[Tensor, Past]:
        """See `Sampler.step`."""
        found, noisy, past = denoise(this.noisy, this.here), this.noisy, this.past
        alpha, sigma = this.process.at(this.here)
        later_alpha, later_sigma = this.process.at(this.there)
        step = half_log_snr(later_alpha, later_sigma) - half_log_snr(alpha, sigma)
        frame, moved = found.frame, this.here != this.there
        remembered, step_before = found.frame, torch.full_like(step, torch.inf)
        if past is not None:
            weight = torch.where(later_sigma > 0, step / (2 * past.step.clamp_min(_LEAST)), 0.0)
            frame = frame + per_frame(torch.where(past.step.isinf(), 0.0, weight), noisy) * (frame - past.frame)
            remembered = torch.where(per_frame(moved, noisy), found.frame, past.frame)
            step_before = past.step
        shrink = (later_sigma / sigma.clamp_min(_LEAST)).clamp_max(1.0)
        gain = later_alpha - alpha * later_sigma / sigma.clamp_min(_LEAST)  # alpha' (1 - exp(-step))
        reached = per_frame(shrink, noisy) * noisy + per_frame(gain, noisy) * frame
        known = alpha > 0  # from noise alone the way in log(alpha / sigma) has no length
        return this.unless_still(reached), Past(remembered, torch.where(moved & known, step, step_before))

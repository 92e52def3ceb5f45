"""Samplers: from one noise level to the next, for any process, target and arrangement of frames.

Every frame has its own level before and after a step, (b, f) each; a frame whose level stays is returned as it was. The
formulas are written in alpha and sigma (`dreamenv.diffusion.process`), of which variance-preserving chains, EDM and
flows are cases: a probability flow follows dx = x0 d(alpha) + e d(sigma), whatever the process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dreamenv.checks import check_whole
from dreamenv.diffusion.preconditioning import Prediction, per_frame
from dreamenv.diffusion.process import MAX_STEPS, NoiseProcess, half_log_snr
from dreamenv.errors import ConfigError
from dreamenv.parts import Part

__all__ = ["DDIM", "Ancestral", "DPMSolver", "Euler", "Heun", "PreviousStep", "Sampler", "SamplingStep"]

_LEAST = 1e-20


@dataclass(frozen=True)
class PreviousStep:
    """What a multistep sampler remembers of the step before.

    Attributes:
        frame: the clean frames expected then, (b, f, ...).
        step: by how much log(alpha / sigma) grew in it, (b, f); infinite where there was no such step.
    """

    frame: Tensor
    step: Tensor


@dataclass(frozen=True)
class SamplingStep:
    """One step, which brings frames from their levels to less noisy ones.

    Attributes:
        process: that made the noise.
        noisy: (b, f, ...) frames.
        level, next_level: (b, f) levels before and after.
        noise: (b, f, ...) standard normal, for stochastic samplers.
        previous: what the last step left, for multistep samplers; None in the first.
    """

    process: NoiseProcess
    noisy: Tensor
    level: Tensor
    next_level: Tensor
    noise: Tensor | None = None
    previous: PreviousStep | None = None

    def recombined(self, found: Prediction) -> Tensor:
        """Put the expected frame and noise together again, at the next level."""
        alpha, sigma = (per_frame(value, self.noisy) for value in self.process.alpha_sigma(self.next_level))
        return alpha * found.frame + sigma * found.noise

    def variances(self) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest variance of a step of the chain, (b, f) each."""
        alpha, sigma = (value.double() for value in self.process.alpha_sigma(self.level))
        later_alpha, later_sigma = (value.double() for value in self.process.alpha_sigma(self.next_level))
        greatest = (sigma**2 - (alpha / later_alpha) ** 2 * later_sigma**2).clamp_min(0)
        least = later_sigma**2 / (sigma**2).clamp_min(_LEAST) * greatest
        return least.float(), greatest.float()

    def renoised(self, found: Prediction, removed: Tensor, added: Tensor) -> Tensor:
        """Put them together, with fresh noise in place of some of the old one.

        Args:
            found: the expected frame and noise.
            removed: variance (b, f) of the old noise that is taken away.
            added: variance (b, f, ...) of the fresh noise.

        Raises:
            ConfigError: there is no fresh noise.
        """
        if self.noise is None:
            raise ConfigError("this sampler needs fresh noise in every step; give it as noise=.")
        alpha, sigma = self.process.alpha_sigma(self.next_level)
        kept = (sigma**2 - removed).clamp_min(0).sqrt()
        mean = per_frame(alpha, self.noisy) * found.frame + per_frame(kept, self.noisy) * found.noise
        return mean + added.sqrt() * self.noise

    def keep_finished(self, reached: Tensor) -> Tensor:
        """Leave frames whose level stays as they were."""
        return torch.where(per_frame(self.level != self.next_level, self.noisy), reached, self.noisy)


@dataclass(frozen=True, kw_only=True)
class Sampler(Part, ABC):
    """How a step is made, and how many.

    Attributes:
        steps: from noise to a clean frame.
        init_noise_sigma: standard deviation of the noise that a frame begins as; None takes the process's.
        quantize_x0: round the expected frame to 8 bits in every step (DIAMOND); for pixels.
        corrects: whether a step is followed by `correct`, given another prediction where it arrived.

    Raises:
        ConfigError: fewer than one step, or noise without a spread.
    """

    steps: int = 8
    init_noise_sigma: float | None = None
    quantize_x0: bool = False
    corrects: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, not {self.steps}.")
        check_whole("steps", self.steps, most=MAX_STEPS)
        if self.init_noise_sigma is not None and not self.init_noise_sigma > 0:
            raise ConfigError(f"init_noise_sigma must be positive or None, not {self.init_noise_sigma}.")

    @property
    def stochastic(self) -> bool:
        """Whether fresh noise is needed in every step."""
        return False

    @property
    def step_size(self) -> float | None:
        """Share of the way from noise that a step makes, for networks that are given it; None for all others."""
        return None

    @property
    def finest_step_size(self) -> float | None:
        """The smallest one that is learned, which goes with clean frames."""
        return None

    @abstractmethod
    def step(self, this: SamplingStep, found: Prediction) -> tuple[Tensor, PreviousStep | None]:
        """Make a step, given what a network expects of the noisy frames.

        Returns:
            The frames (b, f, ...), and what the next step should be given as ``previous``.

        Raises:
            ConfigError: noise, or a prediction of the variance, is needed and not there.
        """

    def correct(self, this: SamplingStep, found: Prediction, arrived: Prediction) -> Tensor:
        """Make the step better, given also what a network expects where it arrived; frames (b, f, ...)."""
        raise AssertionError(f"{type(self).__name__} does not correct its steps")


@dataclass(frozen=True, kw_only=True)
class Euler(Sampler, kind="euler"):
    """First order; on a variance-preserving chain, DDIM without noise (Song et al. 2020). One evaluation a step."""

    def step(self, this: SamplingStep, found: Prediction) -> tuple[Tensor, None]:
        """See `Sampler.step`."""
        return this.keep_finished(this.recombined(found)), None


@dataclass(frozen=True, kw_only=True)
class Heun(Sampler, kind="heun"):
    """Second order, trapezoidal rule (Karras et al. 2022, algorithm 1). Two evaluations a step, one in the last."""

    corrects: ClassVar[bool] = True

    def step(self, this: SamplingStep, found: Prediction) -> tuple[Tensor, None]:
        """See `Sampler.step`."""
        return this.keep_finished(this.recombined(found)), None

    def correct(self, this: SamplingStep, found: Prediction, arrived: Prediction) -> Tensor:
        """See `Sampler.correct`; the step to a clean frame stays as it was."""
        alpha, sigma = this.process.alpha_sigma(this.level)
        later_alpha, later_sigma = this.process.alpha_sigma(this.next_level)
        frame, noise = (found.frame + arrived.frame) / 2, (found.noise + arrived.noise) / 2
        less, more = per_frame(later_sigma - sigma, this.noisy), per_frame(later_alpha - alpha, this.noisy)
        better = this.noisy + more * frame + less * noise
        reached = torch.where(per_frame(later_sigma > 0, this.noisy), better, this.recombined(found))
        return this.keep_finished(reached)


@dataclass(frozen=True, kw_only=True)
class DDIM(Sampler, kind="ddim"):
    """Song et al. 2020, equation 12. One evaluation a step.

    Attributes:
        eta: share of the noise that is replaced by fresh noise; 0 replaces none, 1 is the ancestral sampler with its
            least variance.

    Raises:
        ConfigError: eta is negative or above 1, or above 0 in a single step, which ends at a clean frame.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta must be in [0, 1], not {self.eta}.")
        if self.eta and self.steps == 1:
            raise ConfigError(
                f"a single step ends without noise, so an eta of {self.eta} has no effect; leave it at 0."
            )

    @property
    def stochastic(self) -> bool:
        """If eta is positive."""
        return self.eta > 0

    def step(self, this: SamplingStep, found: Prediction) -> tuple[Tensor, None]:
        """See `Sampler.step`."""
        if not self.stochastic:
            return this.keep_finished(this.recombined(found)), None
        replaced = self.eta**2 * this.variances()[0]
        return this.keep_finished(this.renoised(found, replaced, per_frame(replaced, this.noisy))), None


@dataclass(frozen=True, kw_only=True)
class Ancestral(Sampler, kind="ancestral"):
    """Ho et al. 2020: samples from the posterior of the chain, also of one that skips steps. One evaluation a step.

    Attributes:
        variance: "least" (that of a known frame), "greatest" (that of unknown white ones), or "learned", between the
            two as the network predicts (Nichol and Dhariwal 2021).

    Raises:
        ConfigError: an unknown variance, or one of a single step, which ends at a clean frame.
    """

    variance: Literal["least", "greatest", "learned"] = "least"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance not in ("least", "greatest", "learned"):
            raise ConfigError(f"variance must be 'least', 'greatest' or 'learned', not {self.variance!r}.")
        if self.variance != "least" and self.steps == 1:
            raise ConfigError(
                f"a single step ends without noise, so variance={self.variance!r} has no effect; leave it at 'least'."
            )

    @property
    def stochastic(self) -> bool:
        """Always."""
        return True

    def step(self, this: SamplingStep, found: Prediction) -> tuple[Tensor, None]:
        """See `Sampler.step`."""
        least, greatest = this.variances()
        added = per_frame(least if self.variance == "least" else greatest, this.noisy)
        if self.variance == "learned":
            if found.variance is None:
                raise ConfigError("the network learned no variance; sample with variance 'least' or 'greatest'.")
            low = per_frame(least, this.noisy).clamp_min(_LEAST).log()
            added = (low + found.variance * (added.clamp_min(_LEAST).log() - low)).exp()
        added = torch.where(per_frame(least > 0, this.noisy), added, 0.0)  # none in the step to a clean frame
        return this.keep_finished(this.renoised(found, least, added)), None


@dataclass(frozen=True, kw_only=True)
class DPMSolver(Sampler, kind="dpm_solver"):
    """DPM-Solver++(2M): second order from what the step before expected (Lu et al. 2022, algorithm 2).

    One evaluation a step. The first step and the one to a clean frame are of first order.
    """

    def step(self, this: SamplingStep, found: Prediction) -> tuple[Tensor, PreviousStep]:
        """See `Sampler.step`."""
        noisy, previous = this.noisy, this.previous
        alpha, sigma = this.process.alpha_sigma(this.level)
        later_alpha, later_sigma = this.process.alpha_sigma(this.next_level)
        step = half_log_snr(later_alpha, later_sigma) - half_log_snr(alpha, sigma)
        frame, moved = found.frame, this.level != this.next_level
        kept, step_before = found.frame, torch.full_like(step, torch.inf)
        if previous is not None:
            weight = torch.where(later_sigma > 0, step / (2 * previous.step.clamp_min(_LEAST)), 0.0)
            frame = frame + per_frame(torch.where(previous.step.isinf(), 0.0, weight), noisy) * (frame - previous.frame)
            kept = torch.where(per_frame(moved, noisy), found.frame, previous.frame)
            step_before = previous.step
        shrink = (later_sigma / sigma.clamp_min(_LEAST)).clamp_max(1.0)
        gain = later_alpha - alpha * later_sigma / sigma.clamp_min(_LEAST)  # alpha' (1 - exp(-step))
        reached = per_frame(shrink, noisy) * noisy + per_frame(gain, noisy) * frame
        known = alpha > 0  # from noise alone the way in log(alpha / sigma) has no length
        return this.keep_finished(reached), PreviousStep(kept, torch.where(moved & known, step, step_before))

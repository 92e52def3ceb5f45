"""What a denoising network predicts. The clean frame and the noise are read from it by `preconditioning`.

Every target is a line: ``x0 = skip x + out F(scale x)`` with F the network. So noise, velocity, flow and the
preconditioned target of EDM differ in three numbers per noise level, and samplers need not know which one it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dreamenv.diffusion.process import EDM, NoiseProcess, RectifiedFlow, VariancePreserving
from dreamenv.errors import ConfigError
from dreamenv.parts import Part

__all__ = ["X0", "EDMPreconditioned", "Epsilon", "FlowVelocity", "Target", "Velocity"]

_LEAST = 1e-8


@dataclass(frozen=True, kw_only=True)
class Target(Part, ABC):
    """One target of prediction. Tensors alpha and sigma broadcast to the frames.

    Attributes:
        processes: that it goes with.
    """

    processes: ClassVar[tuple[type[NoiseProcess], ...]]

    @abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return (skip, out), shaped like alpha."""

    @abstractmethod
    def training_target(self, frame: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network should predict, given clean frames (b, f, ...) and the noise in them.

        The mean squared error against it is each source's own loss; for EDM, that is the weighting of Karras et al.
        """

    def input_scale(self, sigma: Tensor) -> Tensor:
        """Return what noisy frames are multiplied by before the network sees them, shaped like sigma."""
        return torch.ones_like(sigma)

    @property
    def context_scale(self) -> float:
        """What clean context is multiplied by before the network sees it."""
        return 1.0

    @property
    def channel_noise(self) -> float:
        """Standard deviation of further noise that is the same for all pixels of a channel, in training."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class X0(Target, kind="x0"):
    """The clean frame."""

    processes: ClassVar[tuple[type[NoiseProcess], ...]] = (VariancePreserving, EDM, RectifiedFlow)

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """See `Target`."""
        return torch.zeros_like(alpha), torch.ones_like(sigma)

    def training_target(self, frame: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """See `Target`."""
        return frame


@dataclass(frozen=True, kw_only=True)
class Epsilon(Target, kind="epsilon"):
    """The noise (Ho et al. 2020)."""

    # At the noisy end of a flow no frame is left to be found from the noise.
    processes: ClassVar[tuple[type[NoiseProcess], ...]] = (VariancePreserving, EDM)

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """See `Target`."""
        return 1 / alpha, -sigma / alpha

    def training_target(self, frame: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """See `Target`."""
        return noise


@dataclass(frozen=True, kw_only=True)
class Velocity(Target, kind="velocity"):
    """The velocity, alpha e - sigma x0 (Salimans and Ho 2022)."""

    processes: ClassVar[tuple[type[NoiseProcess], ...]] = (VariancePreserving,)

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """See `Target`."""
        return alpha, -sigma

    def training_target(self, frame: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """See `Target`."""
        return alpha * noise - sigma * frame


@dataclass(frozen=True, kw_only=True)
class FlowVelocity(Target, kind="flow_velocity"):
    """The direction of a flow, e - x0 (Lipman et al. 2022)."""

    processes: ClassVar[tuple[type[NoiseProcess], ...]] = (RectifiedFlow,)

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """See `Target`."""
        return torch.ones_like(alpha), -sigma

    def training_target(self, frame: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """See `Target`."""
        return noise - frame


@dataclass(frozen=True, kw_only=True)
class EDMPreconditioned(Target, kind="edm_preconditioned"):
    """EDM's target of unit variance (Karras et al. 2022).

    Attributes:
        sigma_data: standard deviation of the frames' values: 0.5 for pixels in [-1, 1], 1 for latents.
        offset_noise: standard deviation of noise beyond the level's that is the same for all pixels of a channel, in
            training: preconditioning takes the noise to be so much larger, as DIAMOND's does.

    Raises:
        ConfigError: a standard deviation that cannot be.
    """

    sigma_data: float = 0.5
    offset_noise: float = 0.0
    processes: ClassVar[tuple[type[NoiseProcess], ...]] = (EDM,)

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ConfigError(f"sigma_data must be positive, not {self.sigma_data}.")
        if not self.offset_noise >= 0:
            raise ConfigError(f"offset_noise must be at least 0, not {self.offset_noise}.")

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """See `Target`."""
        variance = sigma**2 + self.offset_noise**2
        total = variance + self.sigma_data**2
        return self.sigma_data**2 / total, variance.sqrt() * self.sigma_data * total.rsqrt()

    def training_target(self, frame: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """See `Target`."""
        skip, out = self.coefficients(alpha, sigma)
        return (frame - skip * (alpha * frame + sigma * noise)) / out.clamp_min(_LEAST)

    def input_scale(self, sigma: Tensor) -> Tensor:
        """See `Target`."""
        return (sigma**2 + self.offset_noise**2 + self.sigma_data**2).rsqrt()

    @property
    def context_scale(self) -> float:
        """The scale of frames without noise."""
        return 1 / self.sigma_data

    @property
    def channel_noise(self) -> float:
        """See `Target`."""
        return self.offset_noise

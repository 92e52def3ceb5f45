"""What a codec asks of its autoencoder: variational, of pictures of one or a few frames.

An autoencoder gives mean and log variance of a diagonal Gaussian over latents (Kingma and Welling 2014), on a grid
``downsample`` times coarser than the picture. Pictures are (n, c, h, w) in [-1, 1]; c may be the channels of several
frames. Ours are meant to learn from reconstruction and divergence alone, without a perceptual loss and a critic.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dreamenv.errors import ConfigError
from dreamenv.parts import Part, Training

__all__ = ["Autoencoder", "AutoencoderConfig", "CodecTraining", "divergence", "sample"]

_LOG_VARIANCE = -30.0, 20.0  # bounds, so that its exponential is neither 0 nor infinite


@dataclass(frozen=True, kw_only=True)
class CodecTraining(Training, kind="codec_training"):
    """The stage that learns a codec.

    Attributes:
        steps: optimiser steps; 0 leaves it as it is.
        batch_size: pictures (of ``temporal_stride`` frames) per step.
        learning_rate: peak rate.
        kl_weight: of the divergence from a standard normal, in nats per value of the picture, next to the squared error
            per value of the picture: both are means over the same values. 1e-6 is latent diffusion's (Rombach et al.
            2022).
        bfloat16: compute products in bfloat16, where the hardware does so natively; also those of latents that later
            stages learn from.

    Raises:
        ConfigError: a number that cannot be.
    """

    steps: int = 2000
    batch_size: int = 8
    learning_rate: float = 2e-3
    kl_weight: float = 1e-6
    bfloat16: bool = True

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1:
            raise ConfigError(
                f"steps must be at least 0 and batch_size at least 1, not {self.steps} and {self.batch_size}."
            )
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be above 0, not {self.learning_rate}.")
        if not 0 <= self.kl_weight < math.inf:
            raise ConfigError(f"kl_weight must be at least 0, not {self.kl_weight}.")


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(Part, ABC):
    """Settings of an autoencoder, and of the stage that learns it.

    Attributes:
        training: the stage.
        latent_scale: of a published codec, what latents are multiplied by to have a standard deviation of about 1; None
            where it is measured in training.
        sampled: latents are sampled from their distribution, else its mean is taken.
    """

    training: CodecTraining = CodecTraining()
    latent_scale: ClassVar[float | None] = None
    sampled: ClassVar[bool] = False

    @property
    def frames_per_latent(self) -> int:
        """Consecutive frames that one latent stands for."""
        return 1

    @abstractmethod
    def build(self, picture_shape: tuple[int, int, int]) -> Autoencoder:
        """Return the untrained autoencoder of pictures (c, h, w).

        Raises:
            ConfigError: pictures that it cannot take.
        """


def sample(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw latents so that gradients reach the mean and the variance (Kingma and Welling 2014, equation 10)."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    return mean + (log_variance / 2).exp() * noise


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the KL divergence from a standard normal, nats per latent value (Kingma and Welling 2014, appendix B)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2


class Autoencoder(nn.Module, ABC):
    """What all of them offer.

    Args:
        picture_shape: (c, h, w).
        latent_channels: values of a latent per place.
        downsample: pixels per side of a place.

    Attributes:
        latent_shape: (latent_channels, h / downsample, w / downsample).

    Raises:
        ConfigError: sizes that are not positive, or a picture that ``downsample`` does not divide.
    """

    def __init__(self, picture_shape: tuple[int, int, int], latent_channels: int, downsample: int) -> None:
        super().__init__()
        _, height, width = picture_shape
        if min(*picture_shape, latent_channels, downsample) < 1:
            raise ConfigError(
                f"pictures, latent_channels and downsample must be positive, not {picture_shape}, {latent_channels} "
                f"and {downsample}."
            )
        if height % downsample or width % downsample:
            raise ConfigError(
                f"a downsample of {downsample} does not divide pictures of {height} x {width}; resize them, or take "
                f"one that divides {math.gcd(height, width)}."
            )
        self.picture_shape = picture_shape
        self.latent_shape = latent_channels, height // downsample, width // downsample

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (n, c, h, w) in [-1, 1] -> mean and log variance, (n, C, H, W) float32 each."""
        mean, log_variance = self._encode(pictures).float().chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, C, H, W) -> pictures (n, c, h, w) float32, about [-1, 1] but not clamped."""
        return self._decode(latents).float()

    @abstractmethod
    def _encode(self, pictures: Tensor) -> Tensor:
        """Return means, then log variances, (n, 2 C, H, W)."""

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor:
        """Return pictures."""

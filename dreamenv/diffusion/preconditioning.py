"""Preconditioning: scale a network's inputs, and turn its outputs into predictions of frames and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamenv.diffusion.process import NoiseProcess
from dreamenv.diffusion.target import Target
from dreamenv.errors import ConfigError
from dreamenv.frames import quantize_uint8

__all__ = ["Preconditioning", "Prediction", "per_frame", "quantize_prediction"]

_LEAST = 1e-8


@dataclass(frozen=True)
class Prediction:
    """What a denoiser makes of noisy frames; all tensors are shaped like them.

    Attributes:
        frame: the clean frame expected.
        noise: the noise expected.
        variance: where a step's variance lies between the least and the greatest one that are possible, in [0, 1], as
            Nichol and Dhariwal (2021) learn it; None if it is not learned.
    """

    frame: Tensor
    noise: Tensor
    variance: Tensor | None = None


def per_frame(values: Tensor, frames: Tensor) -> Tensor:
    """Give values (b, f) trailing axes, so that they go with frames (b, f, c, h, w), or with latents of any shape."""
    return values.reshape(values.shape + (1,) * (frames.dim() - values.dim()))


@dataclass(frozen=True)
class Preconditioning:
    """A target of prediction for a noise process.

    Attributes:
        process: that makes the noise.
        target: what the network predicts.

    Raises:
        ConfigError: a target that does not go with the process.
    """

    process: NoiseProcess
    target: Target

    def __post_init__(self) -> None:
        if not isinstance(self.process, self.target.processes):
            kinds = ", ".join(repr(process.kind) for process in self.target.processes)
            raise ConfigError(
                f"the target {self.target.kind!r} does not go with {self.process.kind!r} noise, but with {kinds}; "
                "change one of them ('x0' goes with all)."
            )

    def scaled(self, noisy: Tensor, level: Tensor) -> Tensor:
        """Return noisy frames (b, f, ...) at levels (b, f) as the network is given them."""
        _, sigma = self.process.alpha_sigma(level)
        return noisy * per_frame(self.target.input_scale(sigma), noisy)

    def time(self, level: Tensor) -> Tensor:
        """Return what the network is given as the levels (b, f)."""
        offset = self.target.channel_noise
        return self.process.time((level**2 + offset**2).sqrt() if offset else level)

    def read(self, output: Tensor, noisy: Tensor, level: Tensor, variance: Tensor | None = None) -> Prediction:
        """Read the network's output.

        Args:
            output: shaped like the frames.
            noisy: (b, f, ...) frames, not scaled.
            level: (b, f).
            variance: see `Prediction`.
        """
        alpha, sigma = self.process.alpha_sigma(level)
        skip, out = (per_frame(value, noisy) for value in self.target.coefficients(alpha, sigma))
        frame = skip * noisy + out * output
        return Prediction(frame, _noise(frame, noisy, per_frame(alpha, noisy), per_frame(sigma, noisy)), variance)

    def training_target(self, frame: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Return what the network should predict, given clean frames (b, f, ...) and the noise in them."""
        alpha, sigma = (per_frame(value, frame) for value in self.process.alpha_sigma(level))
        return self.target.training_target(frame, noise, alpha, sigma)


def quantize_prediction(found: Prediction, noisy: Tensor, level: Tensor, process: NoiseProcess) -> Prediction:
    """Round the expected frame down to one of 256 values in [-1, 1], as DIAMOND does, and change the noise with it."""
    frame = quantize_uint8((found.frame.clamp(-1, 1) + 1) / 2, floor=True) * 2 - 1
    alpha, sigma = (per_frame(value, noisy) for value in process.alpha_sigma(level))
    return Prediction(frame, _noise(frame, noisy, alpha, sigma), found.variance)


def _noise(frame: Tensor, noisy: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    noise = (noisy - alpha * frame) / sigma.clamp_min(_LEAST)
    return torch.where(sigma > 0, noise, torch.zeros_like(noise))

"""What a denoising network predicts, and how the clean frame and the noise are read from it.

Every target is a line: ``x0 = skip x + out F(scale x)`` with F the network. So noise, velocity, flow and the
preconditioned target of EDM differ in three numbers per noise level, and samplers never ask which one it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dreamenv.diffusion.processes import Flow, Karras, NoiseProcess, VariancePreserving
from dreamenv.errors import ConfigError

__all__ = ["Prediction", "Target", "TargetName", "cut_off", "per_frame"]

TargetName = Literal["frame", "noise", "velocity", "flow", "edm"]

_LEAST = 1e-8

_GOES_WITH: dict[str, tuple[type, ...]] = {
    "frame": (VariancePreserving, Karras, Flow),
    "noise": (VariancePreserving, Karras),  # at the noisy end of a flow no frame is left to be found from the noise
    "velocity": (VariancePreserving,),
    "flow": (Flow,),
    "edm": (Karras,),
}


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


@dataclass(frozen=True, kw_only=True)
class Target:
    """One target of prediction for one noise process.

    Attributes:
        name: "frame" (the clean one), "noise" (Ho et al. 2020), "velocity" (Salimans and Ho 2022: alpha e - sigma x0),
            "flow" (e - x0), or "edm" (Karras et al. 2022, preconditioned).
        process: that makes the noise.
        data_std: standard deviation of the frames' values, for "edm".
        offset: standard deviation of noise beyond the level's that is the same for all pixels of a channel, for "edm":
            preconditioning takes the noise to be so much larger, as DIAMOND's does.

    Raises:
        ConfigError: an unknown target, or one that does not go with the process.
    """

    name: TargetName
    process: NoiseProcess
    data_std: float = 0.5
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in get_args(TargetName):
            raise ConfigError(f"target must be one of {', '.join(get_args(TargetName))}, not {self.name!r}.")
        fitting = _GOES_WITH[self.name]
        if not isinstance(self.process, fitting):
            would = [name for name, kinds in _GOES_WITH.items() if isinstance(self.process, kinds)]
            raise ConfigError(
                f"the target {self.name!r} does not go with {type(self.process).__name__} noise, but with "
                f"{', '.join(kind.__name__ for kind in fitting)}; with this noise, {', '.join(would)} would do."
            )

    def scale(self, level: Tensor) -> Tensor:
        """What noisy frames are multiplied by before the network sees them, shaped like the level."""
        _, sigma = self.process.at(level)
        return (sigma**2 + self.offset**2 + self.data_std**2).rsqrt() if self.name == "edm" else torch.ones_like(sigma)

    def read(self, output: Tensor, noisy: Tensor, level: Tensor, variance: Tensor | None = None) -> Prediction:
        """Read what a network said.

        Args:
            output: of the network, shaped like the frames.
            noisy: (b, f, ...) frames, not scaled.
            level: (b, f).
            variance: see `Prediction`.
        """
        alpha, sigma, skip, out = (per_frame(value, noisy) for value in self._line(level))
        frame = skip * noisy + out * output
        noise = (noisy - alpha * frame) / sigma.clamp_min(_LEAST)
        return Prediction(frame, torch.where(sigma > 0, noise, torch.zeros_like(noise)), variance)

    def lesson(self, frame: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What the network should say, given the clean frames (b, f, ...) and the noise in them.

        The mean squared error against it is each source's own loss; for "edm", that is the weighting of Karras et al.
        """
        alpha, sigma = (per_frame(value, frame) for value in self.process.at(level))
        if self.name == "frame":
            return frame
        if self.name == "noise":
            return noise
        if self.name == "velocity":
            return alpha * noise - sigma * frame
        if self.name == "flow":
            return noise - frame
        _, _, skip, out = (per_frame(value, frame) for value in self._line(level))
        return (frame - skip * (alpha * frame + sigma * noise)) / out.clamp_min(_LEAST)

    def _line(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (alpha, sigma, skip, out), each shaped like the level."""
        alpha, sigma = self.process.at(level)
        if self.name == "frame":
            return alpha, sigma, torch.zeros_like(alpha), torch.ones_like(alpha)
        if self.name == "noise":
            return alpha, sigma, 1 / alpha, -sigma / alpha
        if self.name == "velocity":
            return alpha, sigma, alpha, -sigma
        if self.name == "flow":
            return alpha, sigma, torch.ones_like(alpha), -sigma
        spread = sigma**2 + self.offset**2
        total = spread + self.data_std**2
        return alpha, sigma, self.data_std**2 / total, spread.sqrt() * self.data_std * total.rsqrt()


def cut_off(found: Prediction, noisy: Tensor, level: Tensor, process: NoiseProcess) -> Prediction:
    """Cut the expected frame off to the next lower of 256 values in [-1, 1], as DIAMOND does, and the noise with it."""
    frame = ((found.frame.clamp(-1, 1) + 1) / 2 * 255).floor() / 255 * 2 - 1
    alpha, sigma = (per_frame(value, noisy) for value in process.at(level))
    noise = (noisy - alpha * frame) / sigma.clamp_min(_LEAST)
    return Prediction(frame, torch.where(sigma > 0, noise, torch.zeros_like(noise)), found.variance)

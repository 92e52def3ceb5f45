"""Frames to normalised latents and back, by any autoencoder.

A latent (C, H, W) stands for ``stride`` consecutive frames, stacked as channels of one picture: time is compressed by
the autoencoder as space is, and nothing is seen of frames before or after them. Latents are given normalised, so
that noise processes made for data of mean 0 and variance 1 fit. Letters: r is the stride, f latents along time.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from dreamenv.codecs.base import AutoencoderConfig, divergence, sample
from dreamenv.errors import FrameError
from dreamenv.nn.precision import autocast

__all__ = ["Codec"]

_PACE = 0.02  # of `Codec.update_statistics`: the statistics of the last 50 batches or so
_LEAST_STD = 1e-4  # of a latent channel that does not change; dividing by less would make rounding errors large


class Codec(nn.Module):
    """The autoencoder, and the mean and standard deviation of its latents. Every row is coded by itself.

    Args:
        config: of the autoencoder.
        frame_shape: (c, h, w).

    Attributes:
        stride: frames per latent.
        latent_shape: (C, H, W).
        sampled: whether `encode` of what a dream remembers takes noise, to sample from the posterior.
        latent_mean, latent_std: (C, 1, 1), saved with the weights; 0 and 1 until it learns, or as published.

    Raises:
        ConfigError: frames that the autoencoder cannot take.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: AutoencoderConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        c, h, w = frame_shape
        self.config, self.frame_shape = config, frame_shape
        self.stride, self.sampled = config.frames_per_latent, config.sampled
        self.autoencoder = config.build((self.stride * c, h, w))
        self.latent_shape = self.autoencoder.latent_shape
        self.register_buffer("latent_mean", torch.zeros(self.latent_shape[0], 1, 1))
        std = 1.0 if config.latent_scale is None else 1 / config.latent_scale
        self.register_buffer("latent_std", torch.full((self.latent_shape[0], 1, 1), std))

    @property
    def networks(self) -> tuple[tuple[nn.Module, str], ...]:
        """What may be compiled while it is trained, see `dreamenv.world_model.Stage`."""
        return (self.autoencoder, "encode"), (self.autoencoder, "decode")

    def encode(self, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the posterior's mean, normalised.

        Args:
            frames: (b, r f, c, h, w) float32 in [0, 1].
            noise: (b, f, C, H, W) standard normal, to sample from the posterior instead.

        Returns:
            Latents (b, f, C, H, W) float32.

        Raises:
            FrameError: frames of another shape or type, or a number of them that the stride does not divide.
        """
        mean, log_variance = self.autoencoder.encode(self._pictures(frames))
        if noise is not None:
            mean = mean + (log_variance / 2).exp() * noise.flatten(0, 1)
        normal = (mean - self.latent_mean) / self.latent_std
        latents: Tensor = rearrange(normal, "(b f) ... -> b f ...", f=frames.shape[1] // self.stride)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, f, C, H, W) -> frames (b, r f, c, h, w) in [0, 1].

        Raises:
            FrameError: latents of another shape.
        """
        if latents.ndim != 5 or tuple(latents.shape[2:]) != self.latent_shape:
            raise FrameError(
                f"latents must be (b, f, {', '.join(map(str, self.latent_shape))}), not {tuple(latents.shape)}."
            )
        f, r = latents.shape[1], self.stride
        pictures = self.autoencoder.decode(latents.flatten(0, 1) * self.latent_std + self.latent_mean)
        frames: Tensor = rearrange(pictures, "(b f) (r c) h w -> b (f r) c h w", f=f, r=r)
        return ((frames + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def features(self, frames: Tensor) -> Tensor:
        """Encode frames for other networks to learn from, in the precision of training; see `encode`."""
        with autocast(frames.device, self.config.training.bfloat16):
            return self.encode(frames)

    @torch.no_grad()
    def update_statistics(self, mean: Tensor) -> None:
        """Let the latents' mean and deviation follow posterior means (n, C, H, W), as `loss` does in training."""
        variance, centre = torch.var_mean(mean.float(), dim=(0, 2, 3), correction=0)
        strayed = centre[:, None, None] - self.latent_mean
        spread = torch.lerp(self.latent_std**2, variance[:, None, None] + strayed**2, _PACE)
        self.latent_mean.add_(_PACE * strayed)
        self.latent_std.copy_(spread.sqrt().clamp_min(_LEAST_STD))

    def loss(self, frames: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss: the squared error of a sampled latent's reconstruction, and a small share of the divergence.

        Args:
            frames: (n, r, c, h, w) float32 in [0, 1]; or (n, r f, c, h, w), which count as n f rows.
            generator: of the sample.

        Returns:
            The loss, and to log: ``reconstruction``, mean squared error of values in [-1, 1]; ``kl``, nats per value of
            the picture; ``psnr_db``, of that error in decibels.

        Raises:
            FrameError: frames of another shape or type.
        """
        pictures = self._pictures(frames)
        with autocast(pictures.device, self.config.training.bfloat16 and self.training):
            mean, log_variance = self.autoencoder.encode(pictures)
            decoded = self.autoencoder.decode(sample(mean, log_variance, generator))
        if self.training and self.config.latent_scale is None:
            self.update_statistics(mean)
        reconstruction = (decoded - pictures).square().mean()
        kl = divergence(mean, log_variance).sum() / pictures.numel()
        psnr = 10 * (4 / reconstruction.detach().clamp_min(1e-10)).log10()  # 4: the square of the range from -1 to 1
        logged = {"reconstruction": reconstruction.detach(), "kl": kl.detach(), "psnr_db": psnr}
        return reconstruction + self.config.training.kl_weight * kl, logged

    def _pictures(self, frames: Tensor) -> Tensor:
        """(b, r f, c, h, w) in [0, 1] -> (b f, r c, h, w) in [-1, 1]."""
        if frames.ndim != 5 or tuple(frames.shape[2:]) != self.frame_shape or frames.dtype != torch.float32:
            raise FrameError(
                f"frames must be (b, t, {', '.join(map(str, self.frame_shape))}) float32 in [0, 1], "
                f"not {tuple(frames.shape)} {frames.dtype}."
            )
        r = self.stride
        if frames.shape[1] == 0 or frames.shape[1] % r:
            raise FrameError(
                f"the number of frames must be a positive multiple of the stride, {r}, not {frames.shape[1]}."
            )
        return 2 * rearrange(frames, "b (f r) c h w -> (b f) (r c) h w", r=r) - 1

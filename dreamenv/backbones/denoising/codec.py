"""Frames to latents and back, for a denoising world that dreams in latents.

A latent (C, H, W) stands for ``stride`` consecutive frames, stacked as channels of one picture: time is compressed by
the autoencoder as space is, and nothing is seen of frames before or after them. Outside, latents are normalised, so
that noise processes made for data of mean 0 and variance 1 fit. Letters: r is the stride, f latents along time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from dreamenv.errors import ConfigError, FrameError, UnknownNameError
from dreamenv.nn.autoencoders import ConvVAE, PictureVAE, ViTVAE, divergence, halvings, sample
from dreamenv.public.parts import CodecPart

__all__ = ["Codec", "CodecConfig"]

_PACE = 0.02  # of `Codec.follow`: the measure of the last 50 batches or so
_LEAST_STD = 1e-4  # of a latent channel that does not change; dividing by less would make rounding errors large


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Settings of a codec, an autoencoder of its own training stage.

    The defaults are for frames of 64 x 64 on two CPU cores: places of 4 x 4 pixels learn fastest. For as many values in
    a quarter of the places, so that a transformer has fewer tokens, take ``downsample=8, latent_channels=16``; a "vit"
    learns better at half the rate.

    Attributes:
        kind: "conv", residual convolutions (`dreamenv.nn.autoencoders.ConvVAE`), or "vit", a transformer over patches
            (`dreamenv.nn.autoencoders.ViTVAE`).
        stride: frames per latent along time.
        downsample: pixels per side of a latent's place; for "conv", ``patch`` times a power of two.
        latent_channels: values of a latent per place.
        channels: of the convolutions' resolutions, finest first; the last is repeated, and those beyond are not used.
        blocks: of convolutions, per resolution and direction.
        patch: pixels per side that convolutions gather into channels first.
        width: of the transformer's tokens.
        depth: blocks of the transformer, per direction.
        heads: of attention.
        kl_weight: of the divergence from a standard normal, in nats per value of the picture, beside the squared error
            per value of the picture: both are means over the same r c h w values. 1e-6 is latent diffusion's (Rombach
            et al. 2022).
        steps: optimiser steps of the stage that learns the codec.
        batch: pictures (of r frames) per step of it.
        rate: peak learning rate of it.

    Raises:
        ConfigError: a setting that cannot work.
    """

    kind: Literal["conv", "vit"] = "conv"
    stride: int = 1
    downsample: int = 4
    latent_channels: int = 4
    channels: tuple[int, ...] = (32, 64, 96)
    blocks: int = 1
    patch: int = 2
    width: int = 192
    depth: int = 2
    heads: int = 4
    kl_weight: float = 1e-6
    steps: int = 2000
    batch: int = 8
    rate: float = 2e-3

    def __post_init__(self) -> None:
        if self.kind not in ("conv", "vit"):
            raise ConfigError(f"kind must be 'conv' or 'vit', not {self.kind!r}.")
        sizes = ("stride", "downsample", "latent_channels", "blocks", "patch", "width", "depth", "heads", "steps")
        for name in (*sizes, "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive, at least one, not {self.channels}.")
        if not 0 <= self.kl_weight < math.inf:
            raise ConfigError(f"kl_weight must be at least 0, not {self.kl_weight}.")
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"rate must be above 0, not {self.rate}.")
        if self.kind == "conv":
            halvings(self.downsample, self.patch)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CodecConfig:
        """Read back what ``dataclasses.asdict`` gave, with lists for tuples.

        Raises:
            UnknownNameError: a setting that there is not.
        """
        known = [entry.name for entry in fields(cls)]
        for name in values:
            if name not in known:
                raise UnknownNameError("setting of a codec", name, known)
        settings: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in values.items()}
        return cls(**settings)

    def autoencoder(self, frame_shape: tuple[int, int, int]) -> PictureVAE:
        """Make the untrained autoencoder of ``stride`` frames (c, h, w)."""
        c, h, w = frame_shape
        shape = self.stride * c, h, w
        if self.kind == "vit":
            return ViTVAE(shape, self.latent_channels, self.downsample, self.width, self.depth, self.heads)
        return ConvVAE(shape, self.latent_channels, self.downsample, self.channels, self.blocks, self.patch)


class Codec(nn.Module):
    """The autoencoder, and the mean and standard deviation of its latents. Every row is coded by itself.

    Args:
        config: its settings.
        frame_shape: (c, h, w).

    Attributes:
        latent_shape: (C, H, W).
        latent_mean, latent_std: (C, 1, 1), saved with the weights; 0 and 1 until it learns.

    Raises:
        ConfigError: frames that ``config.downsample`` does not divide.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: CodecConfig | CodecPart, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config, self.frame_shape = config, frame_shape
        self.fixed = not isinstance(config, CodecConfig)  # a published codec's measure is part of what was published
        self.sampled = isinstance(config, CodecPart) and config.sampled
        self.autoencoder = config.autoencoder(frame_shape)
        self.latent_shape = self.autoencoder.latent_shape
        self.register_buffer("latent_mean", torch.zeros(self.latent_shape[0], 1, 1))
        std = 1 / config.scale if isinstance(config, CodecPart) else 1.0
        self.register_buffer("latent_std", torch.full((self.latent_shape[0], 1, 1), std))

    def encode(self, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the posterior's mean, normalised.

        Args:
            frames: (b, r f, c, h, w) float32 in [0, 1].
            noise: (b, f, C, H, W) standard normal, to draw from the posterior instead.

        Returns:
            Latents (b, f, C, H, W) float32.

        Raises:
            FrameError: frames of another shape or type, or a number of them that the stride does not divide.
        """
        mean, log_variance = self.autoencoder.encode(self._pictures(frames))
        if noise is not None:
            mean = mean + (log_variance / 2).exp() * noise.flatten(0, 1)
        normal = (mean - self.latent_mean) / self.latent_std
        latents: Tensor = rearrange(normal, "(b f) ... -> b f ...", f=frames.shape[1] // self.config.stride)
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
        f, r = latents.shape[1], self.config.stride
        pictures = self.autoencoder.decode(latents.flatten(0, 1) * self.latent_std + self.latent_mean)
        frames: Tensor = rearrange(pictures, "(b f) (r c) h w -> b (f r) c h w", f=f, r=r)
        return ((frames + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def follow(self, mean: Tensor) -> None:
        """Let the measure of latents follow posterior means (n, C, H, W), as `loss` does in training."""
        variance, centre = torch.var_mean(mean.float(), dim=(0, 2, 3), correction=0)
        strayed = centre[:, None, None] - self.latent_mean
        spread = torch.lerp(self.latent_std**2, variance[:, None, None] + strayed**2, _PACE)
        self.latent_mean.add_(_PACE * strayed)
        self.latent_std.copy_(spread.sqrt().clamp_min(_LEAST_STD))

    def loss(self, frames: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what to minimise: the squared error of a drawn latent's pictures, and a little of the divergence.

        Args:
            frames: (n, r, c, h, w) float32 in [0, 1]; or (n, r f, c, h, w), which count as n f rows.
            generator: of the draw.

        Returns:
            The loss, and to log: ``reconstruction``, mean squared error of values in [-1, 1]; ``kl``, nats per value of
            the picture; ``psnr_db``, of that error in decibels.

        Raises:
            FrameError: frames of another shape or type.
        """
        pictures = self._pictures(frames)
        mean, log_variance = self.autoencoder.encode(pictures)
        if self.training and not self.fixed:
            self.follow(mean)
        drawn = self.autoencoder.decode(sample(mean, log_variance, generator))
        reconstruction = (drawn - pictures).square().mean()
        kl = divergence(mean, log_variance).sum() / pictures.numel()
        psnr = 10 * (4 / reconstruction.detach().clamp_min(1e-10)).log10()  # 4: the square of the range from -1 to 1
        logged = {"reconstruction": reconstruction.detach(), "kl": kl.detach(), "psnr_db": psnr}
        return reconstruction + self.config.kl_weight * kl, logged

    def _pictures(self, frames: Tensor) -> Tensor:
        """(b, r f, c, h, w) in [0, 1] -> (b f, r c, h, w) in [-1, 1]."""
        if frames.ndim != 5 or tuple(frames.shape[2:]) != self.frame_shape or frames.dtype != torch.float32:
            raise FrameError(
                f"frames must be (b, t, {', '.join(map(str, self.frame_shape))}) float32 in [0, 1], "
                f"not {tuple(frames.shape)} {frames.dtype}."
            )
        r = self.config.stride
        if frames.shape[1] == 0 or frames.shape[1] % r:
            raise FrameError(
                f"the number of frames must be a positive multiple of the stride, {r}, not {frames.shape[1]}."
            )
        return 2 * rearrange(frames, "b (f r) c h w -> (b f) (r c) h w", r=r) - 1

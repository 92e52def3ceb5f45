"""Variational autoencoders of pictures, for worlds that dream in latents.

Both give mean and log variance of a diagonal Gaussian over latents (Kingma and Welling 2014), on a grid ``downsample``
times coarser than the picture. Pictures are (n, c, h, w) in [-1, 1]; c may be the channels of several frames. They are
meant to learn from reconstruction and divergence alone, without the perceptual loss and the critic of the originals.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.attention import SpaceAttention
from dreamenv.nn.pieces import in_pieces

__all__ = ["ConvVAE", "PictureVAE", "ViTVAE", "divergence", "halvings", "sample"]

_GROUPS = 8  # of channels normalised together, where they divide the channels
_LOG_VARIANCE = -30.0, 20.0  # bounds, so that its exponential is neither 0 nor infinite


def sample(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw latents so that gradients reach the mean and the variance (Kingma and Welling 2014, equation 10)."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    return mean + (log_variance / 2).exp() * noise


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the KL divergence from a standard normal, nats per latent value (Kingma and Welling 2014, appendix B)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2


def halvings(downsample: int, patch: int = 1) -> int:
    """Return how often a side is halved, after patches, until it is ``downsample`` times shorter.

    Raises:
        ConfigError: a downsample that is not the patch times a power of two.
    """
    count = max(0, downsample // max(1, patch)).bit_length() - 1
    if patch < 1 or count < 0 or patch * 2**count != downsample:
        raise ConfigError(
            f"downsample must be the patch ({patch}) times a power of two, not {downsample}: "
            f"{', '.join(str(max(1, patch) * 2**i) for i in range(4))}, ..."
        )
    return count


class PictureVAE(nn.Module, ABC):
    """What both offer.

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


class ConvVAE(PictureVAE):
    """Residual convolutions, as latent diffusion's (Rombach et al. 2022), but without attention at the coarsest maps.

    Args:
        picture_shape: (c, h, w).
        latent_channels: values of a latent per place.
        downsample: pixels per side of a place: ``patch`` times a power of two.
        channels: of each resolution, finest first; each is half the one before. The last is repeated if there are more
            resolutions, and those beyond the coarsest are not used.
        blocks: per resolution and direction.
        patch: pixels per side that are gathered into channels first; 2 makes it four times as fast, and coarser.

    Raises:
        ConfigError: sizes that are not positive, a downsample that is not the patch times a power of two, or one that
            does not divide the picture.
    """

    def __init__(
        self,
        picture_shape: tuple[int, int, int],
        latent_channels: int,
        downsample: int,
        channels: Sequence[int],
        blocks: int = 1,
        patch: int = 1,
    ) -> None:
        super().__init__(picture_shape, latent_channels, downsample)
        if not channels or min(channels) < 1 or blocks < 1:
            raise ConfigError(f"channels and blocks must be positive, not {tuple(channels)} and {blocks}.")
        widths = [channels[min(i, len(channels) - 1)] for i in range(halvings(downsample, patch) + 1)]
        values, width = picture_shape[0] * patch**2, widths[0]
        self._values = width * picture_shape[1] * picture_shape[2] // patch**2
        down: list[nn.Module] = [nn.PixelUnshuffle(patch), nn.Conv2d(values, width, 3, padding=1)]
        for index, wide in enumerate(widths):
            if index > 0:
                down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
            down += _stage(width, wide, blocks)
            width = wide
        down += [_norm(width), nn.SiLU(), nn.Conv2d(width, 2 * latent_channels, 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(latent_channels, width, 3, padding=1)]
        for index, wide in enumerate(reversed(widths)):
            if index > 0:
                up += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)]
            up += _stage(width, wide, blocks)
            width = wide
        up += [_norm(width), nn.SiLU(), nn.Conv2d(width, values, 3, padding=1), nn.PixelShuffle(patch)]
        self.down, self.up = nn.Sequential(*down), nn.Sequential(*up)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _encode(self, pictures: Tensor) -> Tensor:
        return in_pieces(self.down, self._values, pictures.contiguous(memory_format=torch.channels_last))

    def _decode(self, latents: Tensor) -> Tensor:
        return in_pieces(self.up, self._values, latents.contiguous(memory_format=torch.channels_last))


class ViTVAE(PictureVAE):
    """A transformer over patches with a linear bottleneck per token, as Oasis's (Decart and Etched 2024).

    Args:
        picture_shape: (c, h, w).
        latent_channels: values of a latent per token.
        downsample: pixels per side of a token.
        width: of tokens.
        depth: blocks per direction.
        heads: of attention; each is a multiple of 4 wide.

    Raises:
        ConfigError: sizes that are not positive, a downsample that does not divide the picture, or a width that the
            heads do not divide.
    """

    def __init__(
        self,
        picture_shape: tuple[int, int, int],
        latent_channels: int,
        downsample: int,
        width: int,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__(picture_shape, latent_channels, downsample)
        if width < 1 or depth < 1:
            raise ConfigError(f"width and depth must be positive, not {width} and {depth}.")
        self.downsample, values = downsample, picture_shape[0] * downsample**2

        def blocks() -> list[nn.Module]:
            return [_Transformer(width, heads, *self.latent_shape[1:]) for _ in range(depth)] + [nn.LayerNorm(width)]

        self.down = nn.Sequential(nn.Linear(values, width), *blocks(), nn.Linear(width, 2 * latent_channels))
        self.up = nn.Sequential(nn.Linear(latent_channels, width), *blocks(), nn.Linear(width, values))

    def _encode(self, pictures: Tensor) -> Tensor:
        p, (_, rows, columns) = self.downsample, self.latent_shape
        moments = self.down(rearrange(pictures, "n c (y p) (x q) -> n 1 (y x) (c p q)", p=p, q=p))
        maps: Tensor = rearrange(moments, "n 1 (y x) m -> n m y x", y=rows, x=columns)
        return maps

    def _decode(self, latents: Tensor) -> Tensor:
        p, (_, rows, columns) = self.downsample, self.latent_shape
        patches = self.up(rearrange(latents, "n m y x -> n 1 (y x) m"))
        pictures: Tensor = rearrange(patches, "n 1 (y x) (c p q) -> n c (y p) (x q)", y=rows, x=columns, p=p, q=p)
        return pictures


class _Residual(nn.Module):
    """Two convolutions, each after a normalisation, beside a shortcut. At first it changes nothing."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.inner = nn.Sequential(
            _norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1), _norm(outputs), nn.SiLU(), second
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        for parameter in second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)."""
        return self.shortcut(maps) + self.inner(maps)  # type: ignore[no-any-return]


class _Transformer(nn.Module):
    """Attention over all places, then a feed-forward network, each after a normalisation and beside a shortcut."""

    def __init__(self, width: int, heads: int, rows: int, columns: int) -> None:
        super().__init__()
        self.attention = SpaceAttention(width, heads, rows, columns)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, 1, places, width) -> the same shape."""
        tokens = tokens + self.attention(self.before(tokens))
        inner = functional.gelu(self.expand(self.between(tokens)), approximate="tanh")
        return tokens + self.contract(inner)  # type: ignore[no-any-return]


def _stage(inputs: int, outputs: int, blocks: int) -> list[_Residual]:
    return [_Residual(inputs if block == 0 else outputs, outputs) for block in range(blocks)]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)

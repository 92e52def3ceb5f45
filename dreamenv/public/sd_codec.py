"""Stable Diffusion's autoencoder (Rombach et al. 2022), whose latents Navigation World Models draw.

Residual convolutions over halved and doubled resolutions, and one attention over all places of the coarsest maps in
each direction. It computes what ``AutoencoderKL`` of the library `diffusers` computes with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.attention import attend
from dreamenv.nn.autoencoders import PictureVAE
from dreamenv.nn.pieces import in_pieces

__all__ = ["SDAutoencoder", "SDCodecSizes"]

_EPSILON = 1e-6  # of normalisations


@dataclass(frozen=True, kw_only=True)
class SDCodecSizes:
    """Sizes, and the settings of training it further. The defaults are what was published.

    Attributes:
        kind: its name.
        channels: of the resolutions, finest first; each is half the one before.
        blocks: residual blocks per resolution on the way down; one more on the way up.
        latent_channels: values of a latent per place.
        groups: of channels normalised together.
        stride: frames per latent.
        steps: optimiser steps of the stage that learns it.
        batch: pictures per step.
        rate: peak learning rate.
        kl_weight: of the divergence beside the squared error.
        sampled: a latent is drawn from its distribution, as NWM does.
        scale: what latents are multiplied by before they are drawn.

    Raises:
        ConfigError: sizes that cannot be.
    """

    kind: str = "sd codec"
    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4
    groups: int = 32
    stride: int = 1
    steps: int = 2000
    batch: int = 4
    rate: float = 1e-5
    kl_weight: float = 1e-6
    sampled: bool = True
    scale: float = 0.18215

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive, at least one, not {self.channels}.")
        for name in ("blocks", "latent_channels", "groups", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        odd = [width for width in self.channels if width % self.groups]
        if odd:
            raise ConfigError(f"{self.groups} groups do not divide {odd[0]} channels.")
        if self.stride != 1:
            raise ConfigError(f"this codec has one latent per frame: stride must be 1, not {self.stride}.")
        if not self.scale > 0:
            raise ConfigError(f"scale must be positive, not {self.scale}.")

    @property
    def downsample(self) -> int:
        """Pixels per side of a latent's place."""
        return int(2 ** (len(self.channels) - 1))

    def autoencoder(self, frame_shape: tuple[int, int, int]) -> SDAutoencoder:
        """Make the untrained autoencoder of frames (c, h, w)."""
        return SDAutoencoder(self, frame_shape)


class SDAutoencoder(PictureVAE):
    """The autoencoder.

    Args:
        sizes: of it.
        picture_shape: (c, h, w).

    Raises:
        ConfigError: a picture that the resolutions do not divide.
    """

    def __init__(self, sizes: SDCodecSizes, picture_shape: tuple[int, int, int]) -> None:
        super().__init__(picture_shape, sizes.latent_channels, sizes.downsample)
        values, moments = picture_shape[0], 2 * sizes.latent_channels
        widest, finest = sizes.channels[-1], sizes.channels[0]
        self._values = finest * picture_shape[1] * picture_shape[2]
        self.enter = _convolution(values, finest)
        self.down = nn.ModuleList(_stages(sizes.channels, sizes.blocks, sizes.groups, halved=True))
        self.inner_down = _Inner(widest, sizes.groups)
        self.end_down, self.leave_down = _norm(widest, sizes.groups), _convolution(widest, moments)
        self.moments = nn.Conv2d(moments, moments, 1)
        self.latents = nn.Conv2d(sizes.latent_channels, sizes.latent_channels, 1)
        self.enter_up = _convolution(sizes.latent_channels, widest)
        self.inner_up = _Inner(widest, sizes.groups)
        self.up = nn.ModuleList(_stages(sizes.channels[::-1], sizes.blocks + 1, sizes.groups, halved=False))
        self.end_up, self.leave = _norm(finest, sizes.groups), _convolution(finest, values)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _encode(self, pictures: Tensor) -> Tensor:
        return in_pieces(self._told, self._values, pictures.contiguous(memory_format=torch.channels_last))

    def _decode(self, latents: Tensor) -> Tensor:
        return in_pieces(self._drawn, self._values, latents.contiguous(memory_format=torch.channels_last))

    def _told(self, pictures: Tensor) -> Tensor:
        maps = self.enter(pictures)
        for stage in self.down:
            maps = stage(maps)
        maps = self.leave_down(functional.silu(self.end_down(self.inner_down(maps))))
        moments: Tensor = self.moments(maps)
        return moments

    def _drawn(self, latents: Tensor) -> Tensor:
        maps = self.inner_up(self.enter_up(self.latents(latents)))
        for stage in self.up:
            maps = stage(maps)
        pictures: Tensor = self.leave(functional.silu(self.end_up(maps)))
        return pictures


class _Stage(nn.Module):
    """Residual blocks at one resolution, and a convolution that leads to the next one, if there is one."""

    def __init__(self, inputs: int, outputs: int, blocks: int, groups: int, resize: nn.Module | None) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.blocks = nn.ModuleList(_Residual(a, b, groups) for a, b in pairwise(widths))
        self.resize = resize

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h', w')."""
        for block in self.blocks:
            maps = block(maps)
        return maps if self.resize is None else self.resize(maps)


class _Residual(nn.Module):
    """Two convolutions, each after a normalisation, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.before, self.first = _norm(inputs, groups), _convolution(inputs, outputs)
        self.between, self.second = _norm(outputs, groups), _convolution(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)."""
        inner = self.first(functional.silu(self.before(maps)))
        inner = self.second(functional.silu(self.between(inner)))
        return inner + (maps if self.shortcut is None else self.shortcut(maps))  # type: ignore[no-any-return]


class _Inner(nn.Module):
    """What happens at the coarsest resolution: two residual blocks with attention over all places between them."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Residual(width, width, groups) for _ in range(2))
        self.norm = _norm(width, groups)
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, width, h, w) -> the same shape."""
        first, second = self.blocks
        maps = first(maps)
        places = rearrange(self.norm(maps), "n c y x -> n 1 (y x) c")
        seen = attend(self.query(places), self.key(places), self.value(places))
        attended = rearrange(self.out(seen), "n 1 (y x) c -> n c y x", y=maps.shape[2])
        result: Tensor = second(maps + attended)
        return result


class _Half(nn.Conv2d):
    """Halves each side. The picture is continued by zeros at its right and lower end alone."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h / 2, w / 2)."""
        return super().forward(functional.pad(maps, (0, 1, 0, 1)))


class _Double(nn.Conv2d):
    """Repeats every place twice per side, then smooths."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, 2 h, 2 w)."""
        return super().forward(functional.interpolate(maps, scale_factor=2.0, mode="nearest"))


def _stages(widths: tuple[int, ...], blocks: int, groups: int, *, halved: bool) -> Iterator[_Stage]:
    """Make stages of so many blocks; all but the last halve or double."""
    for index, (inputs, outputs) in enumerate(pairwise((widths[0], *widths))):
        last = index == len(widths) - 1
        yield _Stage(inputs, outputs, blocks, groups, None if last else (_Half if halved else _Double)(outputs))


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=_EPSILON)

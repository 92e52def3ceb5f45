"""The networks of a tokenizer: frames to maps of vectors on a grid, and back.

Letters: ``d`` numbers of a vector, ``y x`` places.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamenv.errors import ConfigError
from dreamenv.nn.batching import map_in_chunks
from dreamenv.nn.pixels import down_network, up_network
from dreamenv.parts import Part

__all__ = ["ConvGrid", "ConvGridConfig", "Grid", "GridConfig", "check_divides"]


@dataclass(frozen=True, kw_only=True)
class GridConfig(Part, ABC):
    """Settings of the networks."""

    @property
    @abstractmethod
    def downsample(self) -> int:
        """Pixels per side of a place."""

    @abstractmethod
    def build(self, frame_shape: tuple[int, int, int], width: int) -> Grid:
        """Return the untrained networks.

        Args:
            frame_shape: (c, h, w).
            width: d.

        Raises:
            ConfigError: frames that they cannot take.
        """


class Grid(nn.Module, ABC):
    """What all of them offer.

    Args:
        frame_shape: (c, h, w).
        downsample: pixels per side of a place.

    Attributes:
        shape: (y, x).
        mean_frame: (c, h, w), of the data.

    Raises:
        ConfigError: frames whose sides are no multiples of ``downsample``.
    """

    mean_frame: Tensor

    def __init__(self, frame_shape: tuple[int, int, int], downsample: int) -> None:
        super().__init__()
        check_divides(frame_shape, downsample)
        self.shape = frame_shape[1] // downsample, frame_shape[2] // downsample
        self.register_buffer("mean_frame", torch.full(frame_shape, 0.5))

    @property
    @abstractmethod
    def last_weight(self) -> Tensor:
        """The weight of the layer that makes pixels."""

    @abstractmethod
    def encode(self, frames: Tensor) -> Tensor:
        """Frames (n, c, h, w) in [0, 1] -> maps (n, d, y, x) float32."""

    @abstractmethod
    def decode(self, maps: Tensor) -> Tensor:
        """Maps (n, d, y, x) -> frames (n, c, h, w) float32, not clamped."""


@dataclass(frozen=True, kw_only=True)
class ConvGridConfig(GridConfig, kind="conv_grid"):
    """Settings of residual convolutions, small enough for a CPU.

    Attributes:
        patch: pixels per side that the first stage moves into channels at once; each later stage moves two.
        channels: after each stage, finest first: a place is ``patch * 2**(stages - 1)`` pixels per side.
        blocks: residual blocks per stage and direction.

    Raises:
        ConfigError: a size that cannot be.
    """

    patch: int = 4
    channels: tuple[int, ...] = (32, 64)
    blocks: int = 1

    def __post_init__(self) -> None:
        for name in ("patch", "blocks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive sizes, finest stage first, not {self.channels}.")

    @property
    def downsample(self) -> int:
        """See `GridConfig`."""
        return int(self.patch * 2 ** (len(self.channels) - 1))

    def build(self, frame_shape: tuple[int, int, int], width: int) -> ConvGrid:
        """See `GridConfig`."""
        return ConvGrid(self, frame_shape, width)


class ConvGrid(Grid):
    """Residual convolutions, which decode differences from the mean frame of the data.

    Args:
        config: their settings.
        frame_shape: (c, h, w).
        width: d.

    Raises:
        ConfigError: frames whose sides are no multiples of ``config.downsample``.
    """

    def __init__(self, config: ConvGridConfig, frame_shape: tuple[int, int, int], width: int) -> None:
        super().__init__(frame_shape, config.downsample)
        c, h, w = frame_shape
        self._largest = max(config.channels[0], c * config.patch**2) * h * w // config.patch**2
        self.down = down_network(c, width, config.patch, config.channels, config.blocks)
        self.up = up_network(width, c, config.patch, config.channels, config.blocks)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def last_weight(self) -> Tensor:
        """See `Grid`."""
        weight = self.up[-2].weight
        assert isinstance(weight, Tensor)
        return weight

    def encode(self, frames: Tensor) -> Tensor:
        """See `Grid`."""
        centred = (frames - 0.5).contiguous(memory_format=torch.channels_last)
        return map_in_chunks(self.down, self._largest, centred).float()

    def decode(self, maps: Tensor) -> Tensor:
        """See `Grid`."""
        maps = maps.contiguous(memory_format=torch.channels_last)
        return map_in_chunks(self.up, self._largest, maps).float() + self.mean_frame


def check_divides(frame_shape: tuple[int, int, int], downsample: int) -> None:
    """Raise ConfigError unless the sides of a frame (c, h, w) are multiples of ``downsample``."""
    _, height, width = frame_shape
    if height % downsample or width % downsample:
        raise ConfigError(
            f"frame height and width must be multiples of {downsample}, not {height}x{width}; resize them, or take "
            "another patch or number of stages."
        )

"""Frames to a grid of finite scalars and back: FSQ, finite scalar quantization (Mentzer et al. 2023).

Every place of the grid holds a few scalars, each rounded to one of a few levels between -1 and 1. There is no codebook
to learn, and gradients pass the rounding as if it were not there. Letters: ``s`` scalars per place, ``y x`` places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamenv.codecs.distortion import distortion
from dreamenv.errors import ConfigError
from dreamenv.nn.batching import map_in_chunks
from dreamenv.nn.pixels import down_network, up_network
from dreamenv.parts import Part

__all__ = ["FSQAutoencoder", "FSQConfig", "disturb", "from_digits", "round_through", "to_digits"]


@dataclass(frozen=True, kw_only=True)
class FSQConfig(Part, kind="fsq"):
    """Settings.

    Attributes:
        scalars: per place.
        levels: of each scalar; odd, so that one of them is 0.
        patch: pixels per side that the first stage moves into channels at once; each later stage moves two.
        channels: after each stage, finest first: a place is ``patch * 2**(stages - 1)`` pixels per side.
        blocks: residual blocks per stage and direction.

    Raises:
        ConfigError: a size that cannot be.
    """

    scalars: int = 4
    levels: int = 5
    patch: int = 4
    channels: tuple[int, ...] = (32, 64)
    blocks: int = 1

    def __post_init__(self) -> None:
        for name in ("scalars", "patch", "blocks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.levels < 3 or self.levels % 2 == 0:
            raise ConfigError(f"levels must be odd and at least 3, not {self.levels}.")
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive sizes, finest stage first, not {self.channels}.")

    @property
    def downsample(self) -> int:
        """Pixels per side of a place."""
        return int(self.patch * 2 ** (len(self.channels) - 1))

    def build(self, frame_shape: tuple[int, int, int]) -> FSQAutoencoder:
        """Return the untrained autoencoder of frames (c, h, w).

        Raises:
            ConfigError: frames whose sides are no multiples of ``downsample``.
        """
        return FSQAutoencoder(self, frame_shape)


class FSQAutoencoder(nn.Module):
    """The autoencoder, which decodes differences from the mean frame of the data.

    Args:
        config: its settings.
        frame_shape: (c, h, w).

    Attributes:
        grid: (s, y, x).

    Raises:
        ConfigError: frames whose sides are no multiples of ``config.downsample``.
    """

    mean_frame: Tensor

    def __init__(self, config: FSQConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        c, height, width = frame_shape
        if height % config.downsample or width % config.downsample:
            raise ConfigError(
                f"frame height and width must be multiples of {config.downsample}, not {height}x{width}; resize them, "
                "or take another patch or number of channels."
            )
        self.config, self.levels = config, config.levels
        self.grid = config.scalars, height // config.downsample, width // config.downsample
        self.register_buffer("mean_frame", torch.full(frame_shape, 0.5))
        widths = config.channels
        self._largest = max(widths[0], c * config.patch**2) * height * width // config.patch**2
        self.down = down_network(c, config.scalars, config.patch, widths, config.blocks)
        self.up = up_network(config.scalars, c, config.patch, widths, config.blocks)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (n, c, h, w) in [0, 1] -> levels (n, s, y, x) int64, from 0."""
        half = self.levels // 2
        return (self._bounded(frames).detach() * half).round().long() + half

    def values(self, codes: Tensor) -> Tensor:
        """Levels (..., s, y, x) int64 -> values float32 from -1 to 1."""
        half = self.levels // 2
        return (codes - half).float() / half

    def decode(self, values: Tensor) -> Tensor:
        """Values (n, s, y, x) -> frames (n, c, h, w) in [0, 1]."""
        difference = map_in_chunks(self.up, self._largest, values)
        return difference.float().add_(self.mean_frame).clamp_(0.0, 1.0)

    def rounded(self, frames: Tensor) -> Tensor:
        """Frames (n, c, h, w) in [0, 1] -> values (n, s, y, x); gradients pass as if nothing were rounded."""
        return round_through(self._bounded(frames), self.levels)

    def loss(
        self,
        frames: Tensor,
        values: Tensor,
        foreground_weight: float = 0.0,
        edge_weight: float = 0.0,
        code_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted squared error of a reconstruction, summed over a frame, and ``psnr_db`` to log.

        Args:
            frames: (n, c, h, w) in [0, 1].
            values: (n, s, y, x), see `rounded`.
            foreground_weight: a pixel's squared error counts 1 + foreground_weight * |x - mean frame|.
            edge_weight: of the squared error of differences between neighbouring pixels, which keeps edges sharp.
            code_noise: see `disturb`: so that levels side by side come to stand for frames that look alike, and codes
                that a world predicts not quite right for frames not quite right.
            generator: of the noise.
        """
        half = self.levels // 2
        codes = disturb((values.detach() * half).round().long() + half, self.levels, code_noise, generator)
        decoded = self.up(values + (self.values(codes) - values).detach()).float() + self.mean_frame
        return distortion(decoded, frames, self.mean_frame, foreground_weight, edge_weight)

    def _bounded(self, frames: Tensor) -> Tensor:
        """Frames (n, c, h, w) -> values before they are rounded, (n, s, y, x) in (-1, 1)."""
        centred = (frames - 0.5).contiguous(memory_format=torch.channels_last)
        return map_in_chunks(self.down, self._largest, centred).float().tanh()


def round_through(values: Tensor, levels: int) -> Tensor:
    """Round values from -1 to 1 to the nearest of the levels; gradients pass as if nothing were rounded."""
    half = levels // 2
    return values + ((values * half).round() / half - values).detach()


def from_digits(codes: Tensor, levels: int) -> Tensor:
    """Levels (..., s) int64, from 0 -> tokens (...) int64, whose digits they are, the first one counting least."""
    place = levels ** torch.arange(codes.shape[-1], device=codes.device)
    return (codes * place).sum(dim=-1)


def to_digits(tokens: Tensor, levels: int, scalars: int) -> Tensor:
    """Tokens (...) -> levels (..., s); see `from_digits`."""
    place = levels ** torch.arange(scalars, device=tokens.device)
    return tokens[..., None] // place % levels


def disturb(codes: Tensor, levels: int, share: float, generator: torch.Generator | None) -> Tensor:
    """Move up to a share of the codes (n, ...) up or down by one level; how many is drawn per row."""
    if share == 0:
        return codes
    own = share * torch.rand(len(codes), *[1] * (codes.ndim - 1), generator=generator, device=codes.device)
    chance = torch.rand(codes.shape, generator=generator, device=codes.device)
    step = (chance < own / 2).long() - (chance > 1 - own / 2).long()
    return (codes + step).clamp_(0, levels - 1)

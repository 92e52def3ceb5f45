"""A U-Net over a window of frames: convolutions and attention within each frame, attention along time between them.

The network of Diffusion Forcing for video (Chen et al. 2024), which goes back to video diffusion (Ho et al. 2022). Two
things look across frames: attention along time, and the group normalisations, whose mean and variance are taken over
several frames. Which frames, a `WindowAttention` says. Letters: n places of a frame, d channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.denoisers.frame_window import GROUPS, WindowAttention
from dreamenv.errors import ConfigError
from dreamenv.nn.attention import attend
from dreamenv.nn.pair_rotary import time_speeds
from dreamenv.nn.sinusoidal import sinusoidal_embedding

__all__ = ["UNet3D"]

_EPSILON = 1e-6


class _GroupNorm(nn.Module):
    """Group normalisation over several frames, scaled and shifted, and SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor, window: WindowAttention, modulation: Tensor | None = None) -> Tensor:
        """Maps (b f, c, h, w) and a modulation (b f, 2 c) -> the same shape as the maps."""
        maps = maps.to(self.weight.dtype)  # statistics are not rounded, whatever products are
        mean, variance = window.statistics(maps)
        each = maps.shape[1] // GROUPS
        scale = self.weight * (variance + _EPSILON).rsqrt().repeat_interleave(each, 1)
        shift = self.bias - scale * mean.repeat_interleave(each, 1)
        if modulation is not None:
            more, moved = modulation.to(maps.dtype).chunk(2, dim=1)
            scale, shift = scale * (1 + more), shift * (1 + more) + moved
        return functional.silu(torch.addcmul(shift[..., None, None], maps, scale[..., None, None]))


class _ResBlock(nn.Module):
    """Two convolutions next to a shortcut; the second normalisation is modulated by the noise level."""

    def __init__(self, inputs: int, outputs: int, condition: int = 0) -> None:
        super().__init__()
        self.norm1, self.norm2 = _GroupNorm(inputs), _GroupNorm(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * outputs) if condition else None
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, maps: Tensor, window: WindowAttention, condition: Tensor | None = None) -> Tensor:
        """Maps (b f, inputs, h, w) and the condition (b f, e) after its activation -> (b f, outputs, h, w)."""
        inner = self.conv1(self.norm1(maps, window))
        modulation = None if self.modulation is None else self.modulation(condition)
        output: Tensor = self.shortcut(maps) + self.conv2(self.norm2(inner, window, modulation))
        return output


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_size, bias=False)
        self.out_proj = nn.Linear(heads * head_size, width)

    def _split(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b f, width, h, w) -> three of (b f, n, heads, d)."""
        parts = self.qkv(self.norm(maps.permute(0, 2, 3, 1).flatten(1, 2)))
        query, key, value = parts.unflatten(-1, (3, self.heads, -1)).unbind(2)
        return query, key, value

    def _added(self, maps: Tensor, attended: Tensor) -> Tensor:
        """(b f, n, heads, d) added to maps (b f, width, h, w) -> maps."""
        left = self.out_proj(attended.flatten(2)).unflatten(1, maps.shape[2:])
        output: Tensor = maps + left.permute(0, 3, 1, 2)
        return output


class _SpatialAttention(_Attention):
    """Places of a frame attend to each other; where ``linear``, at a cost that grows with their number only once."""

    def __init__(self, width: int, heads: int, head_size: int, *, linear: bool) -> None:
        super().__init__(width, heads, head_size)
        self.linear = linear

    def forward(self, maps: Tensor) -> Tensor:
        """(b f, width, h, w) -> the same shape."""
        query, key, value = (tokens.transpose(1, 2) for tokens in self._split(maps))  # b f, heads, n, d
        if self.linear:
            context = key.softmax(-2).transpose(-1, -2) @ value  # of the whole frame: d d
            attended = query.softmax(-1) * query.shape[-1] ** -0.5 @ context
        else:
            attended = attend(query, key, value)
        return self._added(maps, attended.transpose(1, 2))


class _TemporalAttention(_Attention):
    """Each place attends to itself in other frames; pairs of neighbouring channels turn with the frame's position."""

    def forward(self, maps: Tensor, window: WindowAttention, rotation: Tensor) -> Tensor:
        """(b f, width, h, w), and complex numbers to turn by (b, f, 1, 1, d / 2) -> the same shape as the maps."""
        query, key, value = (tokens.unflatten(0, window.positions.shape) for tokens in self._split(maps))
        query, key = _rotated(query, rotation), _rotated(key, rotation)
        attended = window.attend(*(tokens.permute(0, 2, 3, 1, 4) for tokens in (query, key, value)))
        return self._added(maps, attended.permute(0, 3, 1, 2, 4).flatten(0, 1))


class _Resolution(nn.Module):
    """Two blocks, attention in space and along time, and a change of resolution: "half", "double" or "same"."""

    def __init__(
        self, inputs: int, outputs: int, condition: int, heads: int, head_size: int, *, linear: bool, then: str
    ) -> None:
        super().__init__()
        self.block1, self.block2 = _ResBlock(inputs, outputs, condition), _ResBlock(outputs, outputs, condition)
        self.spatial = _SpatialAttention(outputs, heads, head_size, linear=linear)
        self.temporal = _TemporalAttention(outputs, heads, head_size)
        self.then = then
        stride = 2 if then == "half" else 1
        self.resize = nn.Identity() if then == "same" else nn.Conv2d(outputs, outputs, 3, stride, padding=1)

    def forward(
        self, maps: Tensor, window: WindowAttention, rotation: Tensor, condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Maps (b f, inputs, h, w) -> those of this resolution, and of the next."""
        maps = self.block2(self.block1(maps, window, condition), window, condition)
        maps = self.temporal(self.spatial(maps), window, rotation)
        larger = functional.interpolate(maps, scale_factor=2.0) if self.then == "double" else maps
        return maps, self.resize(larger)


class UNet3D(nn.Module):
    """The network.

    Args:
        frame_shape: (c, h, w).
        width: of the first maps, and a quarter of the noise level's embedding.
        channels: of each resolution, finest first; each is half the one before.
        heads: of every attention.
        head_size: of each head.

    Attributes:
        places: of all attentions along time one after the other.
        norms: how many normalisations there are.

    Raises:
        ConfigError: frames that the resolutions do not divide.
    """

    rotary_speeds: Tensor

    def __init__(
        self, frame_shape: tuple[int, int, int], width: int, channels: tuple[int, ...], heads: int, head_size: int
    ) -> None:
        super().__init__()
        c, h, w = frame_shape
        coarsest = 2 ** (len(channels) - 1)
        if h % coarsest or w % coarsest:
            raise ConfigError(
                f"frames of {h} x {w} are no multiple of {coarsest}, which {len(channels)} resolutions need."
            )
        self.width, condition = width, 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.register_buffer("rotary_speeds", time_speeds(head_size // 2))
        self.conv_in = nn.Conv2d(c, width, 7, padding=3)
        self.temporal_in = _TemporalAttention(width, heads, head_size)
        widths, last = (width, *channels), len(channels) - 1
        self.downs = nn.ModuleList(
            _Resolution(
                widths[i], widths[i + 1], condition, heads, head_size, linear=i < last,
                then="half" if i < last else "same",
            )
            for i in range(len(channels))
        )  # fmt: skip
        self.middle_block1 = _ResBlock(channels[-1], channels[-1], condition)
        self.middle_spatial = _SpatialAttention(channels[-1], heads, head_size, linear=False)
        self.middle_temporal = _TemporalAttention(channels[-1], heads, head_size)
        self.middle_block2 = _ResBlock(channels[-1], channels[-1], condition)
        self.ups = nn.ModuleList(
            _Resolution(
                2 * widths[i + 1], widths[i], condition, heads, head_size, linear=i < last,
                then="double" if i > 0 else "same",
            )
            for i in reversed(range(len(channels)))
        )  # fmt: skip
        self.out_block = _ResBlock(2 * width, width)
        self.conv_out = nn.Conv2d(width, c, 1)
        sizes = [(h >> i) * (w >> i) for i in range(len(channels))]
        self.places = sizes[0] + 2 * sum(sizes) + sizes[-1]
        self.norms = sum(isinstance(module, _GroupNorm) for module in self.modules())
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Tensor, time: Tensor, window: WindowAttention) -> Tensor:
        """Frames (b, f, c, h, w) and their timesteps (b, f) -> shaped like the frames.

        ``window`` notes what may be kept of them.
        """
        condition = functional.silu(self.time_embed(sinusoidal_embedding(time.flatten(), self.width)))
        angles = (window.positions[..., None] * self.rotary_speeds)[:, :, None, None]  # b f 1 1 d/2
        rotation = torch.polar(torch.ones_like(angles), angles)
        first = self.conv_in(frames.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        first = self.temporal_in(first, window, rotation)
        maps, skips = first, []
        for down in self.downs:
            skip, maps = down(maps, window, rotation, condition)
            skips.append(skip)
        maps = self.middle_spatial(self.middle_block1(maps, window, condition))
        maps = self.middle_block2(self.middle_temporal(maps, window, rotation), window, condition)
        for up in self.ups:
            _, maps = up(torch.cat((maps, skips.pop()), dim=1), window, rotation, condition)
        maps = self.conv_out(self.out_block(torch.cat((maps, first), dim=1), window))
        output: Tensor = maps.unflatten(0, time.shape)
        return output


def _rotated(tokens: Tensor, rotation: Tensor) -> Tensor:
    """Turn pairs of neighbouring channels (..., d), taken as complex numbers, by complex numbers (..., d / 2)."""
    pairs = torch.view_as_complex(tokens.to(rotation.real.dtype).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(tokens.dtype)

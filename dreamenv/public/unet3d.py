"""A U-Net over a window of frames: convolutions and attention within each frame, attention along time between them.

The network of Diffusion Forcing for video (Chen et al. 2024), which goes back to video diffusion (Ho et al. 2022). Two
things look across frames: attention along time, and the group normalisations, whose mean and variance are taken over
several frames. Which frames, a `Window` says. Letters: n places of a frame, d channels of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.attention import attend
from dreamenv.public.frame_window import GROUPS, Window

__all__ = ["UNet3D"]

_EPSILON = 1e-6
_BASE = 10_000.0  # of wavelengths, of noise levels and of rotations


class _Normal(nn.Module):
    """Group normalisation over several frames, scaled and shifted, and SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor, window: Window, modulation: Tensor | None = None) -> Tensor:
        """Maps (b f, c, h, w) and a modulation (b f, 2 c) -> the same shape as the maps."""
        mean, variance = window.pooled(maps)
        each = maps.shape[1] // GROUPS
        scale = self.weight * (variance + _EPSILON).rsqrt().repeat_interleave(each, 1)
        shift = self.bias - scale * mean.repeat_interleave(each, 1)
        if modulation is not None:
            more, moved = modulation.float().chunk(2, dim=1)
            scale, shift = scale * (1 + more), shift * (1 + more) + moved
        return functional.silu(torch.addcmul(shift[..., None, None], maps.float(), scale[..., None, None]))


class _Block(nn.Module):
    """Two convolutions beside a shortcut; the second normalisation listens to the noise level."""

    def __init__(self, inputs: int, outputs: int, condition: int = 0) -> None:
        super().__init__()
        self.first_normal, self.second_normal = _Normal(inputs), _Normal(outputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * outputs) if condition else None
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, maps: Tensor, window: Window, condition: Tensor | None = None) -> Tensor:
        """Maps (b f, inputs, h, w) and the condition (b f, e) after its activation -> (b f, outputs, h, w)."""
        inner = self.first(self.first_normal(maps, window))
        modulation = None if self.modulation is None else self.modulation(condition)
        output: Tensor = self.shortcut(maps) + self.second(self.second_normal(inner, window, modulation))
        return output


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.normal = nn.LayerNorm(width)
        self.enter = nn.Linear(width, 3 * heads * head_size, bias=False)
        self.leave = nn.Linear(heads * head_size, width)

    def _tokens(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b f, width, h, w) -> three of (b f, n, heads, d)."""
        entered = self.enter(self.normal(maps.permute(0, 2, 3, 1).flatten(1, 2)))
        query, key, value = entered.unflatten(-1, (3, self.heads, -1)).unbind(2)
        return query, key, value

    def _added(self, maps: Tensor, attended: Tensor) -> Tensor:
        """(b f, n, heads, d) beside maps (b f, width, h, w) -> maps."""
        left = self.leave(attended.flatten(2)).unflatten(1, maps.shape[2:])
        output: Tensor = maps + left.permute(0, 3, 1, 2)
        return output


class _SpaceAttention(_Attention):
    """Places of a frame attend to each other; where ``linear``, at a cost that grows with their number only once."""

    def __init__(self, width: int, heads: int, head_size: int, *, linear: bool) -> None:
        super().__init__(width, heads, head_size)
        self.linear = linear

    def forward(self, maps: Tensor) -> Tensor:
        """(b f, width, h, w) -> the same shape."""
        query, key, value = (tokens.transpose(1, 2) for tokens in self._tokens(maps))  # b f, heads, n, d
        if self.linear:
            context = key.softmax(-2).transpose(-1, -2) @ value  # what the whole frame has to say: d d
            attended = query.softmax(-1) * query.shape[-1] ** -0.5 @ context
        else:
            attended = attend(query, key, value)
        return self._added(maps, attended.transpose(1, 2))


class _TimeAttention(_Attention):
    """Each place attends to itself in other frames; pairs of neighbouring channels turn with the frame's position."""

    frequencies: Tensor

    def __init__(self, width: int, heads: int, head_size: int) -> None:
        super().__init__(width, heads, head_size)
        self.register_buffer("frequencies", _frequencies(head_size // 2))

    def forward(self, maps: Tensor, window: Window) -> Tensor:
        """(b f, width, h, w) -> the same shape."""
        angles = (window.positions[..., None] * self.frequencies)[:, :, None, None]  # b f 1 1 d/2
        turn = torch.polar(torch.ones_like(angles), angles)
        query, key, value = (tokens.unflatten(0, window.positions.shape) for tokens in self._tokens(maps))
        query, key = _turned(query, turn), _turned(key, turn)
        attended = window.attend(*(tokens.permute(0, 2, 3, 1, 4) for tokens in (query, key, value)))
        return self._added(maps, attended.permute(0, 3, 1, 2, 4).flatten(0, 1))


class _Level(nn.Module):
    """Two blocks, attention in space and along time, and a change of resolution: "half", "double" or "same"."""

    def __init__(
        self, inputs: int, outputs: int, condition: int, heads: int, head_size: int, *, linear: bool, then: str
    ) -> None:
        super().__init__()
        self.first, self.second = _Block(inputs, outputs, condition), _Block(outputs, outputs, condition)
        self.space = _SpaceAttention(outputs, heads, head_size, linear=linear)
        self.time = _TimeAttention(outputs, heads, head_size)
        self.then = then
        stride = 2 if then == "half" else 1
        self.resize = nn.Identity() if then == "same" else nn.Conv2d(outputs, outputs, 3, stride, padding=1)

    def forward(self, maps: Tensor, window: Window, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (b f, inputs, h, w) -> those of this resolution, and of the next."""
        maps = self.second(self.first(maps, window, condition), window, condition)
        maps = self.time(self.space(maps), window)
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
        normals: how many normalisations there are.

    Raises:
        ConfigError: frames that the resolutions do not divide.
    """

    frequencies: Tensor

    speeds: Tensor

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
        self.level = nn.Sequential(nn.Linear(width, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.register_buffer("frequencies", _frequencies(head_size // 2))  # part of what was published; not used
        self.register_buffer("speeds", _frequencies(width // 2), persistent=False)  # of the waves that tell the level
        self.enter = nn.Conv2d(c, width, 7, padding=3)
        self.enter_time = _TimeAttention(width, heads, head_size)
        widths, last = (width, *channels), len(channels) - 1
        self.downs = nn.ModuleList(
            _Level(
                widths[i], widths[i + 1], condition, heads, head_size, linear=i < last,
                then="half" if i < last else "same",
            )
            for i in range(len(channels))
        )  # fmt: skip
        self.middle_first = _Block(channels[-1], channels[-1], condition)
        self.middle_space = _SpaceAttention(channels[-1], heads, head_size, linear=False)
        self.middle_time = _TimeAttention(channels[-1], heads, head_size)
        self.middle_second = _Block(channels[-1], channels[-1], condition)
        self.ups = nn.ModuleList(
            _Level(
                2 * widths[i + 1], widths[i], condition, heads, head_size, linear=i < last,
                then="double" if i > 0 else "same",
            )
            for i in reversed(range(len(channels)))
        )  # fmt: skip
        self.leave_block = _Block(2 * width, width)
        self.leave = nn.Conv2d(width, c, 1)
        sizes = [(h >> i) * (w >> i) for i in range(len(channels))]
        self.places = sizes[0] + 2 * sum(sizes) + sizes[-1]
        self.normals = sum(isinstance(module, _Normal) for module in self.modules())
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Tensor, level: Tensor, window: Window) -> Tensor:
        """Frames (b, f, c, h, w) and their noise levels (b, f), counted in steps of a chain -> shaped like the frames.

        ``window`` notes what may be kept of them.
        """
        condition = functional.silu(self.level(_waves(level.flatten(), self.speeds)))
        entered = self.enter(frames.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        entered = self.enter_time(entered, window)
        maps, seen = entered, []
        for down in self.downs:
            here, maps = down(maps, window, condition)
            seen.append(here)
        maps = self.middle_time(self.middle_space(self.middle_first(maps, window, condition)), window)
        maps = self.middle_second(maps, window, condition)
        for up in self.ups:
            _, maps = up(torch.cat((maps, seen.pop()), dim=1), window, condition)
        left = self.leave(self.leave_block(torch.cat((maps, entered), dim=1), window))
        output: Tensor = left.unflatten(0, level.shape)
        return output


def _frequencies(count: int) -> Tensor:
    return torch.exp(-math.log(_BASE) * torch.arange(count) / count)


def _waves(level: Tensor, speeds: Tensor) -> Tensor:
    """Noise levels (n,) as cosines and sines of as many speeds (s,), (n, 2 s)."""
    angles = level[:, None] * speeds
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def _turned(tokens: Tensor, turn: Tensor) -> Tensor:
    """Turn pairs of neighbouring channels (..., d), taken as complex numbers, by complex numbers (..., d / 2)."""
    pairs = torch.view_as_complex(tokens.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(tokens.dtype)

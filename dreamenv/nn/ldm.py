"""Encoder and decoder of latent diffusion (Rombach et al. 2022) and of VQGAN (Esser et al. 2021).

Residual convolutions over halved and doubled resolutions, with attention over all places of the coarsest maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.nn.attention import attend

__all__ = ["LDMDecoder", "LDMEncoder", "LDMMiddle", "SplitMiddle"]

_EPSILON = 1e-6  # of normalisations


class LDMEncoder(nn.Module):
    """Halves each side of pictures at every resolution but the last.

    Args:
        widths: channels of the resolutions, finest first.
        blocks: residual blocks per resolution.
        groups: of channels normalised together.
        inputs, outputs: channels.
        middle: what happens to the coarsest maps; keeps their shape.
        attention: whether it follows the blocks of the coarsest resolution, too.
    """

    def __init__(
        self, widths: Sequence[int], blocks: int, groups: int, *, inputs: int, outputs: int, middle: nn.Module,
        attention: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv_in = _conv3x3(inputs, widths[0])
        self.stages = nn.ModuleList(
            _Stage(before, width, blocks, groups, None if last else _Downsample(width), attention=attention and last)
            for before, width, last in _in_turn(widths)
        )
        self.middle = middle
        self.norm, self.conv_out = _group_norm(widths[-1], groups), _conv3x3(widths[-1], outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, y, x)."""
        maps = self.conv_in(pictures)
        for stage in self.stages:
            maps = stage(maps)
        encoded: Tensor = self.conv_out(functional.silu(self.norm(self.middle(maps))))
        return encoded


class LDMDecoder(nn.Module):
    """Doubles each side of maps at every resolution but the last; arguments as of `LDMEncoder`, ``widths``, too."""

    def __init__(
        self, widths: Sequence[int], blocks: int, groups: int, *, inputs: int, outputs: int, middle: nn.Module,
        attention: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = widths[::-1]
        self.conv_in = _conv3x3(inputs, widths[0])
        self.middle = middle
        self.stages = nn.ModuleList(
            _Stage(
                before, width, blocks, groups, None if last else _Upsample(width), attention=attention and index == 0
            )
            for index, (before, width, last) in enumerate(_in_turn(widths))
        )
        self.norm, self.conv_out = _group_norm(widths[-1], groups), _conv3x3(widths[-1], outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, y, x) -> (n, outputs, h, w)."""
        maps = self.middle(self.conv_in(maps))
        for stage in self.stages:
            maps = stage(maps)
        pictures: Tensor = self.conv_out(functional.silu(self.norm(maps)))
        return pictures


class LDMMiddle(nn.Module):
    """Two residual blocks with attention between them, of one product, as VAR has it."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Residual(width, width, groups) for _ in range(2))
        self.attention = _Attention(width, groups)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, width, y, x) -> the same shape."""
        first, second = self.blocks
        result: Tensor = second(self.attention(first(maps)))
        return result


class SplitMiddle(nn.Module):
    """Two residual blocks, between them attention with products apart, as `diffusers` has it, or nothing."""

    def __init__(self, width: int, groups: int, *, attention: bool = True) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Residual(width, width, groups) for _ in range(2))
        self.has_attention = attention
        if attention:
            self.norm = _group_norm(width, groups)
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
            self.out_proj = nn.Linear(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, width, y, x) -> the same shape."""
        first, second = self.blocks
        maps = first(maps)
        if self.has_attention:
            places = rearrange(self.norm(maps), "n c y x -> n 1 (y x) c")
            attended = self.out_proj(attend(self.q_proj(places), self.k_proj(places), self.v_proj(places)))
            maps = maps + rearrange(attended, "n 1 (y x) c -> n c y x", y=maps.shape[2])
        result: Tensor = second(maps)
        return result


class _Residual(nn.Module):
    """Two convolutions, each after a normalisation, with a residual connection.

    Args:
        inputs, outputs: channels.
        groups: of channels normalised together.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _group_norm(inputs, groups), _conv3x3(inputs, outputs)
        self.norm2, self.conv2 = _group_norm(outputs, groups), _conv3x3(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)."""
        inner = self.conv1(functional.silu(self.norm1(maps)))
        inner = self.conv2(functional.silu(self.norm2(inner)))
        return inner + (maps if self.shortcut is None else self.shortcut(maps))  # type: ignore[no-any-return]


class _Stage(nn.Module):
    """Residual blocks at one resolution, each followed by attention where wanted, and what leads to the next one."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, groups: int, resize: nn.Module | None, *, attention: bool
    ) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.blocks = nn.ModuleList(_Residual(a, b, groups) for a, b in pairwise(widths))
        self.attention = nn.ModuleList(_Attention(outputs, groups) for _ in range(blocks if attention else 0))
        self.resize = resize

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h', w')."""
        for index, block in enumerate(self.blocks):
            maps = block(maps)
            if len(self.attention):
                maps = self.attention[index](maps)
        return maps if self.resize is None else self.resize(maps)


class _Attention(nn.Module):
    """Attention of one head over all places, with a residual connection."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = _group_norm(width, groups)
        self.qkv, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, width, y, x) -> the same shape."""
        places = rearrange(self.norm(maps), "n c y x -> n 1 (y x) c")
        attended = self.out_proj(attend(*self.qkv(places).chunk(3, dim=-1)))
        change: Tensor = rearrange(attended, "n 1 (y x) c -> n c y x", y=maps.shape[2])
        return maps + change


class _Downsample(nn.Conv2d):
    """Halves each side. The picture is continued by zeros at its right and lower end alone."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h / 2, w / 2)."""
        return super().forward(functional.pad(maps, (0, 1, 0, 1)))


class _Upsample(nn.Conv2d):
    """Repeats every place twice per side, then smooths."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, 2 h, 2 w)."""
        return super().forward(functional.interpolate(maps, scale_factor=2.0, mode="nearest"))


def _in_turn(widths: Sequence[int]) -> Iterator[tuple[int, int, bool]]:
    """Yield channels before and at each resolution, and whether it is the last."""
    for index, (before, width) in enumerate(pairwise((widths[0], *widths))):
        yield before, width, index == len(widths) - 1


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a convolution that keeps the size of its maps."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Return a normalisation of so many groups of channels."""
    return nn.GroupNorm(groups, channels, eps=_EPSILON)

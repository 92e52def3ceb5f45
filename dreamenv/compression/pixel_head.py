"""A small network that gives every level of a frame's pixels a probability, exact, whatever predicts the frame.

A dream is a pure function of its state and its actions, so what a world dreams of the next frame is known to sender and
receiver alike. From it, from the frames before and from the pixels that are decoded already, a multilayer perceptron
per pass of the lattice (`dreamenv.compression.lattice`) sets up a mixture of logistic distributions for each pixel. The
mixture's components stand around guesses: the neighbours' mean, the best match in past frames, the frame before, and
the dream; the network learns how far each is to be trusted, and how far off it is.

Letters: ``n`` frames, ``r`` past frames, ``c h w`` channels, height, width, ``p`` pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.checks import check_whole, settle_types
from dreamenv.compression.alignment import Alignment, align
from dreamenv.compression.context import ANCHORS, PassContext, context_size, gather_context
from dreamenv.compression.lattice import LatticePass, lattice
from dreamenv.compression.mixture import LogisticMixture
from dreamenv.errors import ConfigError

__all__ = ["MOST_PAST", "PixelHead", "PixelHeadConfig"]

MOST_PAST = 8  # past frames
_LEVEL = 16.0  # differences are divided by this, and offsets multiplied: a usual error, in levels
_LATER_LEVEL = 2.0  # the same of channels after the first, most of which follow from it
_SLOPE = 0.2  # of which slopes are multiples, for the same reason
_FIRST_SCALE = 4.0  # of untrained mixtures, in levels
_STAGES = ((4, 5, 1), (4, 3, 0), (2, 5, 0))  # of alignment: cell, window, and whether it is by the dream


@dataclass(frozen=True, kw_only=True)
class PixelHeadConfig:
    """Settings.

    Attributes:
        hidden: width of the perceptrons.
        past: frames before, in which matches are looked for.
        reach: rows and columns up to which they are, in pixels.

    Raises:
        ConfigError: a size that cannot be.
    """

    hidden: int = 64
    past: int = 2
    reach: tuple[int, int] = (4, 14)

    def __post_init__(self) -> None:
        settle_types(self)
        check_whole("hidden", self.hidden, most=1024)
        check_whole("past", self.past, most=MOST_PAST)
        if not all(0 <= side <= 32 for side in self.reach):
            raise ConfigError(f"reach must be rows and columns from 0 to 32, not {self.reach}.")
        if (candidates := self.past * (2 * self.reach[0] + 1) * (2 * self.reach[1] + 1)) > 4096:
            raise ConfigError(
                f"{self.past} past frames and a reach of {self.reach} are {candidates} matches to look at, more than "
                "4096; take fewer of either."
            )


class PixelHead(nn.Module):
    """The head.

    Args:
        config: its settings.
        frame_shape: (c, h, w).
    """

    def __init__(self, config: PixelHeadConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config, self.frame_shape, self.stages = config, frame_shape, len(_STAGES)
        self.passes = lattice(*frame_shape[1:])
        self.networks = nn.ModuleList(
            _PassNetwork(len(one.neighbours), frame_shape[0], config.hidden) for one in self.passes
        )

    def align(self, stage: int, frame: Tensor, past: Tensor, dream: Tensor) -> Alignment:
        """Return the matches that the passes of a stage use, from what is decoded when the first of them begins.

        Args:
            stage: see `stage_of`.
            frame: (n, c, h, w) float32, levels.
            past: (n, r, c, h, w) uint8, the latest first.
            dream: (n, c, h, w) uint8.
        """
        cell, window, by_dream = _STAGES[stage]
        source = dream.float() if by_dream else frame
        known = source[:, :, ::cell, ::cell].contiguous()
        return align(known, past, cell=cell, reach=self.config.reach, window=window)

    def stage_of(self, one: LatticePass) -> int:
        """Return which alignment a pass uses: that of the dream, or of the pixels at every fourth or second place."""
        return 0 if one.spacing > 4 else 1 if one.spacing == 4 else 2

    def mixture(
        self,
        number: int,
        frame: Tensor,
        past: Tensor,
        dream: Tensor,
        alignment: Alignment,
        chosen: Tensor | None = None,
    ) -> LogisticMixture:
        """Return the distributions of a pass's pixels, or of those chosen; see `gather_context`."""
        context = gather_context(frame, past, dream, alignment, self.passes[number], chosen)
        mixture: LogisticMixture = self.networks[number](context)
        return mixture


class _PassNetwork(nn.Module):
    """The perceptron of one pass: what is linear in levels goes past it."""

    _levels: Tensor
    _follows: Tensor

    def __init__(self, neighbours: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.channels = channels
        differences, scalars = context_size(neighbours, channels)
        slopes = channels * (channels - 1) // 2
        self.split = (ANCHORS, ANCHORS * channels, ANCHORS * channels, ANCHORS * slopes)
        self.linear = nn.Linear(differences, ANCHORS * channels, bias=False)
        self.first = nn.Linear(differences + scalars, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.outputs = nn.Linear(hidden, sum(self.split))
        with torch.no_grad():
            self.linear.weight.zero_()
            self.outputs.weight.zero_()
            self.outputs.bias.zero_()
            parts = self.outputs.bias.split(self.split)
            parts[2].fill_(math.log(_FIRST_SCALE))
        later = torch.arange(channels)[:, None] > 0
        follows = [float(earlier == channel - 1) for channel in range(channels) for earlier in range(channel)]
        self.register_buffer("_levels", torch.where(later, _LATER_LEVEL, _LEVEL), persistent=False)  # c 1
        self.register_buffer("_follows", torch.tensor(follows)[:, None], persistent=False)  # s 1

    def forward(self, context: PassContext) -> LogisticMixture:
        differences = context.differences / _LEVEL
        bent = differences / (1 + differences.abs() / 2)  # large differences say little more than smaller ones
        hidden = functional.silu(self.first(torch.cat((bent, context.scalars), dim=-1)))
        hidden = hidden + functional.silu(self.second(hidden))
        logits, offsets, log_scales, slopes = self.outputs(hidden).transpose(1, 2).split(self.split, dim=1)
        offsets = offsets + self.linear(differences.clamp(-8, 8)).transpose(1, 2)
        shape = (ANCHORS, self.channels)
        return LogisticMixture.of(
            logits,
            self._levels * offsets.unflatten(1, shape),
            log_scales.unflatten(1, shape),
            # A channel begins by going as the one before it does.
            self._follows + _SLOPE * slopes.unflatten(1, (ANCHORS, len(self._follows))),
            context.anchors,
        )

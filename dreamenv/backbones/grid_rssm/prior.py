"""The prior ``p(z_t | h_t, z_{t-1}, z_{t-2})`` of a grid of codes, drawn group by group.

The scalars of a frame are dealt into a few groups, in a pattern in which neighbours are in different ones. A group is
drawn given all groups before it, so that what lies side by side agrees, in as many passes as there are groups
(MaskGIT's parallel decoding, Chang et al. 2022, as GIT-STORM, Meo et al. 2024, has it in a world model, but in a fixed
order). By the chain rule the groups' likelihoods multiply to that of the frame, exactly.

Letters: ``s`` scalars per place, ``y x`` places, ``d`` width of h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamenv.errors import ConfigError
from dreamenv.nn.precision import Linear
from dreamenv.nn.residual import CastConv, FiLMBlock

__all__ = ["GridPrior", "PriorContext"]

_MEMORY_CHANNELS = 8  # in which h is laid out over the grid


@dataclass(frozen=True, slots=True)
class PriorContext:
    """What all groups of a frame are drawn from.

    Attributes:
        maps: (n, channels, y, x), the two frames before and what is remembered.
        films: of each residual block, (n, 2 channels).
    """

    maps: Tensor
    films: Sequence[Tensor]


class GridPrior(nn.Module):
    """The prior.

    Args:
        grid: (s, y, x).
        levels: of each scalar.
        deter: d.
        channels: of its maps.
        blocks: residual blocks.
        groups: passes.
        unimix: share of the uniform distribution in each.

    Attributes:
        group: (s, y, x), the number of each scalar's group.

    Raises:
        ConfigError: more groups than the pattern has.
    """

    group: Tensor

    def __init__(
        self, grid: tuple[int, int, int], levels: int, deter: int, channels: int, blocks: int, groups: int,
        unimix: float,
    ) -> None:  # fmt: skip
        super().__init__()
        s, y, x = grid
        self.grid, self.levels, self.groups, self.unimix = grid, levels, groups, unimix
        self.memory_proj = Linear(deter, _MEMORY_CHANNELS * y * x)
        self.context_conv = CastConv(2 * s + _MEMORY_CHANNELS, channels, 3)
        self.known_conv = CastConv(2 * s, channels, 3)
        self.position = nn.Parameter(torch.zeros(channels, y, x))
        self.films = Linear(deter, 2 * channels * blocks)
        self.blocks = nn.ModuleList(FiLMBlock(channels) for _ in range(blocks))
        self.logits = CastConv(channels, s * levels, 1)
        for parameter in self.films.parameters():
            nn.init.zeros_(parameter)
        scalar, row, column = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
        pattern = (column + max(1, groups // 2) * row + scalar) % groups
        if len(pattern.unique()) < groups:
            raise ConfigError(f"groups must be at most {len(pattern.unique())} on a grid of {grid}, not {groups}.")
        self.register_buffer("group", pattern, persistent=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def context(self, deter: Tensor, before: Tensor) -> PriorContext:
        """Prepare what all groups are drawn from.

        Args:
            deter: (n, d), what is remembered.
            before: (n, 2 s, y, x), the values of the frame before, and of the one before that, which shows what moves.
        """
        laid_out = self.memory_proj(deter).unflatten(1, (_MEMORY_CHANNELS, *self.grid[1:]))
        inputs = torch.cat((before, laid_out.to(before.dtype)), dim=1).contiguous(memory_format=torch.channels_last)
        return PriorContext(self.context_conv(inputs) + self.position, self.films(deter).chunk(len(self.blocks), dim=1))

    def forward(self, context: PriorContext, known: Tensor, mask: Tensor) -> Tensor:
        """Return the log-probabilities of every scalar's levels, (n, s, y, x, levels) float32.

        Args:
            context: see `context`.
            known: (n, s, y, x), the values of the frame that are drawn already, others 0.
            mask: (s, y, x) or (n, s, y, x) float32, 1 where they are.
        """
        inputs = torch.cat((known, mask.expand_as(known)), dim=1).contiguous(memory_format=torch.channels_last)
        maps = context.maps + self.known_conv(inputs)
        for block, film in zip(self.blocks, context.films, strict=True):
            maps = block(maps, film)
        logits = self.logits(nn.functional.silu(maps)).float().unflatten(1, (self.grid[0], self.levels))
        probabilities = logits.movedim(2, -1).softmax(dim=-1)
        log_probs: Tensor = ((1 - self.unimix) * probabilities + self.unimix / self.levels).log()
        return log_probs

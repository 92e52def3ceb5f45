"""The prior ``p(z_t | h_t, z_{t-1})`` of a grid of codes, drawn group by group.

The scalars of a frame are dealt into a few groups, in a pattern in which neighbours are in different ones. A group is
drawn given all groups before it, so that what lies side by side agrees, in as many passes as there are groups
(MaskGIT's parallel decoding, Chang et al. 2022, as GIT-STORM, Meo et al. 2024, has it in a world model, but in a fixed
order). By the chain rule the groups' likelihoods multiply to that of the frame, exactly.

Letters: ``s`` scalars per place, ``y x`` places, ``d`` width of h.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamenv.nn.precision import Linear
from dreamenv.nn.residual import CastConv, ConvBlock

__all__ = ["GridPrior"]

_MEMORY_CHANNELS = 16  # in which h is laid out over the grid


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
        self.stem = CastConv(3 * s + _MEMORY_CHANNELS, channels, 3)
        self.position = nn.Parameter(torch.zeros(channels, y, x))
        self.blocks = nn.ModuleList(ConvBlock(channels, deter) for _ in range(blocks))
        self.logits = CastConv(channels, s * levels, 1)
        scalar, row, column = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
        pattern = (column + max(1, groups // 2) * row + scalar) % groups
        self.register_buffer("group", pattern, persistent=False)  # (s, y, x)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def remember(self, deter: Tensor) -> Tensor:
        """Lay h (n, d) out over the grid, (n, channels, y, x), once for all groups."""
        return self.memory_proj(deter).unflatten(1, (_MEMORY_CHANNELS, *self.grid[1:]))

    def forward(self, deter: Tensor, laid_out: Tensor, before: Tensor, known: Tensor, mask: Tensor) -> Tensor:
        """Return the log-probabilities of every scalar's levels, (n, s, y, x, levels) float32.

        Args:
            deter: (n, d).
            laid_out: what `remember` made of it.
            before: (n, s, y, x), the values of the frame before.
            known: (n, s, y, x), those of the frame that are drawn already, others 0.
            mask: (s, y, x) or (n, s, y, x) float32, 1 where they are.
        """
        inputs = torch.cat((before, known, mask.expand_as(known), laid_out.to(before.dtype)), dim=1)
        maps = self.stem(inputs.contiguous(memory_format=torch.channels_last)) + self.position
        for block in self.blocks:
            maps = block(maps, deter)
        logits = self.logits(nn.functional.silu(maps)).float()
        probabilities = logits.unflatten(1, (-1, self.levels)).movedim(2, -1).softmax(dim=-1)
        return ((1 - self.unimix) * probabilities + self.unimix / self.levels).log()

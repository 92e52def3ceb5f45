"""The prior ``p(z_t | h_t, z_{t-1}, z_{t-2})`` of a grid of codes, drawn group by group.

The scalars of a place are drawn together, as one token. The places of a frame are dealt into a few groups like the
squares of a chessboard, so that neighbours are in different ones. A group is drawn given all groups before it, so that
what lies side by side agrees, in as many passes as there are groups
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

MOST_TOKENS = 4096  # that a place can hold
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
        unimix: share of the uniform distribution in every place's.

    Attributes:
        group: (y, x), the number of each place's group.
        places: (groups, p), the places of each group, counted row by row; a smaller group names its last one again.
        sizes: how many places each group has.
        tokens: what a place can hold.

    Raises:
        ConfigError: more groups than the pattern has, or more tokens than a layer should have outputs.
    """

    group: Tensor
    places: Tensor
    _sizes: Tensor
    _radix: Tensor

    def __init__(
        self, grid: tuple[int, int, int], levels: int, deter: int, channels: int, blocks: int, groups: int,
        unimix: float,
    ) -> None:  # fmt: skip
        super().__init__()
        s, y, x = grid
        self.grid, self.levels, self.groups, self.unimix = grid, levels, groups, unimix
        self.tokens = levels**s
        if self.tokens > MOST_TOKENS:
            raise ConfigError(
                f"{s} scalars of {levels} levels are {self.tokens} tokens, more than {MOST_TOKENS}; take fewer of "
                "either."
            )
        self.memory_proj = Linear(deter, _MEMORY_CHANNELS * y * x)
        self.context_conv = CastConv(2 * s + _MEMORY_CHANNELS, channels, 3)
        self.known_conv = CastConv(s + 1, channels, 3)
        self.position = nn.Parameter(torch.zeros(channels, y, x))
        self.films = Linear(deter, 2 * channels * blocks)
        self.blocks = nn.ModuleList(FiLMBlock(channels) for _ in range(blocks))
        self.logits = Linear(channels, self.tokens)
        for parameter in self.films.parameters():
            nn.init.zeros_(parameter)
        row, column = torch.meshgrid(torch.arange(y), torch.arange(x), indexing="ij")
        pattern = (column + max(1, groups // 2) * row) % groups
        members = [(pattern.flatten() == index).nonzero().flatten() for index in range(groups)]
        self.sizes = tuple(len(one) for one in members)
        if min(self.sizes) == 0:
            raise ConfigError(f"groups must be at most {len(pattern.unique())} on a grid of {grid}, not {groups}.")
        largest = max(self.sizes)
        places = torch.stack([torch.cat((one, one[-1:].expand(largest - len(one)))) for one in members])
        self.register_buffer("group", pattern, persistent=False)
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("_sizes", torch.tensor(self.sizes), persistent=False)
        self.register_buffer("_radix", levels ** torch.arange(s), persistent=False)
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

    def forward(self, context: PriorContext, known: Tensor, group: Tensor) -> Tensor:
        """Return the probabilities of the tokens at the places of a group, (n, p, tokens) float32.

        Args:
            context: see `context`.
            known: (n, s, y, x), the values of the frame; those of this group and later ones are not looked at.
            group: (n,), which group of each row.
        """
        probabilities = self._logits(context, known, group).softmax(dim=-1)
        return probabilities.mul_(1 - self.unimix).add_(self.unimix / self.tokens)

    def nats(self, context: PriorContext, codes: Tensor, values: Tensor, group: Tensor) -> Tensor:
        """Return the negative log-likelihood of a group given those before it, (n,).

        Args:
            context: see `context`.
            codes: (n, s, y, x), of the frame.
            values: (n, s, y, x), of these codes.
            group: (n,), which group of each row.
        """
        tokens = self.tokens_of(codes).gather(1, self.places[group])
        logits = self._logits(context, values, group)
        nats = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)
        if self.unimix > 0:
            nats = -torch.log((1 - self.unimix) * (-nats).exp() + self.unimix / self.tokens)
        counted = torch.arange(tokens.shape[1], device=tokens.device) < self._sizes[group][:, None]
        return (nats * counted).sum(dim=1)

    def _logits(self, context: PriorContext, known: Tensor, group: Tensor) -> Tensor:
        mask = (self.group < group[:, None, None]).to(known.dtype)[:, None]  # n 1 y x
        inputs = torch.cat((known * mask, mask), dim=1).contiguous(memory_format=torch.channels_last)
        maps = context.maps + self.known_conv(inputs)
        for block, film in zip(self.blocks, context.films, strict=True):
            maps = block(maps, film)
        listed = nn.functional.silu(maps).flatten(2).transpose(1, 2)  # n (y x) channels
        chosen = listed.gather(1, self.places[group][..., None].expand(-1, -1, listed.shape[2]))
        logits: Tensor = self.logits(chosen).float()
        return logits

    def tokens_of(self, codes: Tensor) -> Tensor:
        """Levels (n, s, y, x) -> tokens (n, y * x)."""
        return (codes * self._radix[:, None, None]).sum(dim=1).flatten(1)

    def codes_of(self, tokens: Tensor) -> Tensor:
        """Tokens (n, y * x) -> levels (n, s, y, x)."""
        digits = tokens[:, None] // self._radix[:, None] % self.levels
        codes: Tensor = digits.unflatten(2, self.grid[1:])
        return codes

"""Navigation World Models' transformer, CDiT (Bar et al. 2024): the next view of a robot that moves.

Tokens of the frame that is drawn attend to each other, and across to the tokens of the frames before it. Those are not
changed from block to block, but each block scales and shifts them by what it is told (noise level, move, time ahead)
before it makes keys and values of them. So keys and values hold for one pass of one block only; what does hold is each
past frame's latent, which is kept, and its normalised tokens, which are made once per pass rather than once per block.

Memory: ``latents`` (b, context, c, h, w), newest last; before there were so many, the first one stands for those that
are missing, as if nothing had moved. ``held`` (b,) int64, how many there are.

Letters: m rows, each of one frame that is drawn; n tokens per frame; k tokens of the past.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.backbones.denoising.networks import Asked, FrameNetwork, Remembered
from dreamenv.errors import ConfigError
from dreamenv.nn.attention import attend

if TYPE_CHECKING:
    from dreamenv.backbones.denoising.config import DenoisingConfig

__all__ = ["FURTHEST", "HIGHEST", "LOWEST", "Moves", "NWMFrames", "NWMSizes"]

LOWEST, HIGHEST = (-2.5, -4.0, -math.pi), (5.0, 4.0, math.pi)
"""A move's least and greatest values: forwards and to the left, in mean distances between recorded frames, and the turn
in radians. The network hears the first two scaled from these to [-1, 1], though moves over several frames go beyond."""

FURTHEST = 64
"""Recorded frames ahead that it learned to draw."""

_HORIZON = 128.0  # recorded frames that the network hears as 1
_WAVES = 256  # sines and cosines that a number is told as
_LONGEST = 10_000.0  # the greatest of their wavelengths, over 2 pi
_EPSILON = 1e-6  # of normalisations


@dataclass(frozen=True, kw_only=True)
class NWMSizes:
    """Sizes. The defaults are those of the published CDiT-XL/2.

    Attributes:
        kind: its name.
        width: of tokens.
        depth: blocks.
        heads: of attention.
        patch: latents per side of a token.
        pace: recorded frames per step of the world; there were 4 a second.

    Raises:
        ConfigError: sizes that cannot be.
    """

    kind: str = "nwm"
    width: int = 1152
    depth: int = 28
    heads: int = 16
    patch: int = 2
    pace: int = 1
    jumps: ClassVar[bool] = True  # it is told how far ahead a frame lies

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "patch", "pace"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.width % self.heads or self.width < 3:
            raise ConfigError(f"a width of {self.width} cannot be divided among {self.heads} heads and 3 numbers.")

    def vectors(self, space: gym.Space[Any]) -> Moves:
        """Return what scales moves.

        Raises:
            ConfigError: a space that is not of three real numbers.
        """
        return Moves(space)

    def network(self, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int) -> NWMFrames:
        """Make the untrained network.

        Raises:
            ConfigError: another process than a chain of steps, jumps beyond what it can be told, or a patch that does
                not divide the frame.
        """
        if config.noise != "chain":
            raise ConfigError(f"this network counts the steps of noise='chain', it cannot be told of {config.noise!r}.")
        if config.furthest_jump * self.pace > FURTHEST:
            raise ConfigError(
                f"this network learned to look {FURTHEST} frames ahead, not {config.furthest_jump} steps of "
                f"{self.pace}: make furthest_jump at most {FURTHEST // self.pace}."
            )
        if action_size != len(LOWEST):
            raise ConfigError(f"a move has {len(LOWEST)} numbers, not {action_size}.")
        return NWMFrames(self, config, frame_shape)


class Moves(nn.Module):
    """Moves (..., 3) as vectors, of which the sum is that of moves made one after another, straight on.

    The first two are scaled as for the network, but no move is 0; `NWMFrames` shifts them.

    Raises:
        ConfigError: a space that is not of three real numbers.
    """

    scale: Tensor
    size = 3
    chosen: ClassVar[list[bool]] = [False, False, False]

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__()
        if not isinstance(space, gym.spaces.Box) or space.shape != (self.size,):
            raise ConfigError(f"a move is a Box of 3 numbers (forwards, to the left, turn), not {space}.")
        spans = [2 / (high - low) for low, high in zip(LOWEST[:2], HIGHEST[:2], strict=True)]
        self.register_buffer("scale", torch.tensor([*spans, 1.0]), persistent=False)

    def forward(self, moves: Tensor) -> Tensor:
        """See the class."""
        return moves.float() * self.scale


class NWMFrames(FrameNetwork):
    """Draws one frame at a time, the next one or one further ahead.

    Args:
        sizes: of it.
        config: of its world; ``context`` frames are looked at.
        frame_shape: (c, h, w) of a latent.

    Raises:
        ConfigError: a patch that does not divide the frame.
    """

    still: Tensor

    def __init__(self, sizes: NWMSizes, config: DenoisingConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        (c, h, w), p, width = frame_shape, sizes.patch, sizes.width
        if h % p or w % p:
            raise ConfigError(f"a patch of {p} does not divide frames of {h} x {w}.")
        self.sizes, self.config, self.rows = sizes, config, h // p
        self.process, self.target = config.process, config.make_target()
        self.level, self.ahead = _Told(width), _Told(width)
        third = width // 3
        self.moves = nn.ModuleList(_Told(part) for part in (third, third, width - 2 * third))
        self.enter = nn.Conv2d(c, width, p, stride=p)
        self.places = nn.Parameter(0.02 * torch.randn(config.context + 1, self.rows * (w // p), width))
        self.blocks = nn.ModuleList(_Block(width, sizes.heads) for _ in range(sizes.depth))
        self.modulation, self.leave = nn.Linear(width, 2 * width), nn.Linear(width, 2 * c * p**2)
        for layer in (self.modulation, self.leave):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        # What the network hears of no move at all.
        shift = [-2 * low / (high - low) - 1 for low, high in zip(LOWEST[:2], HIGHEST[:2], strict=True)]
        self.register_buffer("still", torch.tensor([*shift, 0.0]), persistent=False)

    def begin(self, like: Tensor) -> Remembered:
        """No frame."""
        nothing = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        return {"latents": like.new_zeros(len(like), self.config.context, *like.shape[1:]), "held": nothing}

    def remember(
        self, past: Mapping[str, Tensor], frames: Tensor, actions: Tensor, groups: Tensor | None = None
    ) -> Remembered:
        """Keep the last ones. Moves that led to them are not looked at again."""
        del actions, groups
        w = self.config.context
        first = frames[:, :1].expand_as(past["latents"])
        kept = torch.where((past["held"] == 0)[:, None, None, None, None], first, past["latents"])
        held = (past["held"] + frames.shape[1]).clamp_max(w)
        return {"latents": torch.cat((kept, frames), dim=1)[:, -w:], "held": held}

    def predict(self, past: Mapping[str, Tensor], asked: Asked) -> Tensor:
        """Say the noise in one frame, f = 1, and how sure the network is: (b, 1, 2 c, h, w)."""
        alone = past["held"] == 0 if self.config.hide_past else None
        tokens = self._tokens(past["latents"]) + self.places[:-1]
        output = self._run(asked.noisy[:, 0], _normal(tokens.flatten(1, 2)), self._condition(asked)[:, 0], alone)
        return output[:, None]

    def predict_all(self, clean: Tensor, asked: Asked) -> Tensor:
        """Every frame from those that lie at least its gap before it: noise and variance, (b, s, 2 c, h, w)."""
        (b, s), w = clean.shape[:2], self.config.context
        gap = torch.ones_like(asked.level) if asked.gap is None else asked.gap
        back = torch.arange(w, 0, -1, device=clean.device) - 1
        order = torch.arange(s, device=clean.device)[:, None]
        which = (order - gap.long()[..., None] - back).clamp_min(0)  # b s w; the first frame stands for missing ones
        rows = torch.arange(b, device=clean.device)[:, None, None]
        tokens = self._tokens(clean)[rows, which] + self.places[:-1]
        context = _normal(rearrange(tokens, "b s w n d -> (b s) (w n) d"))
        alone = None if asked.alone is None else asked.alone.repeat_interleave(s)
        output = self._run(asked.noisy.flatten(0, 1), context, self._condition(asked).flatten(0, 1), alone)
        return rearrange(output, "(b s) c h w -> b s c h w", b=b)

    def _condition(self, asked: Asked) -> Tensor:
        """Return what blocks are told, (b, f, width)."""
        gap = torch.ones_like(asked.level) if asked.gap is None else asked.gap.to(asked.level.dtype)
        move = asked.actions * gap[..., None] + self.still  # an action is the mean over the gap, the network's a sum
        told = torch.cat([part(move[..., i]) for i, part in enumerate(self.moves)], dim=-1)
        total: Tensor = self.level(asked.level.clamp_min(0)) + self.ahead(gap * self.sizes.pace / _HORIZON) + told
        return total

    def _tokens(self, frames: Tensor) -> Tensor:
        """Frames (b, f, c, h, w) -> (b, f, n, width)."""
        maps = self.enter(frames.flatten(0, 1))
        tokens: Tensor = rearrange(maps, "(b f) d y x -> b f (y x) d", b=len(frames))
        return tokens

    def _run(self, noisy: Tensor, context: Tensor, condition: Tensor, alone: Tensor | None) -> Tensor:
        """Noisy frames (m, c, h, w), what is told (m, width), rows with no past (m,) -> (m, 2 c, h, w).

        Args:
            noisy: what is drawn.
            context: (m, k, width) normalised tokens of the past.
            condition: what is told.
            alone: None for none.
        """
        tokens = self._tokens(noisy[:, None])[:, 0] + self.places[-1]
        condition = functional.silu(condition)
        mask = None
        if alone is not None:  # the key that is no frame's, the last one, can always be looked at
            there = (~alone)[:, None].expand(-1, context.shape[1])
            mask = torch.cat((there, there.new_ones(len(there), 1)), dim=1)[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, condition, context, mask)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        output = self.leave(_modulated(_normal(tokens), shift, scale))
        p = self.sizes.patch
        frames: Tensor = rearrange(output, "m (y x) (p q c) -> m c (y p) (x q)", y=self.rows, p=p, q=p)
        return frames


class _Told(nn.Module):
    """A number as a vector: sines and cosines of it, mixed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(_WAVES, width), nn.Linear(width, width)

    def forward(self, numbers: Tensor) -> Tensor:
        """(...) -> (..., width)."""
        half = _WAVES // 2
        order = torch.arange(half, dtype=torch.float32, device=numbers.device)
        angles = numbers.float()[..., None] * torch.exp(-math.log(_LONGEST) * order / half)
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1)
        mixed: Tensor = self.second(functional.silu(self.first(waves)))
        return mixed


class _Block(nn.Module):
    """Attention among the frame's tokens, across to the past's, and a feed-forward network, each told and gated."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 11 * width)
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.enter_across, self.leave_across = nn.Linear(width, 3 * width), nn.Linear(width, width)
        # A key and a value that are no frame's.
        self.key, self.value = (nn.Parameter(0.02 * torch.randn(1, 1, width)) for _ in range(2))
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, condition: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Run.

        Args:
            tokens: (m, n, width).
            condition: (m, width), after its activation.
            context: (m, k, width), normalised.
            mask: (m, 1, 1, k + 1) bool, what may be looked at; None for all.
        """
        parts = self.modulation(condition)[:, None].chunk(11, dim=-1)
        query, key, value = self.enter(_modulated(_normal(tokens), *parts[:2])).chunk(3, dim=-1)
        tokens = torch.addcmul(tokens, parts[2], self.leave(self._attended(query, key, value)))
        query, key, value = self._across(_modulated(_normal(tokens), *parts[5:7]), _modulated(context, *parts[3:5]))
        tokens = torch.addcmul(tokens, parts[7], self.leave_across(self._attended(query, key, value, mask)))
        inner = functional.gelu(self.expand(_modulated(_normal(tokens), *parts[8:10])), approximate="tanh")
        return torch.addcmul(tokens, parts[10], self.contract(inner))

    def _across(self, tokens: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        width, (weight, bias) = tokens.shape[-1], (self.enter_across.weight, self.enter_across.bias)
        query = functional.linear(tokens, weight[:width], bias[:width])
        both = functional.linear(context, weight[width:], bias[width:])
        fixed = torch.cat((self.key, self.value), dim=-1).to(both.dtype).expand(len(both), -1, -1)
        key, value = torch.cat((both, fixed), dim=1).chunk(2, dim=-1)
        return query, key, value

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        seen = attend(query, key, value, mask)
        return seen.transpose(1, 2).flatten(2)


def _normal(tokens: Tensor) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=_EPSILON)


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, tokens, 1 + scale)

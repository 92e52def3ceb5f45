"""Navigation World Models' transformer, CDiT (Bar et al. 2024): the next view of a robot that moves.

Tokens of the noisy frame attend to each other, and across to the tokens of the frames before it. Those are not changed
from block to block, but each block modulates them by the condition (noise level, move, time ahead) before it makes keys
and values of them. So keys and values hold for one pass of one block only; what does hold is each past frame, which is
cached, and its normalised tokens, which are made once per pass rather than once per block.

Cache: ``frames`` (b, context, c, h, w), newest last; before there were so many, the first one stands for those that are
missing, as if nothing had moved. ``length`` (b,) int64, how many there are.

Letters: m rows, each of one frame that is predicted; n tokens per frame; k tokens of the past.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.denoisers.base import Cache, Denoiser, DenoiserConfig, DenoiserInput, DenoiserShape
from dreamenv.errors import ConfigError
from dreamenv.nn.actions import ActionEncoder
from dreamenv.nn.attention import attend
from dreamenv.nn.sinusoidal import sinusoidal_embedding
from dreamenv.nn.transformer import check_patch

__all__ = ["FURTHEST", "HIGHEST", "LOWEST", "NWM", "CDiTBlock", "Moves", "NWMConfig", "ScalarEmbedding"]

LOWEST, HIGHEST = (-2.5, -4.0, -math.pi), (5.0, 4.0, math.pi)
"""A move's least and greatest values: forwards and to the left, in mean distances between recorded frames, and the turn
in radians. The network is given the first two scaled from these to [-1, 1], though moves over several frames go beyond.
"""

FURTHEST = 64
"""Recorded frames ahead that it learned to predict."""

_HORIZON = 128.0  # recorded frames that the network is given as 1
_WAVES = 256  # sines and cosines that a number is embedded as
_EPSILON = 1e-6  # of normalisations


@dataclass(frozen=True, kw_only=True)
class NWMConfig(DenoiserConfig, kind="nwm"):
    """Settings. The defaults are those of the published CDiT-XL/2.

    Attributes:
        context: past frames that are attended to.
        embed_dim: width of tokens.
        depth: blocks.
        heads: of attention.
        patch: latents per side of a token.
        pace: recorded frames per step of the world; there were 4 a second.
        max_time_shift: the most steps ahead that a frame can be predicted.

    Raises:
        ConfigError: sizes that cannot be, or steps further ahead than it learned to predict.
    """

    context: int = 4
    embed_dim: int = 1152
    depth: int = 28
    heads: int = 16
    patch: int = 2
    pace: int = 1
    max_time_shift: int = FURTHEST
    learns_variance: ClassVar[bool] = True
    pretrained: ClassVar[bool] = True
    noise_processes: ClassVar[tuple[str, ...]] = ("vp",)

    def __post_init__(self) -> None:
        for name in ("context", "embed_dim", "depth", "heads", "patch", "pace", "max_time_shift"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.embed_dim % self.heads or self.embed_dim < 3:
            raise ConfigError(
                f"an embed_dim of {self.embed_dim} cannot be divided among {self.heads} heads and 3 numbers."
            )
        if self.max_time_shift * self.pace > FURTHEST:
            raise ConfigError(
                f"this network learned to look {FURTHEST} frames ahead, not {self.max_time_shift} steps of "
                f"{self.pace}: make max_time_shift at most {FURTHEST // self.pace}."
            )

    @property
    def context_frames(self) -> int:
        """See `DenoiserConfig`."""
        return self.context

    @property
    def shift_range(self) -> int:
        """See `DenoiserConfig`."""
        return self.max_time_shift

    def action_encoder(self, space: gym.Space[Any]) -> Moves:
        """See `DenoiserConfig`; the space must be a Box of three numbers."""
        return Moves(space)

    def build(self, shape: DenoiserShape) -> NWM:
        """See `DenoiserConfig`."""
        return NWM(self, shape)


class Moves(ActionEncoder):
    """Moves (..., 3) as vectors, of which the sum is that of moves made one after another, straight on.

    The first two are scaled as for the network, but no move is 0; `NWM` shifts them.

    Raises:
        ConfigError: a space that is not of three real numbers.
    """

    scale: Tensor

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__()
        self.size, self.discrete = len(LOWEST), [False] * len(LOWEST)
        if not isinstance(space, gym.spaces.Box) or space.shape != (self.size,):
            raise ConfigError(f"a move is a Box of 3 numbers (forwards, to the left, turn), not {space}.")
        spans = [2 / (high - low) for low, high in zip(LOWEST[:2], HIGHEST[:2], strict=True)]
        self.register_buffer("scale", torch.tensor([*spans, 1.0]), persistent=False)

    def forward(self, actions: Tensor) -> Tensor:
        """See the class."""
        return actions.float() * self.scale


class NWM(Denoiser):
    """Predicts one frame at a time, the next one or one further ahead: the noise in it, and the step's variance.

    Args:
        config: its settings.
        shape: what it is built for.

    Raises:
        ConfigError: a patch that does not divide the frame, or vectors that are not those of one move.
    """

    still: Tensor

    def __init__(self, config: NWMConfig, shape: DenoiserShape) -> None:
        super().__init__()
        c, p, dim = shape.frame_shape[0], config.patch, config.embed_dim
        self.rows, columns = check_patch(shape.frame_shape, p)
        if shape.action_size != len(LOWEST):
            raise ConfigError(f"a move has {len(LOWEST)} numbers, not {shape.action_size}.")
        self.context, self.patch, self.pace = config.context, p, config.pace
        self.time, self.time_shift = ScalarEmbedding(dim), ScalarEmbedding(dim)
        third = dim // 3
        self.moves = nn.ModuleList(ScalarEmbedding(part) for part in (third, third, dim - 2 * third))
        self.patch_embed = nn.Conv2d(c, dim, p, stride=p)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(config.context + 1, self.rows * columns, dim))
        self.blocks = nn.ModuleList(CDiTBlock(dim, config.heads) for _ in range(config.depth))
        self.modulation, self.final = nn.Linear(dim, 2 * dim), nn.Linear(dim, 2 * c * p**2)
        for layer in (self.modulation, self.final):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        # What the network is given for no move at all.
        shift = [-2 * low / (high - low) - 1 for low, high in zip(LOWEST[:2], HIGHEST[:2], strict=True)]
        self.register_buffer("still", torch.tensor([*shift, 0.0]), persistent=False)

    def init_cache(self, frames: Tensor) -> Cache:
        """See `Denoiser`."""
        length = torch.zeros(len(frames), dtype=torch.int64, device=frames.device)
        return {"frames": frames.new_zeros(len(frames), self.context, *frames.shape[1:]), "length": length}

    def update_cache(self, cache: Mapping[str, Tensor], context: DenoiserInput) -> Cache:
        """See `Denoiser`. Moves that led to these frames are not looked at again."""
        first = context.frames[:, :1].expand_as(cache["frames"])
        kept = torch.where((cache["length"] == 0)[:, None, None, None, None], first, cache["frames"])
        length = (cache["length"] + context.frames.shape[1]).clamp_max(self.context)
        return {"frames": torch.cat((kept, context.frames), dim=1)[:, -self.context :], "length": length}

    def forward_cached(self, cache: Mapping[str, Tensor], noisy: DenoiserInput) -> Tensor:
        """See `Denoiser`; f = 1, with a learned variance."""
        tokens = self._tokens(cache["frames"]) + self.pos_embed[:-1]
        context, condition = _normalize(tokens.flatten(1, 2)), self._condition(noisy)[:, 0]
        return self._predict(noisy.frames[:, 0], context, condition, cache["length"] > 0)[:, None]

    def forward_sequence(self, context: DenoiserInput, noisy: DenoiserInput) -> Tensor:
        """See `Denoiser`; every frame from those that lie at least its shift before it, with a learned variance."""
        (b, s), n, device = context.frames.shape[:2], self.context, context.frames.device
        shift = torch.ones_like(noisy.time) if noisy.time_shift is None else noisy.time_shift
        back = torch.arange(n, 0, -1, device=device) - 1
        order = torch.arange(s, device=device)[:, None]
        which = (order - shift.long()[..., None] - back).clamp_min(0)  # b s n; the first frame stands for missing ones
        rows = torch.arange(b, device=device)[:, None, None]
        tokens = self._tokens(context.frames)[rows, which] + self.pos_embed[:-1]
        seen = _normalize(rearrange(tokens, "b s f n d -> (b s) (f n) d"))
        valid = None if noisy.drop_context is None else ~noisy.drop_context.repeat_interleave(s)
        output = self._predict(noisy.frames.flatten(0, 1), seen, self._condition(noisy).flatten(0, 1), valid)
        frames: Tensor = output.unflatten(0, (b, s))
        return frames

    def _condition(self, noisy: DenoiserInput) -> Tensor:
        """Return what modulates the blocks, (b, f, embed_dim)."""
        shift = torch.ones_like(noisy.time) if noisy.time_shift is None else noisy.time_shift.to(noisy.time.dtype)
        move = noisy.actions * shift[..., None] + self.still  # an action is the mean of the steps, a move their sum
        moves = torch.cat([embed(move[..., i]) for i, embed in enumerate(self.moves)], dim=-1)
        total: Tensor = self.time(noisy.time) + self.time_shift(shift * self.pace / _HORIZON) + moves
        return total

    def _tokens(self, frames: Tensor) -> Tensor:
        """Frames (b, f, c, h, w) -> (b, f, n, embed_dim)."""
        maps = self.patch_embed(frames.flatten(0, 1))
        tokens: Tensor = rearrange(maps, "(b f) d y x -> b f (y x) d", b=len(frames))
        return tokens

    def _predict(self, noisy: Tensor, context: Tensor, condition: Tensor, valid: Tensor | None) -> Tensor:
        """Run all blocks.

        Args:
            noisy: (m, c, h, w).
            context: (m, k, embed_dim) normalised tokens of the past.
            condition: (m, embed_dim).
            valid: (m,) bool, rows that have a past; None for all.

        Returns:
            (m, 2 c, h, w).
        """
        tokens = self._tokens(noisy[:, None])[:, 0] + self.pos_embed[-1]
        condition = functional.silu(condition)
        for block in self.blocks:
            tokens = block(tokens, condition, context, valid)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        output = self.final(_modulate(_normalize(tokens), shift, scale))
        p = self.patch
        frames: Tensor = rearrange(output, "m (y x) (p q c) -> m c (y p) (x q)", y=self.rows, p=p, q=p)
        return frames


class ScalarEmbedding(nn.Module):
    """A number as a vector: sines and cosines of it, mixed.

    Args:
        embed_dim: width of the vector.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(_WAVES, embed_dim), nn.Linear(embed_dim, embed_dim)

    def forward(self, numbers: Tensor) -> Tensor:
        """(...) -> (..., embed_dim)."""
        mixed: Tensor = self.fc2(functional.silu(self.fc1(sinusoidal_embedding(numbers.float(), _WAVES))))
        return mixed


class CDiTBlock(nn.Module):
    """Attention among the frame's tokens, across to the past's, and a feed-forward network, each modulated and gated.

    Args:
        embed_dim: width of tokens.
        heads: of attention.
    """

    def __init__(self, embed_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(embed_dim, 11 * embed_dim)
        self.qkv, self.out_proj = nn.Linear(embed_dim, 3 * embed_dim), nn.Linear(embed_dim, embed_dim)
        self.cross_qkv, self.cross_out_proj = nn.Linear(embed_dim, 3 * embed_dim), nn.Linear(embed_dim, embed_dim)
        # A key and a value that are no frame's, and can always be attended to.
        self.null_key, self.null_value = (nn.Parameter(0.02 * torch.randn(1, 1, embed_dim)) for _ in range(2))
        self.fc1, self.fc2 = nn.Linear(embed_dim, 4 * embed_dim), nn.Linear(4 * embed_dim, embed_dim)
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, condition: Tensor, context: Tensor, valid: Tensor | None) -> Tensor:
        """Run.

        Args:
            tokens: (m, n, embed_dim).
            condition: (m, embed_dim), after its activation.
            context: (m, k, embed_dim), normalised.
            valid: (m,) bool, rows whose context may be seen; None for all.
        """
        parts = self.modulation(condition)[:, None].chunk(11, dim=-1)
        query, key, value = self.qkv(_modulate(_normalize(tokens), *parts[:2])).chunk(3, dim=-1)
        tokens = torch.addcmul(tokens, parts[2], self.out_proj(self._attend(query, key, value)))
        query, key, value = self._across(_modulate(_normalize(tokens), *parts[5:7]), _modulate(context, *parts[3:5]))
        attended = self._attend(query, key, value)
        if valid is not None:  # without a context, all attention is on the one key that is always there
            attended = torch.where(valid[:, None, None], attended, self.null_value.to(attended.dtype))
        tokens = torch.addcmul(tokens, parts[7], self.cross_out_proj(attended))
        inner = functional.gelu(self.fc1(_modulate(_normalize(tokens), *parts[8:10])), approximate="tanh")
        return torch.addcmul(tokens, parts[10], self.fc2(inner))

    def _across(self, tokens: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens' queries, and the context's keys and values with those that are no frame's."""
        dim, (weight, bias) = tokens.shape[-1], (self.cross_qkv.weight, self.cross_qkv.bias)
        query = functional.linear(tokens, weight[:dim], bias[:dim])
        both = functional.linear(context, weight[dim:], bias[dim:])
        null = torch.cat((self.null_key, self.null_value), dim=-1).to(both.dtype).expand(len(both), -1, -1)
        key, value = torch.cat((both, null), dim=1).chunk(2, dim=-1)
        return query, key, value

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        return attend(query, key, value).transpose(1, 2).flatten(2)


def _normalize(tokens: Tensor) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=_EPSILON)


def _modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, tokens, 1 + scale)

"""Oasis's transformer (Decart and Etched 2024): attention in space, then along time, a noise level per frame.

Every block is modulated by a condition: the timestep as sines and cosines, through two layers, and the action's 25
values, through one, added up. Positions are rotary, see `dreamenv.nn.pair_rotary`. A frame attends to itself and
``context`` frames before it.

Two ways to remember when the window is full (``OasisConfig.window``). "slides": keys and values of past frames are kept
as they were computed once. "restarts": the kept frames are computed again once per frame, as if there had been none
before them, which is what the public code computes in every sampling step. Both agree until the window is full.

Cache: ``keys``, ``values`` (b, depth, n, heads, context, d), newest last; ``length`` (b,) int64, how many are there;
``position`` (b,) int64, of the next frame; where it restarts also what past frames were given as, ``frames``
(b, context, c, h, w), ``times`` (b, context) and ``actions`` (b, context, a).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium as gym
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.denoisers.base import Cache, Denoiser, DenoiserConfig, DenoiserInput, DenoiserShape
from dreamenv.denoisers.oasis_actions import KeyVectors
from dreamenv.errors import ConfigError
from dreamenv.nn.attention import attend, attend_cached, block_causal_mask, check_heads
from dreamenv.nn.batching import linear_2d
from dreamenv.nn.pair_rotary import apply_rotary, place_angles, place_speeds, time_speeds
from dreamenv.nn.sinusoidal import sinusoidal_embedding
from dreamenv.nn.transformer import DiTBlock, check_patch, modulate

__all__ = ["HIGHEST_FREQUENCY", "Oasis", "OasisConfig"]

HIGHEST_FREQUENCY = 256.0
"""Of rotary positions in space."""

_TIME_FEATURES = 256  # sines and cosines of a timestep

_KeysValues = tuple[Tensor, Tensor]  # (b, n, heads, f, d) each


@dataclass(frozen=True, kw_only=True)
class OasisConfig(DenoiserConfig, kind="oasis"):
    """Settings of the network; the defaults are those that were published.

    Attributes:
        context: past frames that a frame attends to.
        width: of tokens.
        depth: blocks, of two attentions each.
        heads: of attention; each is a multiple of 4 wide.
        patch: latents per side of a token.
        window: what happens when it is full: it "slides", or it "restarts" as the public code's, at a third of the
            speed.
        action_table: the 25 values of each action of a Discrete space; empty for other spaces.

    Raises:
        ConfigError: sizes that cannot be.
    """

    per_frame_noise: ClassVar[bool] = True
    pretrained: ClassVar[bool] = True
    noise_processes: ClassVar[tuple[str, ...]] = ("vp",)

    context: int = 31
    width: int = 1024
    depth: int = 16
    heads: int = 16
    patch: int = 2
    window: Literal["slides", "restarts"] = "slides"
    action_table: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("context", "width", "depth", "patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        check_heads(self.width, self.heads, 4)
        if self.window not in ("slides", "restarts"):
            raise ConfigError(f"window must be 'slides' or 'restarts', not {self.window!r}.")

    @property
    def context_frames(self) -> int:
        """See `DenoiserConfig`."""
        return self.context

    def action_encoder(self, space: gym.Space[Any]) -> KeyVectors:
        """See `DenoiserConfig`."""
        return KeyVectors(space, self.action_table)

    def build(self, shape: DenoiserShape) -> Oasis:
        """See `DenoiserConfig`."""
        return Oasis(self, shape)


class Oasis(Denoiser):
    """The network.

    Args:
        config: its settings.
        shape: of frames and actions.

    Raises:
        ConfigError: a patch that does not divide the frames.
    """

    spatial_speeds: Tensor
    temporal_speeds: Tensor

    def __init__(self, config: OasisConfig, shape: DenoiserShape) -> None:
        super().__init__()
        self.config, self.action_size = config, shape.action_size
        p, width, depth, head = config.patch, config.width, config.depth, config.width // config.heads
        self.rows, self.columns = check_patch(shape.frame_shape, p)
        channels = shape.frame_shape[0]
        self.cache_shape = (depth, self.rows * self.columns, config.heads, config.context, head)
        self.patch_embed = nn.Conv2d(channels, width, p, stride=p)
        self.time_embed = nn.Sequential(nn.Linear(_TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.action_embed = nn.Linear(self.action_size, width)
        self.spatial_blocks = nn.ModuleList(
            DiTBlock(_SpatialAttention(width, config.heads), width) for _ in range(depth)
        )
        self.temporal_blocks = nn.ModuleList(
            DiTBlock(_TemporalAttention(width, config.heads), width) for _ in range(depth)
        )
        self.modulation, self.out_proj = nn.Linear(width, 2 * width), nn.Linear(width, p**2 * channels)
        for layer in (self.modulation, self.out_proj):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        self.register_buffer("spatial_speeds", place_speeds(head // 4, HIGHEST_FREQUENCY))
        self.register_buffer("temporal_speeds", time_speeds(head // 2))

    def init_cache(self, frames: Tensor) -> Cache:
        """See `Denoiser`."""
        b, w = len(frames), self.config.context
        none = torch.zeros(b, dtype=torch.int64, device=frames.device)
        empty = frames.new_zeros(b, *self.cache_shape)
        cache = {"keys": empty, "values": empty.clone(), "length": none, "position": none.clone()}
        if self.config.window == "restarts":
            cache["frames"] = frames.new_zeros(b, w, *frames.shape[1:])
            cache["times"] = frames.new_zeros(b, w)
            cache["actions"] = frames.new_zeros(b, w, self.action_size)
        return cache

    def update_cache(self, cache: Mapping[str, Tensor], context: DenoiserInput) -> Cache:
        """Take in keys and values of the last frames; see the top of this file for a window that is full."""
        if self.config.window == "slides":
            return self._extended(cache, context)
        w = self.config.context
        given = {"frames": context.frames, "times": context.time, "actions": context.actions}
        given = {name: torch.cat((cache[name], new), dim=1)[:, -w:] for name, new in given.items()}
        full = cache["length"] + context.frames.shape[1] > w
        known = {name: cache[name] for name in ("keys", "values", "length", "position")}
        updated = known if bool(full.all()) else self._extended(cache, context)
        rows = full.nonzero()[:, 0]
        if len(rows):
            again = DenoiserInput(given["frames"][rows], given["times"][rows], given["actions"][rows])
            restarted = self._extended(self.init_cache(again.frames[:, 0]), again)
            updated = {name: updated[name].index_copy(0, rows, value) for name, value in restarted.items()}
        return {**updated, **given}

    def forward_cached(self, cache: Mapping[str, Tensor], noisy: DenoiserInput) -> Tensor:
        """See `Denoiser`."""
        return self._run(noisy, cache)[0]

    def forward_sequence(self, context: DenoiserInput, noisy: DenoiserInput) -> Tensor:
        """See `Denoiser`."""
        del context
        return self._run(noisy, None)[0]

    def _extended(self, cache: Mapping[str, Tensor], context: DenoiserInput) -> Cache:
        w, f = self.config.context, context.frames.shape[1]
        _, layers = self._run(context, cache)
        keys, values = (torch.stack(parts, dim=1) for parts in zip(*layers, strict=True))
        return {
            "keys": torch.cat((cache["keys"], keys), dim=-2)[..., -w:, :],
            "values": torch.cat((cache["values"], values), dim=-2)[..., -w:, :],
            "length": (cache["length"] + f).clamp_max(w),
            "position": cache["position"] + f,
        }

    def _run(self, given: DenoiserInput, cache: Mapping[str, Tensor] | None) -> tuple[Tensor, list[_KeysValues]]:
        """Return the prediction (b, f, c, h, w), and keys and values of each block."""
        b, f = given.frames.shape[:2]
        tokens = rearrange(self.patch_embed(given.frames.flatten(0, 1)), "(b f) d y x -> b f (y x) d", f=f)
        condition = self.time_embed(sinusoidal_embedding(given.time, _TIME_FEATURES)) + self.action_embed(given.actions)
        condition = functional.silu(condition)
        places = place_angles(self.rows, self.columns, self.spatial_speeds)
        order = torch.arange(f, device=tokens.device)
        position = order.new_zeros(b) if cache is None else cache["position"]
        times = (position[:, None] + order)[:, None, None, :, None] * self.temporal_speeds
        mask = self._mask(cache, order, b)
        layers: list[_KeysValues] = []
        for index in range(self.config.depth):
            past = None if cache is None else (cache["keys"][:, index], cache["values"][:, index])
            tokens, _ = self.spatial_blocks[index](tokens, condition, places)
            tokens, (layer,) = self.temporal_blocks[index](tokens, condition, times, mask, past)
            layers.append(layer)
        shift, scale = self.modulation(condition)[:, :, None].chunk(2, dim=-1)
        output = self.out_proj(modulate(tokens, shift, scale))
        p = self.config.patch
        frames: Tensor = rearrange(output, "b f (y x) (p q c) -> b f c (y p) (x q)", y=self.rows, p=p, q=p)
        return frames, layers

    def _mask(self, cache: Mapping[str, Tensor] | None, order: Tensor, b: int) -> Tensor:
        """Return which frames each frame attends to, (b, f, f) bool, or (b, f, context + f) with those in the cache."""
        w = self.config.context
        mask = block_causal_mask(order, w).expand(b, -1, -1)
        if cache is None:
            return mask
        age = w - torch.arange(w, device=order.device)  # the newest is 1 before the first of these frames
        near, valid = (age + order[:, None]) <= w, age <= cache["length"][:, None]
        return torch.cat((near & valid[:, None], mask), dim=-1)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out_proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def _split(self, tokens: Tensor) -> Sequence[Tensor]:
        """(g, h, s, width) -> three of (g, h, heads, s, d)."""
        parts = linear_2d(self.qkv, tokens).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        return [part.transpose(-3, -2) for part in parts.unbind(0)]

    def _join(self, attended: Tensor) -> Tensor:
        return linear_2d(self.out_proj, attended.transpose(-3, -2).flatten(-2))


class _SpatialAttention(_Attention):
    """All places of a frame attend to each other."""

    def forward(self, tokens: Tensor, angles: Tensor) -> Tensor:
        """Tokens (b, f, n, width) and the places' angles (n, d / 2) -> tokens."""
        query, key, value = self._split(tokens)
        attended = _attend(apply_rotary(query, angles), apply_rotary(key, angles), value)
        return self._join(attended)


class _TemporalAttention(_Attention):
    """Each place attends to itself in its own frame and in those before."""

    def forward(
        self, tokens: Tensor, angles: Tensor, mask: Tensor, past: _KeysValues | None
    ) -> tuple[Tensor, _KeysValues]:
        """Attend.

        Args:
            tokens: (b, f, n, width).
            angles: (b, 1, 1, f, d / 2), of the frames' times.
            mask: (b, f, w + f) bool, which frames each attends to.
            past: keys and values (b, n, heads, w, d) of frames before; None if there were none.

        Returns:
            Tokens, and their keys and values, (b, n, heads, f, d) each.
        """
        query, key, value = self._split(tokens.transpose(1, 2))
        query, key = apply_rotary(query, angles), apply_rotary(key, angles)
        if past is None:
            everywhere = mask[:, None].expand(-1, tokens.shape[2], -1, -1)
            attended = _attend(query, key, value, everywhere.flatten(0, 1)[:, None])
        else:
            attended = attend_cached(query, (past[0], key), (past[1], value), mask[:, None, None])
        return self._join(attended).transpose(1, 2), (key, value)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend from (g, h, heads, s, d), with four axes instead of five, for which there are fast kernels."""
    q, k, v = (part.flatten(0, 1) for part in (query, key, value))
    attended: Tensor = attend(q, k, v, mask).unflatten(0, query.shape[:2])
    return attended

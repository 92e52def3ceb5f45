"""Oasis's transformer (Decart and Etched 2024): attention in space, then along time, each frame at its own noise level.

Every half of a block listens to a condition: the noise level's step number in sines and cosines, through two layers,
and the action's 25 values, through one, added up. Positions are rotary, see `dreamenv.public.pair_rotary`. A frame
attends to itself and ``config.context`` frames before it; clean ones are presented as `stabilised` does.

Two ways to remember when the window is full (``OasisSizes.window``). "slides": keys and values of past frames are kept
as they were computed once. "restarts": the kept frames are computed anew once per frame, as if there had been none
before them, which is what the public code computes in every pass. Both agree until the window is full.

Memory: ``keys``, ``values`` (b, depth, n, heads, context, d), newest last; ``held`` (b,) int64, how many are there;
``seen`` (b,) int64, the position of the next one; where it restarts also ``latents`` (b, context, c, h, w) and
``actions`` (b, context, a).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.networks import Asked, FrameNetwork, Remembered
from dreamenv.diffusion.objective import stabilised
from dreamenv.errors import ConfigError
from dreamenv.nn.attention import attend, attend_where_it_lies
from dreamenv.nn.pieces import by_row
from dreamenv.nn.transformer import Half, modulated
from dreamenv.public.oasis_actions import KeyVectors
from dreamenv.public.pair_rotary import place_angles, place_speeds, time_speeds, turn

__all__ = ["WAVES", "OasisFrames", "OasisSizes"]

WAVES = 256
"""Width of the sines and cosines of a noise level."""

_SLOWEST = 10_000.0  # their longest wave over the shortest
_HIGHEST = 256.0  # frequency in space
_EPSILON = 1e-6  # of normalisations

_Layer = tuple[Tensor, Tensor]  # keys and values (b, n, heads, f, d)


@dataclass(frozen=True, kw_only=True)
class OasisSizes:
    """Sizes of the network; the defaults are those that were published.

    Attributes:
        kind: "oasis".
        width: of tokens.
        depth: blocks, of two attentions each.
        heads: of attention; each is a multiple of 4 wide.
        patch: latents per side of a token.
        window: what happens when it is full: it "slides", or it "restarts" as the public code's, at a third of the
            speed.
        table: the 25 values of each action of a Discrete space.

    Raises:
        ConfigError: sizes that cannot be.
    """

    kind: str = "oasis"
    width: int = 1024
    depth: int = 16
    heads: int = 16
    patch: int = 2
    window: Literal["slides", "restarts"] = "slides"
    table: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.width % (4 * self.heads):
            raise ConfigError(f"a width of {self.width} must be {self.heads} heads times a multiple of 4.")
        if self.window not in ("slides", "restarts"):
            raise ConfigError(f"window must be 'slides' or 'restarts', not {self.window!r}.")

    def vectors(self, space: gym.Space[Any]) -> nn.Module:
        """See `NetworkPart`."""
        return KeyVectors(space, self.table)

    def network(self, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int) -> OasisFrames:
        """See `NetworkPart`."""
        return OasisFrames(self, config, frame_shape, action_size)


class OasisFrames(FrameNetwork):
    """The network.

    Args:
        sizes: its own.
        config: of its world.
        frame_shape: (c, h, w) of latents.
        action_size: of an action's vector.

    Raises:
        ConfigError: a patch that does not divide the latents.
    """

    space_speeds: Tensor
    time_speeds: Tensor

    def __init__(
        self, sizes: OasisSizes, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int
    ) -> None:
        super().__init__()
        self.sizes, self.config = sizes, config
        self.process, self.target = config.process, config.make_target()
        c, h, w = frame_shape
        p, width, head = sizes.patch, sizes.width, sizes.width // sizes.heads
        if h % p or w % p:
            raise ConfigError(f"a patch of {p} does not divide latents of {h} x {w}.")
        self.rows, self.columns = h // p, w // p
        self.memory_shape = (sizes.depth, self.rows * self.columns, sizes.heads, config.context, head)
        self.enter = nn.Conv2d(c, width, p, stride=p)
        self.level = nn.Sequential(nn.Linear(WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.action = nn.Linear(action_size, width)
        self.space = nn.ModuleList(Half(_SpaceAttention(width, sizes.heads), width) for _ in range(sizes.depth))
        self.time = nn.ModuleList(Half(_TimeAttention(width, sizes.heads), width) for _ in range(sizes.depth))
        self.modulation, self.leave = nn.Linear(width, 2 * width), nn.Linear(width, p**2 * c)
        for layer in (self.modulation, self.leave):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        self.register_buffer("space_speeds", place_speeds(head // 4, _HIGHEST))
        self.register_buffer("time_speeds", time_speeds(head // 2))

    def begin(self, like: Tensor) -> Remembered:
        """No frame."""
        b, w = like.shape[0], self.config.context
        nothing = torch.zeros(b, dtype=torch.int64, device=like.device)
        empty = like.new_zeros(b, *self.memory_shape)
        memory = {"keys": empty, "values": empty.clone(), "held": nothing, "seen": nothing.clone()}
        if self.sizes.window == "restarts":
            memory["latents"] = like.new_zeros(b, w, *like.shape[1:])
            memory["actions"] = like.new_zeros(b, w, self.action.in_features)
        return memory

    def remember(
        self, past: Mapping[str, Tensor], frames: Tensor, actions: Tensor, groups: Tensor | None = None
    ) -> Remembered:
        """Keep the keys and values of the last frames, as the window's way is."""
        del groups  # every frame is drawn alone
        if self.sizes.window == "slides":
            return self._kept(past, frames, actions)
        w = self.config.context
        latents = torch.cat((past["latents"], frames), dim=1)[:, -w:]
        led = torch.cat((past["actions"], actions), dim=1)[:, -w:]
        full = past["held"] + frames.shape[1] > w
        rows = full.nonzero()[:, 0]
        known = {name: past[name] for name in ("keys", "values", "held", "seen")}
        memory = known if bool(full.all()) else self._kept(past, frames, actions)
        if len(rows):
            anew = self._kept(self.begin(latents[rows, 0]), latents[rows], led[rows])
            memory = {name: memory[name].index_copy(0, rows, value) for name, value in anew.items()}
        return {**memory, "latents": latents, "actions": led}

    def predict(self, past: Mapping[str, Tensor], asked: Asked) -> Tensor:
        """Attend to what is remembered, and to each other, earlier ones and oneself."""
        return self._run(asked, past)[0]

    def predict_all(self, clean: Tensor, asked: Asked) -> Tensor:
        """All noisy frames together, which are each other's context."""
        del clean
        return self._run(asked, None)[0]

    def _kept(self, past: Mapping[str, Tensor], frames: Tensor, actions: Tensor) -> Remembered:
        w, f = self.config.context, frames.shape[1]
        shown, level = stabilised(self.process, frames, self.config.stabilisation, self.config.manner)
        _, layers = self._run(Asked(shown, level, actions), past)
        keys, values = (torch.stack(kept, dim=1) for kept in zip(*layers, strict=True))
        return {
            "keys": torch.cat((past["keys"], keys), dim=-2)[..., -w:, :],
            "values": torch.cat((past["values"], values), dim=-2)[..., -w:, :],
            "held": (past["held"] + f).clamp_max(w),
            "seen": past["seen"] + f,
        }

    def _run(self, asked: Asked, past: Mapping[str, Tensor] | None) -> tuple[Tensor, list[_Layer]]:
        """Return what is said of the frames (b, f, c, h, w), and the keys and values of each block."""
        b, f = asked.noisy.shape[:2]
        tokens = rearrange(self.enter(asked.noisy.flatten(0, 1)), "(b f) d y x -> b f (y x) d", f=f)
        condition = self.level(_waves(asked.level.clamp_min(0))) + self.action(asked.actions)
        condition = functional.silu(condition)
        places = place_angles(self.rows, self.columns, self.space_speeds)
        order = torch.arange(f, device=tokens.device)
        seen = order.new_zeros(b) if past is None else past["seen"]
        times = (seen[:, None] + order)[:, None, None, :, None] * self.time_speeds
        mask = self._mask(past, order, b)
        layers: list[_Layer] = []
        for index in range(self.sizes.depth):
            before = None if past is None else (past["keys"][:, index], past["values"][:, index])
            tokens, _ = self.space[index](tokens, condition, places)
            tokens, (kept,) = self.time[index](tokens, condition, times, mask, before)
            layers.append(kept)
        shift, scale = self.modulation(condition)[:, :, None].chunk(2, dim=-1)
        said = self.leave(modulated(tokens, shift, scale))
        p = self.sizes.patch
        frames: Tensor = rearrange(said, "b f (y x) (p q c) -> b f c (y p) (x q)", y=self.rows, p=p, q=p)
        return frames, layers

    def _mask(self, past: Mapping[str, Tensor] | None, order: Tensor, b: int) -> Tensor:
        """Say which frames are seen from which, (b, f, f) bool, or (b, f, context + f) with what is remembered."""
        w = self.config.context
        back = order[:, None] - order
        mask = ((back >= 0) & (back <= w)).expand(b, -1, -1)
        if past is None:
            return mask
        age = w - torch.arange(w, device=order.device)  # the newest is 1 before the first of these frames
        near, there = (age + order[:, None]) <= w, age <= past["held"][:, None]
        return torch.cat((near & there[:, None], mask), dim=-1)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.enter, self.leave = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def _split(self, tokens: Tensor) -> Sequence[Tensor]:
        """(g, h, s, width) -> three of (g, h, heads, s, d)."""
        parts = by_row(self.enter, tokens).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        return [part.transpose(-3, -2) for part in parts.unbind(0)]

    def _join(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend; return (g, h, s, width)."""
        q, k, v = (part.flatten(0, 1) for part in (query, key, value))  # four axes, for which there are fast kernels
        attended = attend(q, k, v, mask)
        joined: Tensor = by_row(self.leave, attended.transpose(-3, -2).flatten(-2)).unflatten(0, query.shape[:2])
        return joined


class _SpaceAttention(_Attention):
    """All places of a frame attend to each other."""

    def forward(self, tokens: Tensor, angles: Tensor) -> Tensor:
        """Tokens (b, f, n, width) and the places' angles (n, d / 2) -> tokens."""
        query, key, value = self._split(tokens)
        return self._join(turn(query, angles), turn(key, angles), value)


class _TimeAttention(_Attention):
    """Each place attends to itself in its own frame and in those before."""

    def forward(self, tokens: Tensor, angles: Tensor, mask: Tensor, past: _Layer | None) -> tuple[Tensor, _Layer]:
        """Attend.

        Args:
            tokens: (b, f, n, width).
            angles: (b, 1, 1, f, d / 2), of the frames' times.
            mask: (b, f, w + f) bool, which frame may be seen from which.
            past: keys and values (b, n, heads, w, d) of frames before; None if there were none.

        Returns:
            Tokens, and their keys and values, (b, n, heads, f, d) each.
        """
        query, key, value = self._split(tokens.transpose(1, 2))
        query, key = turn(query, angles), turn(key, angles)
        everywhere = mask[:, None].expand(-1, tokens.shape[2], -1, -1)
        if past is None:
            return self._join(query, key, value, everywhere.flatten(0, 1)[:, None]).transpose(1, 2), (key, value)
        attended = attend_where_it_lies(query, (past[0], key), (past[1], value), everywhere[:, :, None])
        return by_row(self.leave, attended.transpose(-3, -2).flatten(-2)).transpose(1, 2), (key, value)


def _waves(numbers: Tensor) -> Tensor:
    """Step numbers (...) as cosines, then sines, (..., WAVES)."""
    half = WAVES // 2
    speeds = torch.exp(-math.log(_SLOWEST) * torch.arange(half, device=numbers.device).float() / half)
    angles = numbers.float()[..., None] * speeds
    return torch.cat((angles.cos(), angles.sin()), dim=-1)

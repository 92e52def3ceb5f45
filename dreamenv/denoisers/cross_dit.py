"""A transformer with cross-attention to past frames, whose cost is that of their keys and values (CDiT, NWM 2024).

Each past frame is turned into keys and values by itself, so they hold for good: a window that slides is exact. A frame
may lie several steps after the last one seen: the network is given how many, and what was done in them on average.

Cache: ``keys``, ``values`` (b, depth, heads, 1 + context n, d), of no frame and then of n tokens of each frame, newest
last, laid out as every step attends to them; ``length`` (b,) int64, how many frames are there; ``position`` (b,) int64,
of the next frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.denoisers.base import Cache, Denoiser, DenoiserConfig, DenoiserInput, DenoiserShape
from dreamenv.errors import ConfigError
from dreamenv.nn.attention import CrossAttention, SpaceAttention, check_heads
from dreamenv.nn.conditioning import ConditionEmbedding
from dreamenv.nn.rotary import Rotary, axial_rotary
from dreamenv.nn.transformer import DiTBlock, FinalLayer, PatchEmbed

__all__ = ["CrossDiT", "CrossDiTConfig"]


@dataclass(frozen=True, kw_only=True)
class CrossDiTConfig(DenoiserConfig, kind="cross_dit"):
    """Settings.

    Attributes:
        context: past frames that are attended to.
        embed_dim: width of tokens and of the embedding of noise level and actions.
        depth: blocks, of two attentions each.
        heads: of attention; each is a multiple of 8 wide.
        patch: pixels (or latents) per side of a token.
        max_time_shift: steps ahead that it learns to predict a frame, at least 1.

    Raises:
        ConfigError: sizes that cannot be.
    """

    takes_step_size: ClassVar[bool] = True

    context: int = 16
    embed_dim: int = 128
    depth: int = 4
    heads: int = 4
    patch: int = 4
    max_time_shift: int = 1

    def __post_init__(self) -> None:
        for name in ("context", "depth", "patch", "max_time_shift"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        check_heads(self.embed_dim, self.heads, 8)

    @property
    def shift_range(self) -> int:
        """See `DenoiserConfig`."""
        return self.max_time_shift

    @property
    def context_frames(self) -> int:
        """See `DenoiserConfig`."""
        return self.context

    def build(self, shape: DenoiserShape) -> CrossDiT:
        """See `DenoiserConfig`."""
        return CrossDiT(self, shape)


class CrossDiT(Denoiser):
    """Predicts frames one by one, the next one or one further ahead.

    Args:
        config: its settings.
        shape: what it is built for.

    Raises:
        ConfigError: a patch that does not divide the frame.
    """

    places: Tensor
    waves: Tensor

    def __init__(self, config: CrossDiTConfig, shape: DenoiserShape) -> None:
        super().__init__()
        self.config, width, heads = config, config.embed_dim, config.heads
        self.condition = ConditionEmbedding(
            shape.action_size, width, step_size=shape.step_size, time_shift=config.max_time_shift > 1
        )
        self.past_action = nn.Linear(shape.action_size, width)
        self.patches = PatchEmbed(shape.frame_shape, width, config.patch)
        self.past_patches = PatchEmbed(shape.frame_shape, width, config.patch)
        self.final = FinalLayer(shape.frame_shape, width, config.patch)
        rows, columns = self.patches.rows, self.patches.columns
        self.cache_shape = config.depth, heads, rows * columns, width // heads
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("waves", _waves(rows, columns, width), persistent=False)
        self.space = nn.ModuleList(
            DiTBlock(SpaceAttention(width, heads, rows, columns), width) for _ in range(config.depth)
        )
        self.across = nn.ModuleList(DiTBlock(CrossAttention(width, heads), width) for _ in range(config.depth))

    def init_cache(self, frames: Tensor) -> Cache:
        """Return a cache of no frames."""
        b = len(frames)
        depth, heads, n, d = self.cache_shape
        none = torch.zeros(b, dtype=torch.int64, device=frames.device)
        room = frames.new_zeros(b, depth, heads, self.config.context * n, d)
        keys, values = (torch.cat((no_frame, room), dim=-2) for no_frame in self._no_frame(b))
        return {"keys": keys, "values": values, "length": none, "position": none.clone()}

    def update_cache(self, cache: Mapping[str, Tensor], context: DenoiserInput) -> Cache:
        """Make keys and values of each frame by itself, and keep the last ones."""
        f = context.frames.shape[1]
        position = cache["position"][:, None] + torch.arange(f, device=context.frames.device)
        keys, values = self._keys_and_values(context, position)
        return {
            "keys": _pushed(cache["keys"], keys),
            "values": _pushed(cache["values"], values),
            "length": (cache["length"] + f).clamp_max(self.config.context),
            "position": cache["position"] + f,
        }

    def forward_cached(self, cache: Mapping[str, Tensor], noisy: DenoiserInput) -> Tensor:
        """Predict each by itself: as the next frame, or as one that lies ``noisy.time_shift`` steps ahead."""
        w, f = self.config.context, noisy.frames.shape[1]
        shift = torch.ones_like(noisy.time) if noisy.time_shift is None else noisy.time_shift
        age = w - torch.arange(w, device=noisy.frames.device)
        valid = (age <= cache["length"][:, None])[:, None].expand(-1, f, -1)
        return self._run((cache["keys"], cache["values"]), noisy, cache["position"][:, None] + shift - 1, valid)

    def forward_sequence(self, context: DenoiserInput, noisy: DenoiserInput) -> Tensor:
        """Predict every frame from those that lie at least its time shift before it."""
        b, s = context.frames.shape[:2]
        order = torch.arange(s, device=noisy.frames.device)
        shift = torch.ones_like(noisy.time) if noisy.time_shift is None else noisy.time_shift
        position = order.expand(b, -1)
        back = order[:, None] - order  # s s: how many frames a past one lies behind the one that is predicted
        mask = (back >= shift[:, :, None]) & (back < shift[:, :, None] + self.config.context)
        if noisy.drop_context is not None:
            mask = mask & ~noisy.drop_context[:, None, None]
        made = self._keys_and_values(context, position)
        keys, values = (torch.cat(both, dim=-2) for both in zip(self._no_frame(b), made, strict=True))
        return self._run((keys, values), noisy, position, mask)

    def _run(self, past: tuple[Tensor, Tensor], noisy: DenoiserInput, position: Tensor, mask: Tensor) -> Tensor:
        """Predict noisy frames (b, f, c, h, w), which do not see each other.

        Args:
            past: keys and values of no frame, and of w frames after it: (b, depth, heads, 1 + w n, d) each.
            noisy: the frames.
            position: (b, f) of the frames in time.
            mask: (b, f, w) bool, which past frame each may attend to.
        """
        condition = self.condition(noisy.time, noisy.actions, noisy.step_size, noisy.time_shift)
        tokens, rotary = self.patches(noisy.frames) + self.waves, self._rotary(position)
        condition, n = functional.silu(condition), tokens.shape[2]
        valid = torch.cat((mask.new_ones(*mask.shape[:2], 1), mask.repeat_interleave(n, dim=2)), dim=2)
        valid = valid.repeat_interleave(n, dim=1)[:, None]
        for index, (space, across) in enumerate(zip(self.space, self.across, strict=True)):
            tokens, _ = space(tokens, condition)
            tokens, _ = across(tokens, condition, past[0][:, index], past[1][:, index], rotary, valid)
        output: Tensor = self.final(tokens, condition)
        return output

    def _keys_and_values(self, context: DenoiserInput, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return (b, depth, heads, f n, d) each, of clean frames at positions (b, f) in time."""
        tokens = self.past_patches(context.frames) + self.past_action(context.actions)[:, :, None] + self.waves
        tokens = functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        rotary = self._rotary(position)
        made = (attention.keys_and_values(tokens, rotary) for attention in self._attentions())
        keys, values = zip(*made, strict=True)
        return torch.stack(keys, dim=1), torch.stack(values, dim=1)

    def _no_frame(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return the learned keys and values (b, depth, heads, 1, d) that are always attended to."""
        learned = torch.stack([attention.nothing for attention in self._attentions()], dim=1)
        keys, values = learned.expand(rows, -1, -1, -1, -1, -1).unbind(1)
        return keys, values

    def _attentions(self) -> Iterator[CrossAttention]:
        for block in self.across:
            attention = block.get_submodule("attention")
            assert isinstance(attention, CrossAttention)
            yield attention

    def _rotary(self, position: Tensor) -> Rotary:
        """Return that of all tokens of frames at positions (b, f) in time."""
        row, column = self.places.unbind(-1)
        return axial_rotary(position[..., None, None], row, column, self.cache_shape[-1])


def _pushed(past: Tensor, new: Tensor) -> Tensor:
    """Put tokens (b, depth, heads, m, d) last, and drop as many of the oldest; no frame's token stays first."""
    first, rest = past.tensor_split([1], dim=-2)
    kept = torch.cat((rest, new), dim=-2)[..., -rest.shape[-2] :, :]
    return torch.cat((first, kept), dim=-2)


def _waves(rows: int, columns: int, width: int) -> Tensor:
    """Return sines and cosines of where a token lies, (rows * columns, width): what it looks for lies about there."""
    quarter = -(-width // 4)
    speeds = 100 ** (-torch.arange(quarter) / quarter)
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    angles = (grid[:, :, None] * speeds).flatten(1)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[:, :width]

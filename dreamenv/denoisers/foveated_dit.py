"""A transformer whose tokens are fine round the gaze and coarse elsewhere, each frame at a noise level of its own.

After Foveated Diffusion (2026, arXiv 2603.23491), frame after frame as Diffusion Forcing (Chen et al. 2024). Tokens
attend to all of their own frame and of ``context`` frames before it, by their rotary time and place: every frame has
the layout of its own gaze, and keeps it in the cache. All gazes have as many tokens, so shapes are static.

Cache: ``keys``, ``values`` (b, depth, heads, context n, d), newest last; ``length`` (b,) int64, how many frames are
there; ``position`` (b,) int64, of the next frame; ``gaze`` (b, 2) float32 in [0, 1], row and column at which the next
frame is seen; ``gaze_held`` (b,) bool, whether someone has set it; ``before`` (b, c, h, w), the last frame, for a gaze
that follows motion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.denoisers.base import Cache, Denoiser, DenoiserConfig, DenoiserInput, DenoiserShape, Uniform
from dreamenv.denoisers.gaze import GazeConfig, HeldGaze
from dreamenv.errors import ConfigError
from dreamenv.nn.attention import SpaceTimeAttention, block_causal_mask, check_heads, past_mask
from dreamenv.nn.conditioning import ConditionEmbedding
from dreamenv.nn.fovea import Fovea, check_gaze, check_sides
from dreamenv.nn.rotary import Rotary, axial_rotary
from dreamenv.nn.transformer import DiTBlock, modulate
from dreamenv.world_model import State, StateBounds

__all__ = ["FoveatedDiT", "FoveatedDiTConfig"]


@dataclass(frozen=True, kw_only=True)
class FoveatedDiTConfig(DenoiserConfig, kind="foveated_dit"):
    """Settings.

    Attributes:
        context: past frames that a frame attends to.
        embed_dim: width of tokens and of the embedding of noise level and actions.
        depth: blocks.
        heads: of attention; each is a multiple of 8 wide.
        patch: pixels (or latents) per side of a fine token.
        fovea: sides, in fine tokens, of the squares round the gaze within which tokens are fine, twice as wide, ...;
            beyond the last one they are twice as wide again. (4, 8): 4 x 4 fine ones, then 1/4 and 1/16 as many. Empty
            for fine tokens everywhere.
        gaze: where to look while no one says.

    Raises:
        ConfigError: sizes that cannot be, or a gaze without a fovea.
    """

    per_frame_noise: ClassVar[bool] = True
    takes_step_size: ClassVar[bool] = True

    context: int = 8
    embed_dim: int = 128
    depth: int = 4
    heads: int = 4
    patch: int = 4
    fovea: tuple[int, ...] = (4, 8)
    gaze: GazeConfig = HeldGaze()

    def __post_init__(self) -> None:
        for name in ("context", "depth", "patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        check_heads(self.embed_dim, self.heads, 8)
        check_sides(self.fovea)
        if not self.fovea and self.gaze != HeldGaze():
            raise ConfigError(f"without a fovea a gaze has no effect; leave it at HeldGaze(), not {self.gaze}.")

    @property
    def context_frames(self) -> int:
        """See `DenoiserConfig`."""
        return self.context

    def build(self, shape: DenoiserShape) -> FoveatedDiT:
        """See `DenoiserConfig`."""
        return FoveatedDiT(self, shape)


class FoveatedDiT(Denoiser):
    """Predicts one frame at a time.

    Args:
        config: its settings.
        shape: what it is built for.

    Raises:
        ConfigError: a patch that does not divide the frame, or a fovea that it has no room for.
    """

    def __init__(self, config: FoveatedDiTConfig, shape: DenoiserShape) -> None:
        super().__init__()
        self.config, width = config, config.embed_dim
        self.fovea = Fovea(shape.frame_shape, config.patch, config.fovea)
        self.condition = ConditionEmbedding(shape.action_size, width, step_size=shape.step_size)
        self.embed = nn.ModuleList(nn.Linear(size, width) for size in self.fovea.sizes)  # their biases tell the scale
        self.blocks = nn.ModuleList(
            DiTBlock(SpaceTimeAttention(width, config.heads), width) for _ in range(config.depth)
        )
        self.modulation = nn.Linear(width, 2 * width)
        self.project = nn.ModuleList(nn.Linear(width, size) for size in self.fovea.sizes)
        for layer in (self.modulation, *self.project):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        self.tokens = sum(self.fovea.counts)
        self.cache_shape = config.depth, config.heads, config.context * self.tokens, width // config.heads

    @property
    def can_look(self) -> bool:
        """Whether a gaze changes anything."""
        return bool(self.config.fovea)

    def init_cache(self, frames: Tensor) -> Cache:
        """Return a cache of no frames, whose first one is seen at its middle."""
        b = len(frames)
        none = torch.zeros(b, dtype=torch.int64, device=frames.device)
        empty = frames.new_zeros(b, *self.cache_shape)
        cache = {"keys": empty, "values": empty.clone(), "length": none, "position": none.clone()}
        if self.can_look:
            cache["gaze"] = torch.full((b, 2), 0.5, device=frames.device)
            cache["gaze_held"] = torch.zeros(b, dtype=torch.bool, device=frames.device)
        if self.config.gaze.watches == "change":
            cache["before"] = torch.zeros_like(frames)
        return cache

    def cache_bounds(self) -> StateBounds:
        """See `Denoiser`."""
        return {("gaze",): (0.0, 1.0)} if self.can_look else {}

    def look(self, state: State, gaze: Tensor) -> State:
        """Return the state with another gaze, see `dreamenv.capabilities.SupportsGaze`."""
        check_gaze(gaze, state.batch_size[0])
        state, told = state.copy(), ~gaze.isnan().any(1)
        state["gaze"] = torch.where(told[:, None], gaze, state["gaze"])
        state["gaze_held"] = told
        return state

    def draw_gaze(self, frames: Tensor, uniform: Uniform) -> Tensor | None:
        """See `Denoiser`."""
        return self.config.gaze.draw(self.fovea, frames, uniform) if self.can_look else None

    def update_cache(self, cache: Mapping[str, Tensor], context: DenoiserInput) -> Cache:
        """Run them through the network, each as it is looked at, and keep the keys and values of the last ones."""
        f, kept = context.frames.shape[1], self.config.context * self.tokens
        gaze, new = self._follow_gaze(cache, context)
        _, keys, values = self._run(context, gaze, cache)
        new["keys"] = torch.cat((cache["keys"], keys), dim=-2)[..., -kept:, :]
        new["values"] = torch.cat((cache["values"], values), dim=-2)[..., -kept:, :]
        new["length"] = (cache["length"] + f).clamp_max(self.config.context)
        new["position"] = cache["position"] + f
        return new

    def forward_cached(self, cache: Mapping[str, Tensor], noisy: DenoiserInput) -> Tensor:
        """Attend to what is kept, and to each other."""
        gaze = cache["gaze"][:, None].expand(-1, noisy.frames.shape[1], -1) if self.can_look else None
        return self._run(noisy, gaze, cache)[0]

    def forward_sequence(self, context: DenoiserInput, noisy: DenoiserInput) -> Tensor:
        """Run all noisy frames together, which are each other's context."""
        return self._run(noisy, noisy.gaze, None)[0]

    def _follow_gaze(self, cache: Mapping[str, Tensor], context: DenoiserInput) -> tuple[Tensor | None, Cache]:
        """Return the gazes (b, f, 2) at which frames (b, f, ...) are seen, and the entries for those after them."""
        if not self.can_look:
            return None, {}
        rule, frames, new = self.config.gaze, context.frames, dict[str, Tensor]()
        known = (cache["length"] > 0)[:, None] | (torch.arange(frames.shape[1], device=frames.device) > 0)
        maps = context.surprise
        if rule.watches == "change":
            before = torch.cat((cache["before"][:, None], frames), dim=1)
            maps = (before[:, 1:] - before[:, :-1]).square().mean(2)
            new["before"] = frames[:, -1].clone()
        held = cache["gaze_held"][:, None, None]
        after = torch.where(held, cache["gaze"][:, None], rule.follow(self.fovea, cache["gaze"], maps, known))
        new["gaze"], new["gaze_held"] = after[:, -1].clone(), cache["gaze_held"]
        return torch.cat((cache["gaze"][:, None], after[:, :-1]), dim=1), new

    def _run(
        self, given: DenoiserInput, gaze: Tensor | None, past: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the prediction, and the frames' keys and values, (b, depth, heads, f n, d) each.

        Args:
            given: the frames.
            gaze: (b, f, 2), at which each is seen; None if all are seen alike.
            past: the cache; None if these are the first frames.
        """
        b, f = given.frames.shape[:2]
        cell = given.time.new_zeros(b, f, dtype=torch.int64) if gaze is None else self.fovea.cell(gaze)
        condition = functional.silu(self.condition(given.time, given.actions, given.step_size))
        parts = self.fovea.split(given.frames, cell)
        tokens = torch.cat([embed(part) for embed, part in zip(self.embed, parts, strict=True)], dim=2)
        rotary, mask = self._context(given, cell, past)
        layers: list[tuple[Tensor, Tensor] | None] = [None] * len(self.blocks)
        if past is not None:
            layers = list(zip(past["keys"].unbind(1), past["values"].unbind(1), strict=True))
        keys, values = [], []
        for block, layer in zip(self.blocks, layers, strict=True):
            tokens, (key, value) = block(tokens, condition, rotary, mask, layer)
            keys.append(key)
            values.append(value)
        shift, scale = self.modulation(condition)[:, :, None].chunk(2, dim=-1)
        final = modulate(tokens, shift, scale).split(self.fovea.counts, dim=2)
        output = self.fovea.join([layer(part) for layer, part in zip(self.project, final, strict=True)], cell)
        return output, torch.stack(keys, dim=1), torch.stack(values, dim=1)

    def _context(self, given: DenoiserInput, cell: Tensor, past: Mapping[str, Tensor] | None) -> tuple[Rotary, Tensor]:
        """Return the tokens' rotary times and places, to (b, 1, f n, d), and their mask, to (b, 1, f n, m)."""
        (b, f), w, n = cell.shape, self.config.context, self.tokens
        order = torch.arange(f, device=cell.device)
        mask, position = block_causal_mask(given.blocks(), w)[None], order.expand(b, -1)
        if past is not None:
            mask = torch.cat((past_mask(f, past["length"], w, w), mask.expand(b, -1, -1)), dim=-1)
            position = past["position"][:, None] + order
        row, column = self.fovea.middles[cell].flatten(1, 2)[:, None].unbind(-1)
        time = position.repeat_interleave(n, dim=1)[:, None]
        rotary = axial_rotary(time, row, column, self.cache_shape[-1])
        return rotary, mask.repeat_interleave(n, dim=-2).repeat_interleave(n, dim=-1)[:, None]

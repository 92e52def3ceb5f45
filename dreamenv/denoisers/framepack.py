"""A transformer over a past packed into the tokens of one or two frames (FramePack, Zhang and Agrawala 2025).

The newest frames are kept as they are, older ones by ever larger cuboids of frames and pixels, so that a long memory
costs as much as a short one. The packed tokens attend to each other only, so that their keys and values hold for all
steps over the frames that are denoised. Those see each other both ways, in whichever order they are finished: the last
one first, if so scheduled, so that the others lie between two ends and cannot drift.

Cache: ``frames`` (b, w, c, h, w), newest last, 0 where there was none; ``actions`` (b, w, a), the vectors of the
actions that led to them; ``length`` (b,) int64, how many are there; ``keys``, ``values`` (b, depth, heads, m, d).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.denoisers.base import Cache, Denoiser, DenoiserConfig, DenoiserInput, DenoiserShape
from dreamenv.errors import ConfigError
from dreamenv.nn.attention import JointAttention, PackedCache, check_heads
from dreamenv.nn.conditioning import ConditionEmbedding
from dreamenv.nn.rotary import Rotary, axial_rotary
from dreamenv.nn.transformer import DiTBlock, FinalLayer, PatchEmbed, check_patch

__all__ = ["FramePack", "FramePackConfig"]


@dataclass(frozen=True, kw_only=True)
class FramePackConfig(DenoiserConfig, kind="framepack"):
    """Settings.

    Attributes:
        packing: (frames, factor) from newest to oldest: so many past frames are packed by cuboids of ``factor`` frames
            and ``factor * patch`` pixels per side. A factor of 1 keeps a frame as it is.
        embed_dim: width of tokens and of the embedding of noise level and actions.
        depth: blocks.
        heads: of attention; each is a multiple of 8 wide.
        patch: pixels (or latents) per side of a token.

    Raises:
        ConfigError: sizes that cannot be, or frames that are no multiple of their factor.
    """

    predicts_chunks: ClassVar[bool] = True
    takes_step_size: ClassVar[bool] = True

    packing: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (16, 4))
    embed_dim: int = 128
    depth: int = 4
    heads: int = 4
    patch: int = 4

    def __post_init__(self) -> None:
        for name in ("depth", "patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.packing:
            raise ConfigError("packing must name at least one (frames, factor).")
        for frames, factor in self.packing:
            if frames < 1 or factor < 1 or frames % factor:
                raise ConfigError(f"{frames} frames cannot be packed by {factor}: it must divide them.")
        check_heads(self.embed_dim, self.heads, 8)

    @property
    def context_frames(self) -> int:
        """All frames that are packed."""
        return sum(frames for frames, _ in self.packing)

    def build(self, shape: DenoiserShape) -> FramePack:
        """See `DenoiserConfig`."""
        return FramePack(self, shape)


class FramePack(Denoiser):
    """Predicts a chunk of frames together.

    Args:
        config: its settings.
        shape: what it is built for.

    Raises:
        ConfigError: a cuboid that does not divide the frame.
    """

    places: Tensor
    needs: Tensor
    grid: Tensor

    def __init__(self, config: FramePackConfig, shape: DenoiserShape) -> None:
        super().__init__()
        self.config, self.chunk, self.action_size = config, shape.chunk, shape.action_size
        self.context, width = config.context_frames, config.embed_dim
        self.condition = ConditionEmbedding(shape.action_size, width, step_size=shape.step_size)
        self.past_action = nn.Linear(shape.action_size, width)
        self.patches = PatchEmbed(shape.frame_shape, width, config.patch)
        self.final = FinalLayer(shape.frame_shape, width, config.patch)
        self.packers, places, needs, newest = nn.ModuleList(), [], [], 0
        for frames, factor in config.packing:
            side = config.patch * factor
            rows, columns = check_patch(shape.frame_shape, side)
            self.packers.append(nn.Linear(shape.frame_shape[0] * factor * side**2, width))
            for group in range(frames // factor):
                middle = -newest - group * factor - (factor + 1) / 2  # the newest past frame lies at -1
                places.append(_places(rows, columns, factor, middle))
                # A token stands for a frame as soon as the newest of its cuboid is there.
                needs.append(torch.full((rows * columns,), newest + group * factor + 1))
            newest += frames
        self.register_buffer("places", torch.cat(places), persistent=False)
        self.register_buffer("needs", torch.cat(needs), persistent=False)
        rows, columns = self.patches.rows, self.patches.columns
        self.register_buffer("grid", _places(rows, columns, 1, 0.0), persistent=False)
        self.blocks = nn.ModuleList(DiTBlock(JointAttention(width, config.heads), width) for _ in range(config.depth))
        self.cache_shape = config.depth, config.heads, len(self.places), width // config.heads

    def init_cache(self, frames: Tensor) -> Cache:
        """Return a cache of no frames."""
        b = len(frames)
        kept = frames.new_zeros(b, *self.cache_shape)
        return {
            "frames": frames.new_zeros(b, self.context, *frames.shape[1:]),
            "actions": frames.new_zeros(b, self.context, self.action_size),
            "length": torch.zeros(b, dtype=torch.int64, device=frames.device),
            "keys": kept,
            "values": kept.clone(),
        }

    def update_cache(self, cache: Mapping[str, Tensor], context: DenoiserInput) -> Cache:
        """Keep the last ones, and pack them again."""
        w = self.context
        frames = torch.cat((cache["frames"], context.frames), dim=1)[:, -w:]
        actions = torch.cat((cache["actions"], context.actions), dim=1)[:, -w:]
        length = (cache["length"] + context.frames.shape[1]).clamp_max(w)
        keys, values = self._packed(frames, actions, length, context)
        return {"frames": frames, "actions": actions, "length": length, "keys": keys, "values": values}

    def forward_cached(self, cache: Mapping[str, Tensor], noisy: DenoiserInput) -> Tensor:
        """Predict all together, from what is packed."""
        return self._run((cache["keys"], cache["values"]), self._valid(cache["length"]), noisy)

    def forward_sequence(self, context: DenoiserInput, noisy: DenoiserInput) -> Tensor:
        """Predict every chunk after the first frame, as if the dream had started with the sequence."""
        chunk, w, clean, b = self.chunk, self.context, context.frames, len(context.frames)
        s = (clean.shape[1] - 1) // chunk  # chunks
        empty = clean.new_zeros(b, w - 1, *clean.shape[2:])
        before = torch.cat((empty, clean), dim=1).unfold(1, w, 1)[:, : s * chunk : chunk]  # b s c h w' w
        nothing = noisy.actions.new_zeros(b, w - 1, self.action_size)
        done = torch.cat((nothing, noisy.actions), dim=1).unfold(1, w, 1)[:, : s * chunk : chunk]  # b s a w
        length = (1 + chunk * torch.arange(s, device=clean.device)).clamp_max(w).repeat(b)

        def by_chunk(values: Tensor) -> Tensor:
            return values[:, 1:].reshape(b * s, chunk, *values.shape[2:])

        given = dataclasses.replace(
            context,
            time=by_chunk(context.time),
            step_size=None if context.step_size is None else by_chunk(context.step_size),
        )
        keys, values = self._packed(
            rearrange(before, "b s c h v w -> (b s) w c h v"), rearrange(done, "b s a w -> (b s) w a"), length, given
        )
        valid = self._valid(length)
        if noisy.drop_context is not None:
            valid = valid & ~noisy.drop_context.repeat_interleave(s)[:, None]
        step_size = None if noisy.step_size is None else by_chunk(noisy.step_size)
        chunks = DenoiserInput(by_chunk(noisy.frames), by_chunk(noisy.time), by_chunk(noisy.actions), step_size)
        output = self._run((keys, values), valid, chunks).unflatten(0, (b, s)).flatten(1, 2)
        return torch.cat((torch.zeros_like(output[:, :1]), output), dim=1)

    def _packed(self, frames: Tensor, actions: Tensor, length: Tensor, context: DenoiserInput) -> tuple[Tensor, Tensor]:
        """Return keys and values (b, depth, heads, m, d) of the last frames (b, w, ...), of which ``length`` are there.

        ``context`` says at which time (and step size) clean frames are, in its last frame.
        """
        step_size = None if context.step_size is None else context.step_size[:, -1]
        condition = self.condition(context.time[:, -1], torch.zeros_like(actions[:, 0]), step_size)
        valid = self._valid(length)
        # Attention needs at least one key, even with an empty past; the result is masked out later.
        attended = valid | (length == 0)[:, None]
        tokens = self._pack(frames, self.past_action(actions))[:, None]
        condition = functional.silu(condition)[:, None]
        rotary, keys, values = self._rotary(self.places), [], []
        for block in self.blocks:
            tokens, (key, value) = block(tokens, condition, rotary, attended, None)
            keys.append(key)
            values.append(value)
        return torch.stack(keys, dim=1), torch.stack(values, dim=1)

    def _pack(self, frames: Tensor, actions: Tensor) -> Tensor:
        """Pack past frames (b, w, c, h, w), newest last, and their embedded actions (b, w, width): (b, m, width)."""
        tokens, end = [], frames.shape[1]
        for (count, factor), packer in zip(self.config.packing, self.packers, strict=True):
            some, known = frames[:, end - count : end], actions[:, end - count : end]
            side = self.patches.patch * factor
            cuboids = rearrange(some, "b (g t) c (y p) (x q) -> b g (y x) (t c p q)", t=factor, p=side, q=side)
            mean = known.unflatten(1, (-1, factor)).mean(2).flip(1)
            # The newest group first, as the places are.
            tokens.append((packer(cuboids.flip(1)) + mean[:, :, None]).flatten(1, 2))
            end -= count
        return torch.cat(tokens, dim=1)

    def _valid(self, length: Tensor) -> Tensor:
        """Return which packed tokens stand for a frame that was seen, (b, m) bool, where so many were, (b,)."""
        return length[:, None] >= self.needs

    def _run(self, past: tuple[Tensor, Tensor], valid: Tensor, noisy: DenoiserInput) -> Tensor:
        """Predict noisy frames (b, f, c, h, w), which all see each other and what is valid (b, m) of the past."""
        condition = functional.silu(self.condition(noisy.time, noisy.actions, noisy.step_size))
        tokens = self.patches(noisy.frames)
        f, n = tokens.shape[1:3]
        time = torch.arange(f, device=tokens.device)[:, None, None].expand(-1, n, 1)
        places = torch.cat((time, self.grid[None, :, 1:].expand(f, -1, -1)), dim=-1)
        own, rotary = valid.new_ones(len(tokens), f * n), self._rotary(places.flatten(0, 1))
        for index, block in enumerate(self.blocks):
            cache = PackedCache(past[0][:, index], past[1][:, index], valid)
            tokens, _ = block(tokens, condition, rotary, own, cache)
        output: Tensor = self.final(tokens, condition)
        return output

    def _rotary(self, places: Tensor) -> Rotary:
        """Return that of tokens at times, rows and columns (m, 3)."""
        time, row, column = places.unbind(-1)
        return axial_rotary(time, row, column, self.cache_shape[-1])


def _places(rows: int, columns: int, factor: int, time: float) -> Tensor:
    """Time, row and column (rows * columns, 3) of tokens, counted in patches: the middles of larger ones."""
    y, x = ((torch.arange(n) * factor + (factor - 1) / 2) for n in (rows, columns))
    grid = torch.cartesian_prod(y, x)
    return torch.cat((torch.full((len(grid), 1), time), grid), dim=-1)

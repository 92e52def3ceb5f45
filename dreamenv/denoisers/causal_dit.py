"""A transformer with causal attention along time, each frame at a noise level of its own (Diffusion Forcing; Oasis).

A clean frame passes through the network once, presented as slightly noisy, and is kept as keys and values; the frames
that are denoised attend to those, within each frame and then along time (the order of Oasis). A frame attends to
``context`` frames before it, so dropping older ones changes nothing that is still attended to directly; what they left
in the frames after them stays. Frames of a block (MAGI-1's chunks) see each other both ways; a block is kept whole.

Cache: ``keys``, ``values`` (b, depth, n, heads, context, d), newest last; ``length`` (b,) int64, how many are there;
``position`` (b,) int64, of the next frame; ``actions`` (b, w, a), vectors of the last ones, with cross-attention to
actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.denoisers.base import Cache, Denoiser, DenoiserConfig, DenoiserInput, DenoiserShape
from dreamenv.errors import ConfigError
from dreamenv.nn.action_injection import ActionInjection, action_windows
from dreamenv.nn.attention import KeyValueCache, SpaceAttention, TimeAttention, check_heads, temporal_context
from dreamenv.nn.conditioning import ConditionEmbedding
from dreamenv.nn.transformer import DiTBlock, FinalLayer, PatchEmbed

__all__ = ["CausalDiT", "CausalDiTConfig"]


@dataclass(frozen=True, kw_only=True)
class CausalDiTConfig(DenoiserConfig, kind="causal_dit"):
    """Settings.

    Attributes:
        context: past frames that a frame attends to.
        embed_dim: width of tokens and of the embedding of noise level and actions.
        depth: blocks, of two attentions each.
        heads: of attention; each is a multiple of 4 wide.
        patch: pixels (or latents) per side of a token.
        action_conditioning: "added" to the noise level's embedding, or by "cross_attention" to choices (keys) and
            concatenation of quantities (the mouse), as GameFactory (Yu et al. 2025).
        action_window: frames back whose actions are seen too, with "cross_attention".

    Raises:
        ConfigError: sizes that cannot be, or an action window without cross-attention.
    """

    per_frame_noise: ClassVar[bool] = True
    predicts_chunks: ClassVar[bool] = True
    takes_step_size: ClassVar[bool] = True

    context: int = 16
    embed_dim: int = 128
    depth: int = 4
    heads: int = 4
    patch: int = 4
    action_conditioning: Literal["added", "cross_attention"] = "added"
    action_window: int = 0

    def __post_init__(self) -> None:
        for name in ("context", "depth", "patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        check_heads(self.embed_dim, self.heads, 4)
        if self.action_conditioning not in ("added", "cross_attention"):
            raise ConfigError(
                f"action_conditioning must be 'added' or 'cross_attention', not {self.action_conditioning!r}."
            )
        if self.action_window < 0:
            raise ConfigError(f"action_window must be at least 0, not {self.action_window}.")
        if self.action_window and self.action_conditioning == "added":
            raise ConfigError(
                f"an action_window of {self.action_window} needs action_conditioning='cross_attention'; leave it at 0."
            )

    @property
    def context_frames(self) -> int:
        """See `DenoiserConfig`."""
        return self.context

    def build(self, shape: DenoiserShape) -> CausalDiT:
        """See `DenoiserConfig`."""
        return CausalDiT(self, shape)


class CausalDiT(Denoiser):
    """Predicts any number of frames together.

    Args:
        config: its settings.
        shape: what it is built for.

    Raises:
        ConfigError: a patch that does not divide the frame.
    """

    def __init__(self, config: CausalDiTConfig, shape: DenoiserShape) -> None:
        super().__init__()
        self.config, width, heads = config, config.embed_dim, config.heads
        self.actions_shape = shape.actions_per_frame, len(shape.discrete)
        self.attends_actions = config.action_conditioning == "cross_attention"
        self.condition = ConditionEmbedding(
            0 if self.attends_actions else shape.action_size, width, step_size=shape.step_size
        )
        injections = [
            ActionInjection(width, shape.discrete, (config.action_window + 1) * shape.actions_per_frame, heads)
            for _ in range(config.depth if self.attends_actions else 0)
        ]
        self.patches = PatchEmbed(shape.frame_shape, width, config.patch)
        self.final = FinalLayer(shape.frame_shape, width, config.patch)
        rows, columns = self.patches.rows, self.patches.columns
        self.space = nn.ModuleList(
            DiTBlock(SpaceAttention(width, heads, rows, columns), width) for _ in range(config.depth)
        )
        self.time = nn.ModuleList(DiTBlock(TimeAttention(width, heads), width) for _ in range(config.depth))
        self.injections = nn.ModuleList(injections)
        self.cache_shape = config.depth, rows * columns, heads, config.context, width // heads

    def init_cache(self, frames: Tensor) -> Cache:
        """Return a cache of no frames."""
        b = len(frames)
        none = torch.zeros(b, dtype=torch.int64, device=frames.device)
        empty = frames.new_zeros(b, *self.cache_shape)
        cache = {"keys": empty, "values": empty.clone(), "length": none, "position": none.clone()}
        if self.attends_actions:
            r, a = self.actions_shape
            cache["actions"] = frames.new_zeros(b, self.config.action_window, r * a)
        return cache

    def update_cache(self, cache: Mapping[str, Tensor], context: DenoiserInput) -> Cache:
        """Run them through the network and keep the keys and values of the last ones."""
        w, f = self.config.context, context.frames.shape[1]
        _, keys, values = self._run(context, self._layers(cache), cache.get("actions"))
        new = {
            "keys": torch.cat((cache["keys"], keys), dim=-2)[..., -w:, :],
            "values": torch.cat((cache["values"], values), dim=-2)[..., -w:, :],
            "length": (cache["length"] + f).clamp_max(w),
            "position": cache["position"] + f,
        }
        if self.attends_actions:
            kept = torch.cat((cache["actions"], context.actions), dim=1)
            new["actions"] = kept[:, kept.shape[1] - self.config.action_window :]
        return new

    def forward_cached(self, cache: Mapping[str, Tensor], noisy: DenoiserInput) -> Tensor:
        """Attend to what is kept, and to each other: earlier blocks and their own."""
        return self._run(noisy, self._layers(cache), cache.get("actions"))[0]

    def forward_sequence(self, context: DenoiserInput, noisy: DenoiserInput) -> Tensor:
        """Run all noisy frames together, which are each other's context."""
        before = None
        if self.attends_actions:
            b, _, a = noisy.actions.shape
            before = noisy.actions.new_zeros(b, self.config.action_window, a)
        return self._run(noisy, None, before)[0]

    def _run(
        self, given: DenoiserInput, past: Sequence[KeyValueCache] | None, before: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the prediction, and the frames' keys and values, (b, depth, n, heads, f, d) each.

        Args:
            given: the frames.
            past: a cache per block; None if these are the first frames.
            before: (b, w, a) vectors of the actions of frames before, with cross-attention.
        """
        condition = functional.silu(self.condition(given.time, given.actions, given.step_size))
        actions = None
        if before is not None:
            shape = self.actions_shape
            actions = action_windows(before.unflatten(-1, shape), given.actions.unflatten(-1, shape))
        tokens = self.patches(given.frames)
        context = temporal_context(
            given.blocks(), past[0] if past else None, len(tokens), self.config.context, self.cache_shape[-1]
        )
        keys, values = [], []
        for index, (space, time) in enumerate(zip(self.space, self.time, strict=True)):
            tokens, _ = space(tokens, condition)
            tokens, (key, value) = time(tokens, condition, past[index] if past else None, context)
            if self.injections:
                tokens = self.injections[index](tokens, actions)
            keys.append(key)
            values.append(value)
        return self.final(tokens, condition), torch.stack(keys, dim=1), torch.stack(values, dim=1)

    @staticmethod
    def _layers(cache: Mapping[str, Tensor]) -> list[KeyValueCache]:
        layers = zip(cache["keys"].unbind(1), cache["values"].unbind(1), strict=True)
        return [KeyValueCache(keys, values, cache["length"], cache["position"]) for keys, values in layers]

"""Frames and actions as tokens: what stands between a world's frames and its stream.

Letters: ``b`` rows, ``t`` steps, ``l`` tokens of a frame, ``a`` tokens of an action, ``w`` width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor, nn

from dreamenv.backbones.tokens.action_tokens import ActionTokensConfig
from dreamenv.codecs.tokenizer import FrameContext, TokenizerConfig
from dreamenv.nn.pixels import FrameEncoder
from dreamenv.nn.precision import Linear
from dreamenv.world_model import WorldModelSpec

__all__ = ["FrameTokens"]

_SIGHT = (16, 32, 48)  # channels of what sees a frame whose tokens do not tell it


class FrameTokens(nn.Module):
    """Tokenizer and tokens of actions.

    Where the tokenizer uses context, tokens tell changes alone. The stream then holds a token of the frame before, too,
    in front of the action's (delta-IRIS, Micheli et al. 2024).

    Args:
        tokenizer: of frames.
        actions: how they become tokens.
        spec: of both.
        width: w.

    Attributes:
        count: a, with the token of the frame before.
    """

    def __init__(
        self, tokenizer: TokenizerConfig, actions: ActionTokensConfig, spec: WorldModelSpec, width: int
    ) -> None:
        super().__init__()
        self.actions = actions.build(spec.action_space, width)
        self.tokenizer = tokenizer.build(spec.frame_shape, self.actions.vector.size)
        self.uses_context = self.tokenizer.uses_context
        self.count = self.actions.count + int(self.uses_context)
        self.sight: nn.Module | None = None
        if self.uses_context:
            encoder = FrameEncoder(spec.frame_shape, _SIGHT)
            self.sight = nn.Sequential(encoder, Linear(encoder.features, width))

    def learned_parameters(self) -> Iterator[nn.Parameter]:
        """Yield those that are not the tokenizer's."""
        yield from self.actions.parameters()
        if self.sight is not None:
            yield from self.sight.parameters()

    def acted(self, actions: Tensor, before: Tensor | None) -> Tensor:
        """Return the tokens of actions (b, t, *a), (b, t, a, w); of the frames before (b, t, c, h, w) where used."""
        tokens: Tensor = self.actions(actions)
        if self.sight is None or before is None:
            return tokens
        seen = self.sight(before.flatten(0, 1)).unflatten(0, before.shape[:2])
        return torch.cat((seen.unsqueeze(2), tokens), dim=2)

    def encode(self, frames: Tensor, actions: Tensor, before: Tensor | None) -> Tensor:
        """Frames (b, t, c, h, w), given what led to them -> tokens (b, t, l) int64."""
        context = self._context(actions, before)
        tokens: Tensor = self.tokenizer.encode(frames.flatten(0, 1), context).unflatten(0, frames.shape[:2])
        return tokens

    def decode(self, tokens: Tensor, actions: Tensor, before: Tensor | None) -> Tensor:
        """Tokens (b, t, l), given what led to them -> frames (b, t, c, h, w) in [0, 1]."""
        frames: Tensor = self.tokenizer.decode(tokens.flatten(0, 1), self._context(actions, before))
        shown: Tensor = frames.unflatten(0, tokens.shape[:2])
        return shown

    def encode_first(self, frames: Tensor) -> Tensor:
        """Frames (n, c, h, w) that nothing led to -> tokens (n, l) int64."""
        tokens: Tensor = self.tokenizer.encode(frames, self._nothing(len(frames), frames.device))
        return tokens

    def decode_first(self, tokens: Tensor) -> Tensor:
        """Tokens (n, l) of frames that nothing led to -> frames (n, c, h, w) in [0, 1]."""
        return self.tokenizer.decode(tokens, self._nothing(len(tokens), tokens.device))

    def _context(self, actions: Tensor, before: Tensor | None) -> FrameContext | None:
        if not self.uses_context or before is None:
            return None
        return FrameContext(rearrange(before, "b t ... -> (b t) ..."), self.actions.vector(actions).flatten(0, 1))

    def _nothing(self, rows: int, device: torch.device) -> FrameContext | None:
        """Return the context of first frames: grey, and no action."""
        if not self.uses_context:
            return None
        return FrameContext.nothing(rows, self.tokenizer.frame_shape, self.actions.vector.size, device)

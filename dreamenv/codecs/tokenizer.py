"""What a tokenizer offers: frames to discrete tokens and back, for transformers that predict tokens.

Letters: ``n`` frames, ``l`` tokens of a frame, ``y x`` places of a grid, ``a`` numbers of an action's vector.

**Tokens.** A frame becomes l tokens, int64 from 0 to ``vocabulary - 1``: the places of ``scales[0]`` row by row, then
those of ``scales[1]``, and so on, coarse to fine. A plain tokenizer has one scale; one of residuals has several (VAR,
Tian et al. 2024), whose code vectors add up. All scales share the vocabulary.

**How a transformer uses it.** Raster order: embed tokens with a table of its own, or with a projection of `codes`, and
predict each from those before. Next-scale order: the input of a place of scale k is what `next_scale_inputs` tells of
the scales before k, and all places of a scale are predicted at once. Either way `decode` shows a frame's l tokens.

**Context.** Where ``uses_context``, a frame is coded given the frame before it and the action between them, and its
tokens say only what these do not (delta-IRIS, Micheli et al. 2024). In a dream the frame before is the one shown. Such
tokens are no function of the frame alone, so `dreamenv.world_model.Stage.precompute` cannot make them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from dreamenv.errors import ActionError, ConfigError, FrameError, InputError
from dreamenv.nn.actions import ActionEncoder
from dreamenv.parts import Part, Training
from dreamenv.world_model import Batch, DataStatistics, Objective, Stage

__all__ = [
    "FrameContext",
    "Tokenizer",
    "TokenizerConfig",
    "TokenizerTraining",
    "View",
    "check_vocabulary",
    "tokenizer_stage",
    "training_frames",
]


@dataclass(frozen=True, slots=True)
class FrameContext:
    """What is known before a frame is seen.

    Attributes:
        frames: (n, c, h, w) float32 in [0, 1], the frame before.
        actions: (n, a) float32, vectors of the actions that led from it (`dreamenv.nn.actions`).
    """

    frames: Tensor
    actions: Tensor

    @classmethod
    def nothing(
        cls, rows: int, frame_shape: tuple[int, int, int], action_size: int, device: torch.device
    ) -> FrameContext:
        """Return what is known before the first frame of all: grey, and no action."""
        return cls(torch.full((rows, *frame_shape), 0.5, device=device), torch.zeros(rows, action_size, device=device))


View: TypeAlias = Callable[[Batch], tuple[Tensor, FrameContext | None]]
"""Takes frames (n, c, h, w) and what came before them out of a batch."""


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining(Training, kind="tokenizer_training"):
    """The stage that learns a tokenizer.

    Attributes:
        steps: optimiser steps.
        batch_size: windows per step, of which each gives two frames to learn from.
        learning_rate: peak rate.
        foreground_weight: a pixel's squared error counts 1 + foreground_weight * |x - mean frame|, so that small moving
            things are not smoothed away against a still background. 0 where the camera moves, and no frame is usual.
        edge_weight: of the squared error of differences between neighbouring pixels, which keeps edges sharp.
        bfloat16: compute products in bfloat16, where the hardware does so natively.

    Raises:
        ConfigError: a number that cannot be.
    """

    steps: int = 8000
    batch_size: int = 5
    learning_rate: float = 1e-3
    foreground_weight: float = 0.0
    edge_weight: float = 5.0
    bfloat16: bool = True

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1:
            raise ConfigError(
                f"steps must be at least 0 and batch_size at least 1, not {self.steps} and {self.batch_size}."
            )
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be above 0, not {self.learning_rate}.")
        for name in ("foreground_weight", "edge_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}.")


_MOST_TOKENS = 1 << 16  # of a vocabulary that a transformer predicts


def check_vocabulary(scalars: int, levels: int) -> None:
    """Refuse scalars of so many levels whose combinations are too many tokens.

    Raises:
        ConfigError: they are.
    """
    if (tokens := levels**scalars) > _MOST_TOKENS:
        raise ConfigError(
            f"{scalars} scalars of {levels} levels are {tokens:,} tokens, more than {_MOST_TOKENS:,}: take fewer "
            "scalars or levels."
        )


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Part, ABC):
    """Settings of a tokenizer, and of the stage that learns it."""

    training: TokenizerTraining = TokenizerTraining()

    @abstractmethod
    def build(self, frame_shape: tuple[int, int, int], action_size: int = 0) -> Tokenizer:
        """Return the untrained tokenizer.

        Args:
            frame_shape: (c, h, w).
            action_size: a, which only those that use context need.

        Raises:
            ConfigError: frames that it cannot take.
        """


class Tokenizer(nn.Module, ABC):
    """What all of them offer. Every row is coded by itself.

    Args:
        frame_shape: (c, h, w).
        vocabulary: how many tokens there are.
        width: numbers of a code vector.
        scales: grids (y, x), coarse to fine.
        config: its settings.

    Attributes:
        uses_context: whether `encode` and `decode` need a `FrameContext`; else they take none into account.
        sequence_length: steps per window of its training.
        action_size: numbers of an action's vector; 0 where it needs none.
    """

    uses_context: bool = False
    sequence_length: int = 1
    action_size: int = 0
    config: TokenizerConfig

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        vocabulary: int,
        width: int,
        scales: tuple[tuple[int, int], ...],
        config: TokenizerConfig,
    ) -> None:
        super().__init__()
        self.frame_shape, self.vocabulary, self.width, self.scales = frame_shape, vocabulary, width, scales
        self.config = config

    @property
    def tokens_per_frame(self) -> int:
        """Return l."""
        return sum(y * x for y, x in self.scales)

    @property
    def bits_per_frame(self) -> float:
        """Bits of a frame's tokens if all were equally likely."""
        return self.tokens_per_frame * math.log2(self.vocabulary)

    def encode(self, frames: Tensor, context: FrameContext | None = None) -> Tensor:
        """Frames (n, c, h, w) float32 in [0, 1] -> tokens (n, l) int64.

        Raises:
            FrameError: frames of another shape or type, or no context where it is needed.
            ActionError: a context's actions of another shape.
        """
        self._check_frames(frames, "frames")
        return self._encode(frames, self._checked(context, len(frames)))

    def decode(self, tokens: Tensor, context: FrameContext | None = None) -> Tensor:
        """Tokens (n, l) int64 -> frames (n, c, h, w) float32 in [0, 1].

        Raises:
            InputError: tokens of another shape or type, or out of range; see `check_tokens`.
            FrameError, ActionError: of the context, as `encode`.
        """
        self.check_tokens(tokens)
        return self._decode(tokens, self._checked(context, len(tokens)))

    def reconstruct(self, frames: Tensor, context: FrameContext | None = None) -> Tensor:
        """Return the frames (n, c, h, w) as their tokens show them."""
        return self.decode(self.encode(frames, context), context)

    @abstractmethod
    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens (n, l) int64, or those of the first scales -> their code vectors (n, l, width) float32."""

    def next_scale_inputs(self, tokens: Tensor) -> Tensor:
        """Return what is known at each place before its scale is predicted.

        Args:
            tokens: (n, m) of the first k scales, k from 0 on.

        Returns:
            (n, m', width) for the first k + 1 scales, or for all if k is all: the sum that the scales before it stand
            for so far, resized to the scale's grid. 0 at the first scale.

        Raises:
            InputError: tokens that do not fill their scales.
        """
        self.check_tokens(tokens, partial=True)
        y, x = self.scales[0]
        return torch.zeros((len(tokens), y * x, self.width), device=tokens.device)

    @abstractmethod
    def loss(
        self, frames: Tensor, context: FrameContext | None, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of frames (n, c, h, w), and scalars to log; ``psnr_db`` is among them.

        In training, codebooks that learn from averages learn here.
        """

    def objectives(self, view: View) -> Sequence[Objective]:
        """Return what its stage minimises, one step each per batch.

        Args:
            view: takes frames and context out of a batch.
        """
        parameters = list(self.parameters())
        return (Objective("tokenizer", parameters, lambda batch: self.loss(*view(batch), batch.generator)),)

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take what can be known of the data before training; see `dreamenv.world_model.DataStatistics`."""

    def check_tokens(self, tokens: Tensor, *, partial: bool = False) -> int:
        """Refuse tokens (n, l) that are no frames' of this tokenizer.

        Values are looked at on a CPU only: other devices would have to be waited for.

        Args:
            tokens: what to check.
            partial: tokens of the first scales alone will do.

        Returns:
            How many scales they fill.

        Raises:
            InputError: another shape or type, or values out of range.
        """
        ends = [sum(y * x for y, x in self.scales[:k]) for k in range(len(self.scales) + 1)]
        allowed = ends if partial else ends[-1:]
        if tokens.ndim != 2 or tokens.shape[1] not in allowed or tokens.dtype != torch.int64:
            raise InputError(
                f"tokens must be (n, {' or '.join(map(str, allowed))}) int64, not {tuple(tokens.shape)} "
                f"{tokens.dtype}; take them from this tokenizer's encode()."
            )
        if tokens.device.type == "cpu" and tokens.numel():
            least, most = (int(one) for one in tokens.aminmax())
            if least < 0 or most >= self.vocabulary:
                raise InputError(
                    f"tokens must be from 0 to {self.vocabulary - 1}, not {least if least < 0 else most}; was the "
                    "transformer trained with another tokenizer?"
                )
        return ends.index(tokens.shape[1])

    @abstractmethod
    def _encode(self, frames: Tensor, context: FrameContext | None) -> Tensor:
        """See `encode`."""

    @abstractmethod
    def _decode(self, tokens: Tensor, context: FrameContext | None) -> Tensor:
        """See `decode`."""

    def _check_frames(self, frames: Tensor, what: str) -> None:
        if frames.ndim != 4 or tuple(frames.shape[1:]) != self.frame_shape or frames.dtype != torch.float32:
            raise FrameError(
                f"{what} must be (n, {', '.join(map(str, self.frame_shape))}) float32 in [0, 1], "
                f"not {tuple(frames.shape)} {frames.dtype}."
            )

    def _checked(self, context: FrameContext | None, rows: int) -> FrameContext | None:
        """Return the context of as many rows, None where it is not used."""
        if not self.uses_context:
            return None
        if context is None:
            raise FrameError(
                "this tokenizer codes a frame given the frame before it and the action between them; "
                "pass context=FrameContext(frames, actions)."
            )
        self._check_frames(context.frames, "the context's frames")
        if len(context.frames) != rows or context.actions.ndim != 2 or len(context.actions) != rows:
            raise ActionError(
                f"a context of {rows} rows needs as many frames and action vectors (n, a), not "
                f"{tuple(context.frames.shape)} and {tuple(context.actions.shape)}."
            )
        return context


def tokenizer_stage(tokenizer: Tokenizer, action: ActionEncoder | None = None, name: str = "tokenizer") -> Stage:
    """Return the stage that learns a tokenizer.

    Args:
        tokenizer: what learns; its weights must be those of the model that is trained.
        action: makes vectors of the world's actions; needed where the tokenizer uses context.
        name: of the stage.
    """
    training = tokenizer.config.training
    return Stage(
        name=name,
        objectives=tokenizer.objectives(lambda batch: training_frames(batch, tokenizer.uses_context, action)),
        steps=training.steps,
        batch_size=training.batch_size,
        sequence_length=tokenizer.sequence_length,
        learning_rate=training.learning_rate,
    )


def training_frames(
    batch: Batch, uses_context: bool, action: ActionEncoder | None
) -> tuple[Tensor, FrameContext | None]:
    """Return a batch's frames (n, c, h, w), with what came before each of them where context is used.

    Padding is left out, and frames that end an episode, which may be anything. With context, the first frames of the
    windows are context alone.

    Raises:
        FrameError: context of a batch without steps.
        ConfigError: context without an action encoder.
    """
    kept = batch.weight * ~batch.terminated > 0  # b t
    frames = torch.cat((batch.first_frame[:, None], batch.frames), dim=1)
    if not uses_context:
        return frames[torch.cat((torch.ones_like(kept[:, :1]), kept), dim=1)], None
    if action is None:
        raise ConfigError("a tokenizer that uses context needs the action encoder of the world.")
    if kept.numel() == 0:
        raise FrameError("a clip of 1 frame is shorter than the context; use clips of at least 2 frames.")
    kept = kept | ~kept.any()  # never an empty batch
    return frames[:, 1:][kept], FrameContext(frames[:, :-1][kept], action(batch.actions)[kept])

"""Few tokens for what the frame before and the action do not tell (delta-IRIS, Micheli et al. 2024; iVideoGPT).

The encoder sees the frame and the one before it. The decoder sees the tokens, the frame before at every resolution and
the action, and decodes the difference between the frames: where nothing happens it needs no tokens at all. In a dream
the frame before is one that was decoded, not a real one, so a share of the training's is decoded, too, and tokens learn
to mend what was decoded wrong. Letters as in `dreamenv.codecs.tokenizer`; ``s`` scalars of a place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.codecs.codebook import perplexity
from dreamenv.codecs.distortion import distortion
from dreamenv.codecs.fsq import from_digits, round_through, to_digits
from dreamenv.codecs.grid import ConvGridConfig, check_divides
from dreamenv.codecs.tokenizer import FrameContext, Tokenizer, TokenizerConfig, View, check_vocabulary
from dreamenv.errors import ActionError, ConfigError, FrameError
from dreamenv.nn.batching import map_in_chunks
from dreamenv.nn.pixels import ChannelsToSpace, SpaceToChannels, down_network
from dreamenv.nn.precision import Linear, autocast
from dreamenv.nn.residual import CastConv, ConvBlock
from dreamenv.world_model import Batch, DataStatistics, Objective

__all__ = ["ContextTokenizer", "ContextTokenizerConfig"]


@dataclass(frozen=True, kw_only=True)
class ContextTokenizerConfig(TokenizerConfig, kind="context_tokenizer"):
    """Settings. The defaults give frames of 64 x 64 a quarter of the tokens that the other tokenizers' do.

    Attributes:
        grid: sizes of the networks.
        scalars: of a place, see `dreamenv.codecs.fsq`; the vocabulary is ``levels ** scalars``. Codes of a codebook
            would collapse into one as long as the decoder, which sees the frame before, does well without them.
        levels: of each scalar; odd, so that one of them is 0.
        own_context: share of the training's windows in which the frame before is the tokenizer's own reconstruction.

    Raises:
        ConfigError: a size or share that cannot be.
    """

    grid: ConvGridConfig = ConvGridConfig(channels=(32, 64, 96))
    scalars: int = 4
    levels: int = 5
    own_context: float = 0.5

    def __post_init__(self) -> None:
        if self.scalars < 1 or self.levels < 3 or self.levels % 2 == 0:
            raise ConfigError(
                f"scalars must be at least 1 and levels odd and at least 3, not {self.scalars} and {self.levels}."
            )
        check_vocabulary(self.scalars, self.levels)
        if not 0 <= self.own_context <= 1:
            raise ConfigError(f"own_context must be in [0, 1], not {self.own_context}.")

    def build(self, frame_shape: tuple[int, int, int], action_size: int = 0) -> ContextTokenizer:
        """See `TokenizerConfig`."""
        return ContextTokenizer(self, frame_shape, action_size)


class ContextTokenizer(Tokenizer):
    """The tokenizer.

    Args:
        config: its settings.
        frame_shape: (c, h, w).
        action_size: numbers of an action's vector.

    Raises:
        ConfigError: frames that the networks cannot take, or no action_size.
    """

    uses_context = True
    sequence_length = 2
    mean_frame: Tensor

    config: ContextTokenizerConfig

    def __init__(self, config: ContextTokenizerConfig, frame_shape: tuple[int, int, int], action_size: int) -> None:
        if action_size < 1:
            raise ConfigError(f"action_size must be the width of the world's action vectors, not {action_size}.")
        grid, c, width = config.grid, frame_shape[0], config.scalars
        check_divides(frame_shape, grid.downsample)
        shape = frame_shape[1] // grid.downsample, frame_shape[2] // grid.downsample
        super().__init__(frame_shape, config.levels**width, width, (shape,), config)
        self.action_size = action_size
        self.register_buffer("mean_frame", torch.full(frame_shape, 0.5))
        self._largest = max(grid.channels[0], 2 * c * grid.patch**2) * frame_shape[1] * frame_shape[2] // grid.patch**2
        # Normalised before it is bounded: else the scalars run to their bounds before the decoder has a use for them.
        last = grid.channels[-1]
        down = down_network(2 * c, last, grid.patch, grid.channels, grid.blocks)
        self.encoder = nn.Sequential(down, nn.GroupNorm(1, last), nn.SiLU(), CastConv(last, width, 1))
        self.decoder = _Decoder(grid, c, width, action_size)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def codes(self, tokens: Tensor) -> Tensor:
        """See `Tokenizer`."""
        self.check_tokens(tokens, partial=True)
        return self._values(tokens)

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the mean frame, from which the loss tells what is in the foreground."""
        self.mean_frame.copy_(statistics.frame_mean)

    def objectives(self, view: View) -> Sequence[Objective]:
        """See `Tokenizer`.

        In a share of the windows, the second step follows the reconstruction of the first. A quarter of the windows
        also gives its first frame, which nothing came before.
        """

        def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            if batch.actions.shape[1] != self.sequence_length:
                raise FrameError(
                    f"windows must be of {self.sequence_length} steps, not {batch.actions.shape[1]}; "
                    "see tokenizer_stage."
                )
            first, second = _step(batch, 0), _step(batch, 1)
            whole = dataclasses.replace(
                first, weight=torch.ones_like(first.weight), terminated=torch.zeros_like(first.terminated)
            )
            chance = torch.rand(
                (len(batch.actions), 1, 1, 1), generator=batch.generator, device=batch.first_frame.device
            )
            with torch.no_grad():
                decoded = self.reconstruct(*view(whole))
            own = torch.where(chance < self.config.own_context, decoded, second.first_frame)
            opening = batch.first_frame[: math.ceil(len(batch.first_frame) / 4)]
            nothing = FrameContext.nothing(len(opening), self.frame_shape, self.action_size, opening.device)
            seen = [view(first), view(dataclasses.replace(second, first_frame=own)), (opening, nothing)]
            frames = torch.cat([frames for frames, _ in seen])
            contexts = [self._required(context, len(frames)) for frames, context in seen]
            before = torch.cat([context.frames for context in contexts])
            actions = torch.cat([context.actions for context in contexts])
            return self.loss(frames, FrameContext(before, actions), batch.generator)

        return (Objective("tokenizer", list(self.parameters()), loss),)

    def loss(
        self, frames: Tensor, context: FrameContext | None, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Tokenizer`. Also logs how many tokens are in use, as a ``perplexity``."""
        training, context = self.config.training, self._required(context, len(frames))
        with autocast(frames.device, training.bfloat16 and self.training):
            exact = self._exact(frames, context)
            decoded = self._decoded(round_through(exact, self.config.levels), context)
        loss, terms = distortion(decoded, frames, self.mean_frame, training.foreground_weight, training.edge_weight)
        return loss, terms | {"perplexity": perplexity(self._tokens(exact.detach()), self.vocabulary)}

    def _encode(self, frames: Tensor, context: FrameContext | None) -> Tensor:
        return self._tokens(self._exact(frames, self._required(context, len(frames))).detach())

    def _decode(self, tokens: Tensor, context: FrameContext | None) -> Tensor:
        return self._decoded(self._values(tokens), self._required(context, len(tokens))).clamp(0.0, 1.0)

    def _tokens(self, exact: Tensor) -> Tensor:
        """Scalars (n, l, s) from -1 to 1 -> tokens (n, l)."""
        half = self.config.levels // 2
        return from_digits((exact * half).round().long() + half, self.config.levels)

    def _values(self, tokens: Tensor) -> Tensor:
        """Tokens (n, l) -> scalars (n, l, s) from -1 to 1."""
        half = self.config.levels // 2
        return (to_digits(tokens, self.config.levels, self.width) - half).float() / half

    def _required(self, context: FrameContext | None, rows: int) -> FrameContext:
        """Return the context, checked."""
        context = self._checked(context, rows)
        assert context is not None
        if context.actions.shape[1] != self.action_size:
            raise ActionError(
                f"action vectors must be {self.action_size} wide, not {context.actions.shape[1]}; make them with the "
                "world's own action encoder."
            )
        return context

    def _exact(self, frames: Tensor, context: FrameContext) -> Tensor:
        """Return scalars (n, l, s) from -1 to 1 of frames, not rounded yet."""
        both = torch.cat((frames - context.frames, context.frames - 0.5), dim=1)
        both = both.contiguous(memory_format=torch.channels_last)
        maps = map_in_chunks(self.encoder, self._largest, both).float()
        exact: Tensor = rearrange(maps.tanh(), "n s y x -> n (y x) s")
        return exact

    def _decoded(self, values: Tensor, context: FrameContext) -> Tensor:
        """Return frames (n, c, h, w), not clamped, of scalars (n, l, s)."""
        maps = rearrange(values, "n (y x) s -> n s y x", y=self.scales[0][0])
        difference = map_in_chunks(self.decoder, self._largest, maps, context.frames, context.actions)
        return context.frames + difference.float()


class _Decoder(nn.Module):
    """From codes, the frame before and the action to the difference between the frames. At first it is 0."""

    def __init__(self, grid: ConvGridConfig, c: int, width: int, action_size: int) -> None:
        super().__init__()
        widths = grid.channels
        factors = [grid.patch] + [2] * (len(widths) - 1)
        inputs = (c, *widths[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(SpaceToChannels(factor), CastConv(before * factor**2, after, 3), ConvBlock(after))
            for factor, before, after in zip(factors, inputs, widths, strict=True)
        )
        self.action = Linear(action_size, widths[-1])
        # Codes are heard at every resolution: on a longer way, what is known would be used long before them.
        self.code = nn.ModuleList(CastConv(width, own, 1) for own in widths[::-1])
        self.up = nn.ModuleList()
        for factor, outputs, own in zip(factors[::-1], inputs[::-1], widths[::-1], strict=True):
            blocks = [ConvBlock(own) for _ in range(grid.blocks)]
            last = CastConv(own, outputs * factor**2, 3)
            self.up.append(nn.Sequential(*blocks, nn.SiLU(), last, ChannelsToSpace(factor)))
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, codes: Tensor, before: Tensor, actions: Tensor) -> Tensor:
        """Codes (n, s, y, x), frames (n, c, h, w), actions (n, a) -> differences (n, c, h, w)."""
        seen, known = (before - 0.5).contiguous(memory_format=torch.channels_last), []
        for stage in self.down:
            seen = stage(seen)
            known.append(seen)
        maps: Tensor = self.action(actions)[..., None, None]
        for stage, code, skipped in zip(self.up, self.code, reversed(known), strict=True):
            heard = functional.interpolate(code(codes), skipped.shape[-2:], mode="nearest")
            maps = stage(maps + skipped + heard)
        return maps


def _step(batch: Batch, i: int) -> Batch:
    """Return step i of a batch alone."""
    return dataclasses.replace(
        batch,
        first_frame=batch.frames[:, i - 1] if i else batch.first_frame,
        frames=batch.frames[:, i : i + 1],
        actions=batch.actions[:, i : i + 1],
        rewards=batch.rewards[:, i : i + 1],
        terminated=batch.terminated[:, i : i + 1],
        weight=batch.weight[:, i : i + 1],
    )

"""A world of discrete tokens: a tokenizer makes tokens of frames, a transformer predicts those of the next one.

The tokenizer, the order in which a frame's tokens are predicted, the actions' tokens and the head are parts (IRIS,
Micheli et al. 2023; MineWorld, Guo et al. 2025; VAR, Tian et al. 2024, over video). A step takes as many passes as the
order has, whatever came before: keys and values of past tokens are cached, and the cache slides when it is full.

State: ``tokens`` (b, l) int64, of the present frame; ``keys``, ``values`` (b, depth, kv_heads, c, d), newest last;
``length`` (b,) int64, how many of the c are there; ``position`` (b,) int64, steps so far; ``passed`` (b, w), what came
out of the transformer after the last action; with a tokenizer that uses context also ``frame`` (b, c, h, w).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dreamenv.backbones.rssm.stream import RowStreams, updated_state
from dreamenv.backbones.tokens.action_tokens import ActionTokensConfig, OneActionTokenConfig
from dreamenv.backbones.tokens.dynamics import Draw, StreamMemory, TokenDynamics
from dreamenv.backbones.tokens.frames import FrameTokens
from dreamenv.backbones.tokens.losses import TokenWorldLoss
from dreamenv.backbones.tokens.order import OrderConfig
from dreamenv.backbones.tokens.raster import RasterOrderConfig
from dreamenv.backbones.tokens.sampling import TokenSampling
from dreamenv.backbones.tokens.training import TokenWorldTraining
from dreamenv.backbones.tokens.transformer import TokenTransformer, TokenTransformerConfig
from dreamenv.checks import MOST
from dreamenv.codecs.tokenizer import TokenizerConfig, tokenizer_stage
from dreamenv.errors import ConfigError
from dreamenv.heads.base import HeadOutput
from dreamenv.heads.reward_termination import RewardTerminationHeadConfig
from dreamenv.nn.precision import store_in_bfloat16
from dreamenv.randomness import uniform
from dreamenv.world_model import (
    BackboneConfig,
    DataStatistics,
    Imagined,
    Stage,
    State,
    StateBounds,
    WorldModel,
    WorldModelSpec,
    check_actions,
    check_first_frame,
    check_frames,
    check_state,
    new_state,
)

__all__ = ["TokenWorld", "TokenWorldConfig"]

_ENTRIES = ("tokens", "keys", "values", "length", "position", "passed")


@dataclass(frozen=True, kw_only=True)
class TokenWorldConfig(BackboneConfig, kind="token_world"):
    """Settings.

    Attributes:
        tokenizer: of frames.
        transformer: over the tokens.
        order: in which a frame's tokens are predicted.
        actions: how they become tokens.
        sampling: of tokens in a dream.
        head: of reward and termination; None predicts neither.
        training: the second stage.

    Raises:
        ConfigError: dropout for a head that is not there.
    """

    tokenizer: TokenizerConfig
    transformer: TokenTransformerConfig = TokenTransformerConfig()
    order: OrderConfig = RasterOrderConfig()
    actions: ActionTokensConfig = OneActionTokenConfig()
    sampling: TokenSampling = TokenSampling()
    head: RewardTerminationHeadConfig | None = RewardTerminationHeadConfig()
    training: TokenWorldTraining = TokenWorldTraining()

    def __post_init__(self) -> None:
        if self.head is None and self.training.dropout:
            raise ConfigError(
                f"dropout={self.training.dropout} is of what the head reads, and without a head has no effect; set "
                "training.dropout to 0."
            )

    def build(self, spec: WorldModelSpec) -> TokenWorld:
        """See `BackboneConfig`."""
        return TokenWorld(self, spec)


class TokenWorld(WorldModel):
    """The model. Parameters only; memory travels in the state.

    Args:
        config: its settings.
        spec: what it shows and accepts.

    Raises:
        ConfigError: a frame that the tokenizer cannot take, tokens that cannot be had in the order, or actions that no
            tokens stand for.
    """

    estimates_uncertainty = True
    score_of: Literal["tokens"] = "tokens"
    score_is: Literal["exact"] = "exact"

    def __init__(self, config: TokenWorldConfig, spec: WorldModelSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = dataclasses.replace(
            spec, context_frames=config.transformer.context, predicts_rewards=config.head is not None
        )
        width = config.transformer.width
        self.frames = FrameTokens(config.tokenizer, config.actions, spec, width)
        tokenizer = self.frames.tokenizer
        order = config.order.build(tokenizer, width, self.frames.count)
        self.dynamics = TokenDynamics(TokenTransformer(config.transformer), order, tokenizer.vocabulary)
        self.head = None if config.head is None else config.head.build(width)
        self.embedding_size = width + tokenizer.tokens_per_frame * tokenizer.width

    # The contract

    @torch.no_grad()
    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        """Remember nothing but the tokens of the first frame."""
        check_first_frame(self.spec, first_frame, seed)
        tokens = self.frames.encode_first(first_frame)
        entries = {"tokens": tokens, **vars(self.dynamics.begin(tokens))}
        if self.frames.uses_context:
            entries["frame"] = first_frame.clone()
        state = new_state(seed, entries)
        return updated_state(state, RowStreams.of(state).next())

    @torch.no_grad()
    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        """Take in what happened."""
        tokens, acted = self._read(state, actions, frames)
        memory = self.dynamics.follow(_memory(state), state["tokens"], acted, tokens)
        streams = RowStreams.of(state)
        streams = streams._replace(counter=streams.counter + actions.shape[1])
        shown = {"frame": frames[:, -1].clone()} if self.frames.uses_context else {}
        return updated_state(state, streams, tokens=tokens[:, -1], **vars(memory), **shown)

    @torch.no_grad()
    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        """Draw each next frame's tokens. ``uncertainty`` is their mean entropy, in nats per token."""
        check_actions(self.spec, actions)
        check_state(state, actions, self._entries())
        if self.frames.uses_context and actions.shape[1] > 1:  # what is shown tells what its tokens mean
            parts = []
            for action in actions.split(1, dim=1):
                part, state = self.imagine(state, action, decode=decode)
                parts.append(part)
            return _joined(parts), state
        streams, k = RowStreams.of(state), actions.shape[1]
        before = state["frame"][:, None] if self.frames.uses_context else None
        acted = self.frames.acted(actions, before)
        memory, tokens, passed, entropy = self.dynamics.dream(
            _memory(state), state["tokens"], acted, lambda step: self._drawer(streams, step)
        )
        frames, shown = None, {}
        if decode or before is not None:
            frames = self.frames.decode(tokens, actions, before)
        if before is not None and frames is not None:
            shown["frame"] = frames[:, -1].clone()
        predicted = self._predicted(passed)
        imagined = Imagined(
            frames=frames if decode else None,
            rewards=predicted.rewards,
            termination=predicted.termination,
            uncertainty=entropy,
            terminal_rewards=predicted.terminal_rewards,
        )
        streams = streams._replace(counter=streams.counter + k)
        return imagined, updated_state(state, streams, tokens=tokens[:, -1], **vars(memory), **shown)

    @torch.no_grad()
    def score(self, state: State, actions: Tensor, frames: Tensor) -> Tensor:
        """Return the negative log-likelihood of the tokens of what happened, (b, t) nats; it is exact.

        It is that of tokens, not of pixels: what the tokenizer leaves out is not counted. Temperature, top-k and top-p
        are settings of dreams and play no part.

        Args:
            state: before the first of these steps.
            actions: (b, t, *a).
            frames: (b, t, c, h, w) in [0, 1], which they led to.
        """
        tokens, acted = self._read(state, actions, frames)
        return self.dynamics.nats(_memory(state), state["tokens"], acted, tokens)

    def embed(self, state: State) -> Tensor:
        """What came out after the last action, and the code vectors of the frame, (b, w + l * width of a code)."""
        codes = self.frames.tokenizer.codes(state["tokens"]).flatten(1)
        return torch.cat((state["passed"], codes), dim=1)

    def reconstruct(self, frames: Tensor) -> Tensor:
        """See `SupportsReconstruct`; where the tokenizer uses context, as first frames: less than it keeps later."""
        return self.frames.decode_first(self.frames.encode_first(frames))

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take what tokenizer and head can know from the data."""
        self.frames.tokenizer.calibrate(statistics)
        if self.head is not None:
            self.head.calibrate(statistics)

    def store_in_bfloat16(self) -> None:
        """See `SupportsBfloat16`."""
        store_in_bfloat16(self)

    def state_bounds(self) -> StateBounds:
        """Tokens of the vocabulary, and counts."""
        return {
            ("tokens",): (0, self.frames.tokenizer.vocabulary - 1),
            ("length",): (0, self.dynamics.cached),
            ("position",): (0, MOST),
        }

    def stages(self) -> Sequence[Stage]:
        """The tokenizer on frames, then order, transformer and head on cached tokens."""
        losses = TokenWorldLoss(self.config.training, self.frames, self.dynamics, self.head)
        learned = [
            *self.dynamics.parameters(), *self.frames.learned_parameters(),
            *(() if self.head is None else self.head.parameters()),
        ]  # fmt: skip
        first = tokenizer_stage(self.frames.tokenizer, self.frames.actions.vector)
        # In float32, as in a dream: tokens that lie next to a boundary would be others.
        precompute = None if self.frames.uses_context else self.frames.tokenizer.encode
        second = self.config.training.dynamics.build("dynamics", learned, losses.dynamics_loss, precompute)
        return (first, second)

    def _entries(self) -> tuple[str, ...]:
        return (*_ENTRIES, "frame") if self.frames.uses_context else _ENTRIES

    def _read(self, state: State, actions: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of frames, (b, t, l), and those of the actions that led to them, (b, t, a, w)."""
        check_actions(self.spec, actions)
        check_frames(self.spec, actions, frames)
        check_state(state, actions, self._entries())
        before = None
        if self.frames.uses_context:
            before = torch.cat((state["frame"][:, None], frames[:, :-1]), dim=1)
        return self.frames.encode(frames, actions, before), self.frames.acted(actions, before)

    def _drawer(self, streams: RowStreams, step: int) -> Draw:
        """Return what draws the tokens of a step, of each row's own numbers."""
        count = self.frames.tokenizer.tokens_per_frame
        numbers = uniform(streams.key, streams.counter + step, (count,))

        def draw(logits: Tensor, drawn: slice | Tensor) -> Tensor:
            return self.config.sampling.draw(logits.float(), streams.temperature, numbers[:, drawn])

        return draw

    def _predicted(self, passed: Tensor) -> HeadOutput:
        if self.head is None:
            nothing = torch.zeros(passed.shape[:2], device=passed.device)
            return HeadOutput(rewards=nothing, termination=nothing)
        predicted: HeadOutput = self.head(passed)
        return predicted


def _memory(state: State) -> StreamMemory:
    return StreamMemory(state["keys"], state["values"], state["length"], state["position"], state["passed"])


def _joined(parts: Sequence[Imagined]) -> Imagined:
    """Join single steps in time."""

    def join(name: str) -> Any:
        ones = [getattr(part, name) for part in parts]
        return None if ones[0] is None else torch.cat(ones, dim=1)

    return dataclasses.replace(parts[0], **{field.name: join(field.name) for field in dataclasses.fields(Imagined)})

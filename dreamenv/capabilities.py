"""What a world model may offer beyond the contract: a protocol of one method each.

Each is used where a model has it: policies that need no pixels, frames several steps ahead, faster dreams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from dreamenv.world_model import DataStatistics, State

__all__ = [
    "PromptEncoder",
    "SupportsBfloat16",
    "SupportsCalibrate",
    "SupportsCompile",
    "SupportsEmbed",
    "SupportsJump",
    "SupportsPrompt",
    "SupportsReconstruct",
    "SupportsScore",
]


@runtime_checkable
class SupportsEmbed(Protocol):
    """Capability: a compact state for policies, no decoding needed."""

    embedding_size: int

    def embed(self, state: State) -> Tensor:
        """Return (b, embedding_size) float32."""
        ...


@runtime_checkable
class SupportsReconstruct(Protocol):
    """Capability: reconstructs frames by encoding and decoding them."""

    def reconstruct(self, frames: Tensor) -> Tensor:
        """Return reconstructions of frames (n, c, h, w) float32 in [0, 1], of the same shape."""
        ...


@runtime_checkable
class SupportsScore(Protocol):
    """Capability: tells how probable real frames are to it.

    Attributes:
        score_of: what it gives a probability to: the levels of "pixels", as 8 bits hold them; or the "tokens" that its
            codec makes of a frame, which are a part of what the frame shows. Scores of both kinds do not compare.
        score_is: "exact", minus the logarithm of that probability; or a "bound" that is not below it in the mean.
    """

    score_of: Literal["pixels", "tokens"]
    score_is: Literal["exact", "bound"]

    def score(self, state: State, actions: Tensor, frames: Tensor) -> Tensor:
        """Return the cost of frames (b, t, c, h, w) that actions (b, t, *a) led to, (b, t) float32, in nats.

        Each frame is judged given the state and the frames before it; the state is not changed.

        Raises:
            FrameError, ActionError, StateError: as `dreamenv.world_model.WorldModel.observe` does.
        """
        ...


@runtime_checkable
class SupportsJump(Protocol):
    """Capability: predicts a frame several steps ahead without the frames in between."""

    @property
    def max_time_shift(self) -> int:
        """The largest number of steps ahead in training; 1 if only the next frame was predicted."""
        ...

    def predict_ahead(self, state: State, actions: Tensor) -> Tensor:
        """Return the frame (b, c, h, w) in [0, 1] that actions (b, k, *a) lead to; the state is not changed.

        Raises:
            ActionError: more steps than ``max_time_shift``.
        """
        ...


class PromptEncoder(Protocol):
    """Turns text into the prompts that a world takes."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return prompts (n, w) int64 of texts; all zeros is no prompt."""
        ...

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that training has not shown, and that say nothing."""
        ...


@runtime_checkable
class SupportsPrompt(Protocol):
    """Capability: a slow, global control next to the action of every frame.

    A prompt lies in the state: it lasts until another one is given, and saved, restored and branched states carry it.

    Attributes:
        prompt_encoder: turns text into prompts.
    """

    prompt_encoder: PromptEncoder

    def prompt(self, state: State, prompt: Tensor) -> State:
        """Return the state under other prompts (b, w) int64; the random stream and all else stay as they are.

        A prompt of zeros is none: what is dreamt is what is dreamt without any, bit for bit.

        Raises:
            PromptError: prompts of another shape or type.
        """
        ...


@runtime_checkable
class SupportsCalibrate(Protocol):
    """Capability: sets constants of the model (buffers, initial biases) from the data before training starts."""

    def calibrate(self, statistics: DataStatistics) -> None:
        """Set up from the training set's statistics."""
        ...


@runtime_checkable
class SupportsBfloat16(Protocol):
    """Capability: faster dreams with rounded weights."""

    def store_in_bfloat16(self) -> None:
        """Round the weights of matrix products, in place; what accumulates over a dream stays float32."""
        ...


@runtime_checkable
class SupportsCompile(Protocol):
    """Capability: faster dreams by `torch.compile`."""

    def compile_networks(self) -> None:
        """Compile what runs at every step, when it is first called."""
        ...

"""What a world model may offer beyond the contract: a protocol each, of one method or two.

Each is used where a model has it: policies that need no pixels, frames several steps ahead, faster dreams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from dreamenv.errors import FrameError, InputError
from dreamenv.world_model import DataStatistics, State, WorldModelSpec

__all__ = [
    "PromptEncoder",
    "SupportsBfloat16",
    "SupportsCalibrate",
    "SupportsCompile",
    "SupportsEmbed",
    "SupportsGaze",
    "SupportsJump",
    "SupportsPrompt",
    "SupportsReconstruct",
    "SupportsRevise",
    "SupportsScore",
    "check_revision",
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
class SupportsRevise(Protocol):
    """Capability: later frames revise what is remembered of the steps before them (postdiction).

    A step that `WorldModel.imagine` made is one whose frame was not seen: that is how a frame that is missing is
    bridged. `WorldModel.observe` filters, it decides at once and never looks back; `revise` does.

    Attributes:
        revision_steps: how many past steps a state remembers well enough to be revised.
    """

    spec: WorldModelSpec
    revision_steps: int

    def revise(self, state: State, frames: Tensor, mask: Tensor) -> State:
        """Take frames in, of steps that are past, and infer anew what was remembered without having been seen.

        What later frames say of unseen steps is used, too: to look back from the newest step, give its frame again.

        Args:
            state: after the newest step; it is not changed.
            frames: (b, l, c, h, w) float32 in [0, 1], of the last l steps.
            mask: (b, l) bool, True where a frame is given. Rows without any come back bit for bit as they were.

        Returns:
            The state as it would be had these frames been known; the random stream is where it was.

        Raises:
            FrameError: frames of another shape or type.
            InputError: a mask of another shape or type, or a frame of a step further back than a row remembers.
            StateError: a state of another world or number of rows.
        """
        ...

    def recall(self, state: State) -> Tensor:
        """Return the last ``revision_steps`` frames as they are remembered now, (b, l, c, h, w), the newest last.

        Of steps before a row's first they may show anything.
        """
        ...


def check_revision(model: SupportsRevise, age: Tensor, frames: Tensor, mask: Tensor) -> None:
    """Raise an error, as `SupportsRevise` says, unless frames and their mask are of steps that a state remembers.

    Args:
        model: whose.
        age: (b,) int64, how many steps each row remembers.
        frames: (b, l, c, h, w).
        mask: (b, l).
    """
    shape = model.spec.frame_shape
    if frames.ndim != 5 or tuple(frames.shape[2:]) != shape or frames.dtype != torch.float32:
        sizes = ", ".join(map(str, shape))
        raise FrameError(f"frames must be (b, l, {sizes}) float32 in [0, 1], not {tuple(frames.shape)} {frames.dtype}.")
    rows, steps = frames.shape[:2]
    if mask.shape != (rows, steps) or mask.dtype != torch.bool:
        raise InputError(
            f"mask must be ({rows}, {steps}) bool, which of the frames are given, not {tuple(mask.shape)} {mask.dtype}."
        )
    if not 1 <= steps <= model.revision_steps:
        raise InputError(
            f"{steps} steps cannot be revised: this world remembers the last {model.revision_steps}; give 1 to "
            f"{model.revision_steps}."
        )
    oldest = torch.where(mask, steps - torch.arange(steps, device=mask.device), 0).amax(dim=1)
    early = (oldest > age).nonzero()
    if len(early):
        row = int(early[0])
        raise InputError(
            f"row {row} was given a frame of {int(oldest[row])} steps ago (the newest counts as 1), and began "
            f"{int(age[row])} steps ago; leave that frame out of the mask."
        )


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
class SupportsGaze(Protocol):
    """Capability: sees frames finely round a gaze and coarsely elsewhere, and can be told where to look.

    States of such a world have an entry ``gaze`` (b, 2) float32, row and column in [0, 1] of the frame, at which the
    next frame is seen.
    """

    def look(self, state: State, gaze: Tensor) -> State:
        """Return the state with gazes (b, 2) float32 that stay until told otherwise; the state is not changed.

        A row of NaN leaves the gaze of that row to the world again.

        Raises:
            GazeError: of another shape or type, or outside the frame.
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

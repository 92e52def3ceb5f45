"""Prediction as compression: nats to bits per frame and per dimension, and what a model costs that must be sent first.

A model that gives frames probabilities is a compressor, and how short its code is says how well it predicts. But a code
of two parts counts the model, too (Rissanen 1978): against another compressor, which needs no model, one pays only for
more frames than `break_even_frames`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dreamenv.capabilities import SupportsScore
from dreamenv.checks import check_number, check_whole
from dreamenv.data.store import FrameStore
from dreamenv.data.windows import read_windows, windows_for_evaluation
from dreamenv.metrics.statistics import mean_intervals

__all__ = ["TwoPartCode", "bits_per_dim", "score_windows", "to_bits"]

_ROWS = 16  # windows at a time


def to_bits(nats: float) -> float:
    """Turn nats into bits."""
    return nats / math.log(2)


def bits_per_dim(bits_per_frame: float, frame_shape: Sequence[int]) -> float:
    """Return bits per value of a frame; raw 8-bit levels take 8."""
    return bits_per_frame / math.prod(frame_shape)


@dataclass(frozen=True, kw_only=True)
class TwoPartCode:
    """A model, and the frames that are coded by it.

    Attributes:
        model_bytes: what the receiver must have first.
        bits_per_frame: of the frames.

    Raises:
        ConfigError: a number that cannot be.
    """

    model_bytes: int
    bits_per_frame: float

    def __post_init__(self) -> None:
        check_whole("model_bytes", self.model_bytes, least=0, most=2**63 - 1)
        check_number("bits_per_frame", self.bits_per_frame, least=0)

    def total_bits(self, frames: int) -> float:
        """Return what the model and so many frames take."""
        return 8 * self.model_bytes + frames * self.bits_per_frame

    def break_even_frames(self, other_bits_per_frame: float) -> int | None:
        """Return from how many frames on this is shorter than a code without a model; None if never."""
        saved = other_bits_per_frame - self.bits_per_frame
        return math.floor(8 * self.model_bytes / saved) + 1 if saved > 0 else None


@torch.no_grad()
def score_windows(
    model: Any,
    store: FrameStore,
    *,
    windows: int = 64,
    context: int = 8,
    steps: int = 16,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any] | None:
    """Measure how many bits recorded frames cost a world, each given all before it.

    Args:
        model: a world model.
        store: of episodes that it was not trained on.
        windows: how many are judged.
        context: steps observed before, in each.
        steps: judged in each; fewer if no episode is that long.
        seed: of the choice of windows.
        device: where the model is.

    Returns:
        JSON values: ``bits_per_frame`` {mean, low, high}, an interval over windows; ``score_of`` and ``score_is`` (see
        `SupportsScore`); ``frames``. None for a model that gives frames no probability, or for episodes that are no
        longer than the context.
    """
    longest = int(store.lengths.max())
    if not isinstance(model, SupportsScore) or longest <= context:
        return None
    steps, found = min(steps, longest - context), []
    frames = 0
    rows = windows_for_evaluation(store, context + steps, windows, seed)
    for first in range(0, len(rows), _ROWS):
        batch = read_windows(store, rows[first : first + _ROWS], context + steps, device)
        state = model.start(batch.first_frame, torch.full((len(batch.first_frame),), seed, device=device))  # type: ignore[attr-defined]
        if context:
            state = model.observe(state, batch.actions[:, :context], batch.frames[:, :context])  # type: ignore[attr-defined]
        nats = model.score(state, batch.actions[:, context:], batch.frames[:, context:])
        counts = (~batch.terminated[:, context:]).float()  # a terminal frame may be anything
        kept = counts.sum(dim=1) > 0
        found.append((nats * counts).sum(dim=1)[kept] / counts.sum(dim=1)[kept])
        frames += int(counts.sum())
    bits: npt.NDArray[np.float64] = to_bits(1.0) * torch.cat(found).double().cpu().numpy()
    if not len(bits):
        return None
    low, high = mean_intervals(bits[:, None], seed)[0]
    return {
        "bits_per_frame": {"mean": float(bits.mean()), "low": float(low), "high": float(high)},
        "score_of": model.score_of,
        "score_is": model.score_is,
        "frames": frames,
    }

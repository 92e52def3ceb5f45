"""One frame through a coder: pass by pass, channel by channel, in the same steps on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dreamenv.compression.coders import Coder
from dreamenv.compression.pixel_head import PixelHead
from dreamenv.compression.predictions import Predictor
from dreamenv.world_model import WorldModel

__all__ = ["FrameCodec", "stack_past"]


class FrameCodec:
    """Codes the frames of one clip, one after the other.

    The sender gives each frame, and gets it back; the receiver gives None, and gets the same frame. Whatever either
    computes is computed from decoded pixels only, one frame at a time.

    Args:
        head: gives pixels their probabilities.
        model: the world that dreams the next frame.
        coder: writes or reads.
        start: (h, w, c) uint8, a frame that both sides have, in place of a past and a dream before the first frame.
    """

    def __init__(self, head: PixelHead, model: WorldModel, coder: Coder, start: npt.NDArray[np.uint8]) -> None:
        self._head, self._model, self._coder = head, model, coder
        self._past: list[Tensor] = [_to_tensor(start)]
        self._predictor: Predictor | None = None

    def first(self, frame: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.uint8]:
        """Code the first frame, (h, w, c)."""
        coded = self._code(frame, self._past[0])
        self._past = [coded]
        self._predictor = Predictor(self._model, coded)
        return _to_numpy(coded)

    def next(self, actions: Tensor, frame: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.uint8]:
        """Code the frame that actions[:, 0] of (1, k, *a) led to; those after it are the next ones, if there are."""
        assert self._predictor is not None
        coded = self._code(frame, self._predictor.predict(actions))
        self._predictor.observe(actions[:, 0], coded)
        self._past = [coded, *self._past][: self._head.config.past]
        return _to_numpy(coded)

    def _code(self, frame: npt.NDArray[np.uint8] | None, dream: Tensor) -> Tensor:
        """Code a frame; (1, c, h, w) uint8."""
        head, past = self._head, stack_past(self._past, self._head.config.past)
        truth = None if frame is None else _to_tensor(frame)
        coded = torch.zeros_like(dream, dtype=torch.float32)
        stage, alignment = -1, None
        for number, one in enumerate(head.passes):
            if alignment is None or head.stage_of(one) != stage:
                stage = head.stage_of(one)
                alignment = head.align(stage, coded, past, dream)
            mixture = head.mixture(number, coded, past, dream, alignment)
            row, column = one.targets.unbind(1)
            levels = coded[:, :, row, column]
            for channel in range(levels.shape[1]):
                probabilities = mixture.probabilities(channel, levels)[0].numpy()
                given = None if truth is None else truth[0, channel, row, column].numpy().astype(np.int32)
                levels[0, channel] = torch.from_numpy(self._coder.code(probabilities, given)).float()
            coded[:, :, row, column] = levels
        return coded.to(torch.uint8)


def stack_past(frames: Sequence[Tensor], count: int) -> Tensor:
    """Stack (n, c, h, w) frames, the latest first, to (n, count, c, h, w); the oldest one is repeated."""
    return torch.stack([frames[min(i, len(frames) - 1)] for i in range(count)], dim=1)


def _to_tensor(frame: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].contiguous()


def _to_numpy(frame: Tensor) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(frame[0].permute(1, 2, 0).numpy())

"""What a world predicts of each next frame, as sender and receiver both know it: a dream of one step, again and again.

A dream is a pure function of its state and its actions. So it is no side information: whoever has the world, the frames
so far and the actions has the prediction. It is made at a temperature of 0, the world's most probable next frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamenv.frames import to_float, to_uint8
from dreamenv.world_model import State, WorldModel

__all__ = ["Predictor"]

_SEED = 0  # of the states; nothing is drawn at a temperature of 0 where a world heeds it


class Predictor:
    """Walks through b clips at once.

    Args:
        model: a world model in evaluation mode.
        first_frames: (b, c, h, w) uint8.
    """

    def __init__(self, model: WorldModel, first_frames: Tensor) -> None:
        self._model = model
        seeds = torch.full((len(first_frames),), _SEED)
        self._state: State = model.start(to_float(first_frames), seeds)
        self._state["temperature"] = torch.zeros_like(self._state["temperature"])

    def predict(self, actions: Tensor) -> Tensor:
        """Return the frames (b, c, h, w) uint8 that the next actions (b, k, *a) lead to first.

        A world that imagines several frames at once is given as many actions as there are, the last one repeated.
        """
        chunk = self._model.spec.chunk
        actions = actions[:, :chunk]
        if actions.shape[1] < chunk:
            actions = torch.cat((actions, actions[:, -1:].expand(-1, chunk - actions.shape[1], *actions.shape[2:])), 1)
        imagined, _ = self._model.imagine(self._state, actions)
        assert imagined.frames is not None
        return to_uint8(imagined.frames[:, 0].clamp(0, 1))

    def observe(self, actions: Tensor, frames: Tensor) -> None:
        """Go on with what actions (b, *a) really led to, (b, c, h, w) uint8."""
        self._state = self._model.observe(self._state, actions[:, None], to_float(frames)[:, None])

"""Following what happens where frames are missing or late: bridged by imagination, then revised in hindsight."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamenv.capabilities import SupportsRevise
from dreamenv.checks import to_array
from dreamenv.errors import ConfigError, FrameError, InputError
from dreamenv.frames import frames_to_model
from dreamenv.tensordicts import put_rows, take_rows
from dreamenv.world_model import State, WorldModel, WorldModelSpec

__all__ = ["FRAME_AGE", "FrameFollower", "read_ages", "read_revision"]

Rows = NDArray[np.int64]

FRAME_AGE = "frame_age"
"""The info that says how many steps ago a frame was taken; -1 where no new one came, absent where it is of its step."""


class FrameFollower:
    """Follows b rows of real steps, some of whose frames are missing or late.

    A step whose frame is missing is imagined. When a frame comes after such steps, or late, a model that supports it
    revises what is remembered of them; another one drops late frames.

    Args:
        model: of chunk 1 where frames may be missing.
        rows: b.
        revise: let a model that supports it revise; otherwise nothing ever looks back.
    """

    def __init__(self, model: WorldModel, rows: int, *, revise: bool) -> None:
        self._model = model
        self._reviser = model if revise and isinstance(model, SupportsRevise) else None
        reach = 1 if self._reviser is None else self._reviser.revision_steps
        self._unseen = np.zeros((rows, reach), np.bool_)  # of the last steps, the newest last
        self._steps: Rows = np.zeros(rows, np.int64)

    def restart(self, rows: Rows) -> None:
        """Forget the steps of these rows, which start on a frame that was seen."""
        self._unseen[rows] = False
        self._steps[rows] = 0

    def step(self, state: State, actions: Tensor, frames: Tensor, ages: Rows) -> State:
        """Return the state after one step.

        Args:
            state: of b rows.
            actions: (b, 1, *a).
            frames: (b, c, h, w); of any content where none came.
            ages: (b,) steps since each was taken, -1 where none came.

        Raises:
            InputError: a frame from before its episode's first step.
            ConfigError: a frame is missing, and the model imagines several at once.
        """
        early = np.flatnonzero(ages > self._steps)
        if len(early):
            raise InputError(
                f"the frame of row {early[0]} is {ages[early[0]]} steps old, and its episode began "
                f"{self._steps[early[0]] + 1} steps ago with a frame that is known; give -1 where no new frame came."
            )
        fresh = ages == 0
        state = self._filter(state, actions, frames, fresh)
        self._steps += 1
        self._unseen = np.concatenate((self._unseen[:, 1:], ~fresh[:, None]), axis=1)
        if self._reviser is None:
            return state
        useful = np.where(fresh, self._unseen.any(axis=1), (ages > 0) & (ages < self._unseen.shape[1]))
        rows = np.flatnonzero(useful)
        if not len(rows):
            return state
        length = int(ages[rows].max()) + 1
        mask = np.zeros((len(ages), length), np.bool_)
        mask[rows, length - 1 - ages[rows]] = True
        self._unseen[rows, self._unseen.shape[1] - 1 - ages[rows]] = False
        given = torch.from_numpy(mask).to(frames.device)
        return self._reviser.revise(state, frames[:, None].expand(-1, length, -1, -1, -1), given)

    def _filter(self, state: State, actions: Tensor, frames: Tensor, fresh: NDArray[np.bool_]) -> State:
        """Observe the frames of fresh rows, imagine the others."""
        if fresh.all():
            return self._model.observe(state, actions, frames[:, None])
        if self._model.spec.chunk != 1:
            raise ConfigError(
                f"a frame is missing, and this world imagines {self._model.spec.chunk} frames at once; it cannot "
                "bridge a single one. Give every frame, or take a world of chunk 1."
            )
        _, imagined = self._model.imagine(state, actions, decode=False)
        if not fresh.any():
            return imagined
        observed = self._model.observe(state, actions, frames[:, None])
        merged: State = imagined.clone()
        rows = torch.from_numpy(np.flatnonzero(fresh)).to(frames.device)
        put_rows(merged, rows, take_rows(observed, rows))
        return merged


def read_ages(ages: Any, rows: int) -> Rows:
    """Return the ages of b frames, in steps; None is of frames that all came in time.

    Raises:
        InputError: other than b integers of at least -1.
    """
    if ages is None:
        return np.zeros(rows, np.int64)
    array = to_array("ages", ages)
    if array.shape != (rows,) or array.dtype.kind not in "iu" or (len(array) and array.min() < -1):
        raise InputError(
            f"ages must be ({rows},) integers, the steps since each frame was taken, and -1 where none came, "
            f"not {ages!r}."
        )
    return array.astype(np.int64)


def read_revision(
    spec: WorldModelSpec, rows: int, frames: Any, mask: Any, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return frames and mask of a revision as a model takes them.

    Args:
        spec: the world's.
        rows: b.
        frames: (b, l, h, w, c) uint8.
        mask: (b, l) bool.
        device: the model's.

    Raises:
        FrameError, InputError: other shapes or types.
    """
    c, h, w = spec.frame_shape
    pictures, given = to_array("frames", frames, error=FrameError), to_array("mask", mask)
    fits = pictures.ndim == 5 and pictures.shape[0] == rows and pictures.shape[2:] == (h, w, c)
    if not fits or pictures.dtype != np.uint8:
        raise FrameError(f"frames must be ({rows}, l, {h}, {w}, {c}) uint8, not {pictures.shape} {pictures.dtype}.")
    if given.shape != pictures.shape[:2] or given.dtype != np.bool_:
        raise InputError(
            f"mask must be {pictures.shape[:2]} bool, which of the frames are given, not {given.shape} {given.dtype}."
        )
    tensor = torch.from_numpy(np.ascontiguousarray(pictures)).to(device)
    return frames_to_model(tensor), torch.from_numpy(given.copy()).to(device)

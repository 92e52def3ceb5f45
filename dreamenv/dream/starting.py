"""Where dreams start: the model's state after each of a world's short real segments.

Each start is filtered once, when it is first needed, and cached. Starts are filtered in fixed blocks, so that the
numbers do not depend on which starts were asked for together (a matrix product's last bits depend on its batch).

An *entry* is a start to choose: entries ``0 .. n-1`` are the world's n segments, the dream starting after the last
recorded step; the entries after them are the segments that begin with an episode, each as a dream that starts on the
episode's first frame with an empty memory, as a real episode does.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamenv.data.starts import Starts
from dreamenv.errors import ConfigError, FrameError
from dreamenv.frames import frames_to_model
from dreamenv.tensordicts import put_rows, take_rows
from dreamenv.world_model import State, WorldModel

__all__ = ["StartStates"]

_BLOCK = 16  # starts filtered together
_CACHE_BYTES = 256 * 2**20  # that cached states may take; beyond it every start is filtered when it is used

Entries = NDArray[np.int64]


class StartStates:
    """The starts of a world, ready to dream from.

    Args:
        model: the world's model, on ``device``.
        starts: the segments.
        device: where the states and frames are made.

    Attributes:
        segments: how many segments there are; the entries below this are they.
        count: how many entries there are.
        segment: (count,) int64, the segment of each entry.
        frames: (count, h, w, c) uint8 tensor on the device, the real frame each entry's dream starts with.
    """

    def __init__(self, model: WorldModel, starts: Starts, device: torch.device) -> None:
        if len(starts) == 0:
            raise ConfigError("a world needs at least one start; make some with Starts.from_dataset.")
        c, h, w = model.spec.frame_shape
        if tuple(starts.first_frames.shape[1:]) != (h, w, c):
            raise FrameError(f"the starts' frames are {tuple(starts.first_frames.shape[1:])}; the world's {(h, w, c)}.")
        self._model, self._starts, self._device = model, starts, device
        self.segments = len(starts)
        self.segment: Entries = np.concatenate((np.arange(self.segments), np.flatnonzero(starts.at_episode_start)))
        self.count = len(self.segment)
        self._lengths = np.concatenate((starts.lengths, np.zeros(self.count - self.segments))).astype(np.int64)
        self.frames = torch.from_numpy(self._last_frames()).to(device)
        self._cached = np.zeros(self.count, dtype=np.bool_)
        self._states: State | None = None
        self._caching = True
        self._action_type = model.spec.action_layout.dtype

    def __call__(self, entries: Entries) -> State:
        """Return the states of n entries, freely writable."""
        if self._caching:
            self._fill(entries)
        if self._states is None or not self._caching:
            return _joined([self._filter(entries[i : i + 1]) for i in range(len(entries))])
        return take_rows(self._states, torch.from_numpy(entries))

    def example(self) -> State:
        """Return the state of one row that starts on a first frame, for its layout."""
        return self._filter_equal(np.zeros(1, dtype=np.int64), 0)

    def _fill(self, entries: Entries) -> None:
        """Cache these entries' states."""
        missing = entries[~self._cached[entries]]
        for block in np.unique(missing // _BLOCK):
            members = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, self.count))
            state = self._filter(members)
            if self._states is None:
                if state.bytes() / len(members) * self.count > _CACHE_BYTES:
                    self._caching = False
                    return
                self._states = state[:1].expand(self.count).clone()
            put_rows(self._states, torch.from_numpy(members), state)
            self._cached[members] = True

    def _filter(self, entries: Entries) -> State:
        """Let the model observe these entries' segments; entries of one length together."""
        order = np.argsort(self._lengths[entries], kind="stable")
        lengths = self._lengths[entries][order]
        parts = [self._filter_equal(entries[order[lengths == length]], int(length)) for length in np.unique(lengths)]
        return take_rows(_joined(parts), torch.from_numpy(np.argsort(order, kind="stable")))

    def _filter_equal(self, entries: Entries, length: int) -> State:
        starts, segments = self._starts, self.segment[entries]
        first = frames_to_model(self._tensor(starts.first_frames[segments]))
        # A fixed seed per segment: what the model makes of a segment is the same in every environment.
        state = self._model.start(first, self._tensor(segments))
        if length:
            frames = frames_to_model(self._tensor(starts.frames[segments, :length]))
            actions = starts.actions[segments, :length].astype(self._action_type)
            state = self._model.observe(state, self._tensor(actions), frames)
        return state

    def _last_frames(self) -> NDArray[np.uint8]:
        frames = np.ascontiguousarray(self._starts.first_frames[self.segment])
        seen = np.flatnonzero(self._lengths)
        frames[seen] = self._starts.frames[self.segment[seen], self._lengths[seen] - 1]
        return frames

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _joined(states: list[State]) -> State:
    joined: State = torch.cat(states)
    return joined

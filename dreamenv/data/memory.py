"""Steps kept in memory while they happen, laid out as in a `FrameStore`; when it is full, the oldest are forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dreamenv.action_layout import ActionLayout
from dreamenv.data.episode import Episode
from dreamenv.data.starts import Starts
from dreamenv.errors import DatasetError

__all__ = ["StepMemory"]

_FORGOTTEN = 4  # the share of what is forgotten at once, as 1 / this: moving the rest up costs time


class StepMemory:
    """Episodes and pieces of episodes, the last of which may still be running. See `dreamenv.data.store` for the rows.

    Args:
        frame_shape: (h, w, c) of every frame.
        layout: of the actions.
        capacity: frames kept, at least 8.
    """

    def __init__(self, frame_shape: tuple[int, int, int], layout: ActionLayout, capacity: int) -> None:
        self._frames = np.empty((capacity, *frame_shape), np.uint8)
        self._actions = np.zeros((capacity, *layout.shape), layout.dtype)
        self._rewards, self._terminated = np.zeros(capacity, np.float32), np.zeros(capacity, np.bool_)
        self._rows = 0
        self._begun: list[int] = []  # row of the first frame of each episode
        self._whole: list[bool] = []  # whether that is its very first

    @property
    def frames(self) -> npt.NDArray[np.uint8]:
        """(n, h, w, c) uint8."""
        return self._frames[: self._rows]

    @property
    def actions(self) -> npt.NDArray[Any]:
        """(n, *a) int64 or float32, the action that led to the frame."""
        return self._actions[: self._rows]

    @property
    def rewards(self) -> npt.NDArray[np.float32]:
        """(n,) float32."""
        return self._rewards[: self._rows]

    @property
    def terminated(self) -> npt.NDArray[np.bool_]:
        """(n,) bool."""
        return self._terminated[: self._rows]

    @property
    def prompts(self) -> None:
        """None: nothing is asked for in them."""
        return None

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """(e,) int64, the row of the first frame of each episode that has a step."""
        return self._bounds()[0]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(e,) int64, the steps of each of these."""
        return self._bounds()[1]

    @property
    def total_steps(self) -> int:
        """The number of steps kept."""
        return self._rows - len(self._begun)

    def begin(self, frame: npt.NDArray[np.uint8], *, at_episode_start: bool = True) -> None:
        """Begin an episode, or a piece of one, with its first frame (h, w, c)."""
        row = self._free_row()
        self._begun.append(row)
        self._whole.append(at_episode_start)
        self._put(row, frame, 0, 0.0, terminated=False)

    def add(self, action: Any, frame: npt.NDArray[np.uint8], reward: float, *, terminated: bool) -> None:
        """Add a step to the episode that was begun last: the action (*a), and what it led to."""
        self._put(self._free_row(), frame, action, reward, terminated=terminated)

    def append(self, episode: Episode) -> None:
        """Add an episode or a piece of one."""
        self.begin(episode.frames[0], at_episode_start=episode.at_episode_start)
        for i in range(len(episode)):
            last = i + 1 == len(episode)
            self.add(
                episode.actions[i],
                episode.frames[i + 1],
                float(episode.rewards[i]),
                terminated=last and episode.terminated,
            )

    def segments(self, count: int, context: int, seed: int) -> Starts:
        """Sample segments for dreams to start from, which end anywhere but at a termination.

        Args:
            count: how many, at most.
            context: steps in each, at most.
            seed: at least 0.

        Returns:
            The segments.

        Raises:
            DatasetError: no step is kept.
        """
        if self.total_steps == 0:
            raise DatasetError("nothing has happened yet that dreams could start from; add steps first.")
        begun = np.asarray(self._begun, np.int64)
        ends = np.flatnonzero(~self.terminated)
        chosen = np.random.default_rng((seed, 0x57A7)).permutation(ends)[:count]
        chosen.sort()
        episode = np.searchsorted(begun, chosen, side="right") - 1
        lengths = np.minimum(chosen - begun[episode], context)
        first = chosen - lengths
        rows = first[:, None] + 1 + np.minimum(np.arange(context), np.maximum(lengths[:, None] - 1, -1))
        actions = self.actions[rows]
        actions[lengths == 0] = self.actions[self.starts[0] + 1]  # counts for nothing, but must be an action
        return Starts(
            first_frames=self.frames[first],
            actions=actions,
            frames=self.frames[rows],
            lengths=lengths,
            at_episode_start=(first == begun[episode]) & np.asarray(self._whole, np.bool_)[episode],
        )

    def _put(self, row: int, frame: Any, action: Any, reward: float, *, terminated: bool) -> None:
        self._frames[row], self._actions[row] = frame, action
        self._rewards[row], self._terminated[row] = reward, terminated

    def _free_row(self) -> int:
        if self._rows == len(self._frames):
            self._forget(max(1, len(self._frames) // _FORGOTTEN))
        self._rows += 1
        return self._rows - 1

    def _forget(self, rows: int) -> None:
        """Forget the oldest rows; an episode that loses its first ones begins later."""
        for array in (self._frames, self._actions, self._rewards, self._terminated):
            array[: self._rows - rows] = array[rows : self._rows]
        self._rows -= rows
        begun = np.asarray(self._begun) - rows
        first = int(np.flatnonzero(begun <= 0)[-1])  # what lies before this is gone as a whole
        cut = begun[first] < 0
        self._begun = [max(0, int(row)) for row in begun[first:]]
        self._whole = [*([False] if cut else self._whole[first : first + 1]), *self._whole[first + 1 :]]
        self._put(0, self._frames[0].copy(), 0, 0.0, terminated=False)  # what led to it is gone

    def _bounds(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        begun = np.asarray(self._begun, np.int64)
        lengths = np.diff(np.append(begun, self._rows)) - 1
        return begun[lengths > 0], lengths[lengths > 0]

    def __repr__(self) -> str:
        return f"StepMemory(episodes={len(self._begun)}, steps={self.total_steps}, frames={self._frames.shape})"

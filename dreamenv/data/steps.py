"""What windows are read from: recorded steps in arrays, a row per frame."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["StepStore", "rewarded_steps"]

_Rows = npt.NDArray[np.int64]


class StepStore(Protocol):
    """What windows are read from: a row per frame, laid out as in `FrameStore`."""

    @property
    def frames(self) -> npt.NDArray[np.uint8]:
        """(n, h, w, c) uint8."""
        ...

    @property
    def actions(self) -> npt.NDArray[Any]:
        """(n, *a) int64 or float32, the action that led to the frame."""
        ...

    @property
    def rewards(self) -> npt.NDArray[np.float32]:
        """(n,) float32."""
        ...

    @property
    def terminated(self) -> npt.NDArray[np.bool_]:
        """(n,) bool."""
        ...

    @property
    def prompts(self) -> npt.NDArray[np.int32] | None:
        """(n, w) int32, hashes of the words asked for when the action was taken; None where nothing ever was."""
        ...

    @property
    def starts(self) -> _Rows:
        """(e,) int64, the row of each episode's first frame."""
        ...

    @property
    def lengths(self) -> _Rows:
        """(e,) int64, the steps of each episode."""
        ...


def rewarded_steps(store: StepStore) -> _Rows:
    """Return (r, 2), the number of the episode and of the step within it, of every step with a positive reward."""
    positive = store.rewards > 0
    found = [
        np.stack(np.broadcast_arrays(index, np.flatnonzero(positive[row + 1 : row + 1 + length])), axis=1)
        for index, (row, length) in enumerate(zip(store.starts, store.lengths, strict=True))
    ]
    return np.concatenate(found)

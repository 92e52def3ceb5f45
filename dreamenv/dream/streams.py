"""The environment's own random decisions, sampled from the rows' streams on the host.

A row has a key of its own, made from its seed. Its n-th dream hashes (row key, n) into the dream's random stream, its
start and its temperature; while dreaming, the uniform number that decides whether a step terminates the dream is a
hash of the dream's stream and the steps so far. So a seeded row is reproducible for ever, whatever the other rows do.

The hash is that of :mod:`dreamenv.randomness`, value for value, on numpy arrays: for so few numbers numpy is several
times faster than torch. A call costs the same for one number or a thousand, so all that can be known is sampled ahead:
each row's next dream, and the numbers of many steps to come.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dreamenv.randomness import host_philox, seed_keys

__all__ = ["TERMINATION_STREAM", "Beginnings", "RowStreams"]

TERMINATION_STREAM = 2**31
"""The stream of the number that terminates a dream; models use streams below 2**16."""

_BEGINNING_STREAM = TERMINATION_STREAM + 1  # the stream, under a row's key, from which its dreams begin
_AHEAD = 64  # steps whose numbers are sampled at once

Numbers = NDArray[np.float32]
Rows = NDArray[np.int64]

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


class Beginnings(NamedTuple):
    """What the rows' streams decide about the dreams that start.

    Attributes:
        key: (n,) int64, the dream's random stream.
        start: (n,) uint64 in [0, 2**32), to choose a start by.
        temperature: (n,) float64 in [0, 1), to choose a temperature by.
    """

    key: Rows
    start: NDArray[np.uint64]
    temperature: NDArray[np.float64]

    def choose(self, count: Rows | int) -> Rows:
        """Choose one of ``count`` starts, of (n,) or of as many for every row."""
        return (self.start * np.asarray(count).astype(np.uint64) >> _SHIFT).astype(np.int64)


class RowStreams:
    """The streams of ``rows`` rows.

    Attributes:
        row_key: (b,) int64, each row's own key.
        dreams: (b,) int64, how many dreams each row has started.
    """

    def __init__(self, rows: int) -> None:
        self.row_key: Rows = np.zeros(rows, dtype=np.int64)
        self.dreams: Rows = np.zeros(rows, dtype=np.int64)
        self._every = np.arange(rows)
        self._key: Rows = np.zeros(rows, dtype=np.int64)  # of the present dreams
        self._base: Rows = np.zeros(rows, dtype=np.int64)  # the step of the first of each row's numbers
        self._numbers: Numbers = np.zeros((rows, _AHEAD), dtype=np.float32)
        self._used: Rows = np.zeros(rows, dtype=np.int64)
        self._left = 0  # steps until some row has used all of its numbers
        self._next = Beginnings(self._key.copy(), np.zeros(rows, dtype=np.uint64), np.zeros(rows))
        self._next_numbers = self._numbers.copy()
        self._ready = np.zeros(rows, dtype=np.bool_)  # whether the next dream has been sampled

    def seed(self, rows: Rows, seeds: Rows) -> None:
        """Restart the rows' streams."""
        self.row_key[rows] = seed_keys(torch.from_numpy(seeds)).numpy()
        self.dreams[rows] = 0
        self._ready[rows] = False

    def restore(self, row_key: Rows, dreams: Rows, key: Rows, steps: Rows) -> None:
        """Continue rows that have started ``dreams`` dreams and are ``steps`` steps into the one of stream ``key``."""
        self.row_key, self.dreams = row_key.copy(), dreams.copy()
        self._key, self._base = key.copy(), steps.copy()
        self._numbers = _sample_ahead(self._key, self._base)
        self._used[:], self._left = 0, _AHEAD
        self._ready[:] = False

    def begin(self, rows: Rows) -> Beginnings:
        """Go on to the rows' next dreams."""
        if not self._ready[rows].all():
            self._prepare(np.flatnonzero(~self._ready))
        beginnings = Beginnings(self._next.key[rows], self._next.start[rows], self._next.temperature[rows])
        self._key[rows], self._base[rows], self._used[rows] = beginnings.key, 0, 0
        self._numbers[rows] = self._next_numbers[rows]
        self._left = _AHEAD - int(self._used.max())
        self.dreams[rows] += 1
        self._ready[rows] = False
        return beginnings

    def sample(self) -> Numbers:
        """Return each row's uniform number (b,) in (0, 1) for the step being made, and go on to the next step."""
        if self._left == 0:
            self._base += self._used
            self._numbers = _sample_ahead(self._key, self._base)
            self._used[:], self._left = 0, _AHEAD
        sampled = self._numbers[self._every, self._used]
        self._used += 1
        self._left -= 1
        return sampled

    def _prepare(self, rows: Rows) -> None:
        dreams = self.dreams[rows].view(np.uint64)
        counter = np.zeros((4, len(rows)), dtype=np.uint64)
        counter[1] = _BEGINNING_STREAM
        counter[2], counter[3] = dreams & _MASK, dreams >> _SHIFT
        words = host_philox(counter, _halves(self.row_key[rows]))
        key = (words[0] << _SHIFT | words[1]).view(np.int64)
        self._next.key[rows], self._next.start[rows] = key, words[2]
        self._next.temperature[rows] = words[3] * 2.0**-32
        self._next_numbers[rows] = _sample_ahead(key, np.zeros_like(key))
        self._ready[rows] = True


def _sample_ahead(keys: Rows, steps: Rows) -> Numbers:
    """Return what `randomness.uniform` samples under keys (n,) from each of ``steps`` on: (n, ahead)."""
    counters = (steps[:, None] + np.arange(_AHEAD)).view(np.uint64)
    counter = np.zeros((4, *counters.shape), dtype=np.uint64)
    counter[1] = TERMINATION_STREAM
    counter[2], counter[3] = counters & _MASK, counters >> _SHIFT
    words = host_philox(counter, _halves(keys)[..., None])
    # As there: 23 bits and a half step.
    numbers: Numbers = ((words[0] >> np.uint64(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
    return numbers


def _halves(keys: Rows) -> NDArray[np.uint64]:
    words = keys.view(np.uint64)
    return np.stack((words & _MASK, words >> _SHIFT))

"""The environment's own random decisions, drawn from the rows' streams on the host.

A row has a key of its own, made from its seed. Its n-th dream hashes (row key, n) into the dream's random stream, its
start and its temperature; while dreaming, the uniform number that decides whether a step ends the dream is a hash of
the dream's stream and counter. So a seeded row is reproducible for ever, whatever the other rows do.

The hash is that of :mod:`dreamenv.randomness`, value for value, on numpy arrays: for so few numbers numpy is several
times faster than torch, and numbers for many steps to come are made at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dreamenv.randomness import seed_keys

__all__ = ["TERMINATION_STREAM", "Beginnings", "RowStreams", "host_philox"]

TERMINATION_STREAM = 2**31
"""The stream of the draw that ends a dream; models use streams below 2**16."""

_BEGINNING_STREAM = TERMINATION_STREAM + 1  # the stream, under a row's key, from which its dreams begin
_AHEAD = 64  # steps whose draws are made at once

Rows = NDArray[np.int64]

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)  # Salmon et al. 2011, Philox4x32
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], dtype=np.uint64)
_SCHEDULE = np.arange(10, dtype=np.uint64)[:, None, None] * _WEYL  # what each of the ten rounds adds to the key


class Beginnings(NamedTuple):
    """What a row's stream decides about its next dream.

    Attributes:
        key: (n,) int64, the dream's random stream.
        start: (n,) uint64 in [0, 2**32), to choose a start by.
        warmth: (n,) float64 in [0, 1), to choose a temperature by.
    """

    key: Rows
    start: NDArray[np.uint64]
    warmth: NDArray[np.float64]

    def choose(self, count: int) -> Rows:
        """Choose one of ``count`` starts for each row."""
        return (self.start * np.uint64(count) >> _SHIFT).astype(np.int64)


class RowStreams:
    """The streams of ``rows`` rows. `row_key` and `dreams` (how many have begun) are all that needs saving."""

    def __init__(self, rows: int) -> None:
        self.row_key: Rows = np.zeros(rows, dtype=np.int64)
        self.dreams: Rows = np.zeros(rows, dtype=np.int64)
        self._key: Rows = np.zeros(rows, dtype=np.int64)
        self._counter: Rows = np.zeros(rows, dtype=np.int64)  # of the first draw in `_draws`
        self._draws = np.zeros((rows, _AHEAD), dtype=np.float32)
        self._used = np.zeros(rows, dtype=np.int64)
        self._every = np.arange(rows)
        self._left = 0  # steps until some row has used all of its draws

    def seed(self, rows: Rows, seeds: Rows) -> None:
        """Start the rows' streams anew."""
        self.row_key[rows] = seed_keys(torch.from_numpy(seeds)).numpy()
        self.dreams[rows] = 0

    def begin(self, rows: Rows) -> Beginnings:
        """Decide about the rows' next dreams."""
        dreams = self.dreams[rows].view(np.uint64)
        counter = np.zeros((4, len(rows)), dtype=np.uint64)
        counter[1] = _BEGINNING_STREAM
        counter[2], counter[3] = dreams & _MASK, dreams >> _SHIFT
        words = host_philox(counter, _halves(self.row_key[rows]))
        self.dreams[rows] += 1
        return Beginnings((words[0] << _SHIFT | words[1]).view(np.int64), words[2], words[3] * 2.0**-32)

    def follow(self, rows: Rows, keys: Rows, counters: Rows) -> None:
        """Draw for these dreams from now on, the next draw being that of ``counters``."""
        self._key[rows] = keys
        self._counter[rows] = counters
        self._refill(rows)

    def draw(self) -> NDArray[np.float32]:
        """Return each row's uniform number (b,) in (0, 1) for the step being made, and go on to the next step."""
        if self._left == 0:
            self._counter += self._used
            self._refill(self._every)
        drawn = self._draws[self._every, self._used]
        self._used += 1
        self._left -= 1
        return drawn

    def _refill(self, rows: Rows) -> None:
        counters = (self._counter[rows, None] + np.arange(_AHEAD)).view(np.uint64)
        counter = np.zeros((4, *counters.shape), dtype=np.uint64)
        counter[1] = TERMINATION_STREAM
        counter[2], counter[3] = counters & _MASK, counters >> _SHIFT
        words = host_philox(counter, _halves(self._key[rows])[..., None])
        # As in `randomness.uniform`: 23 bits and a half step.
        self._draws[rows] = ((words[0] >> np.uint64(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
        self._used[rows] = 0
        self._left = _AHEAD - int(self._used.max())


def host_philox(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash counters (4, ...) under keys (2, ...), words in [0, 2**32), as `randomness.philox4x32` does."""
    even, odd = counter[0::2], counter[1::2]
    trailing = (2,) + (1,) * (counter.ndim - 1)
    multipliers = _MULTIPLIERS.reshape(trailing)
    keys: Any = key + _SCHEDULE.reshape(10, *trailing[: key.ndim]) & _MASK
    for round_key in keys:
        product = even * multipliers  # wraps modulo 2**64, which keeps all 64 bits of the unsigned product
        high = product >> _SHIFT
        even = high[::-1] ^ odd
        even ^= round_key
        product &= _MASK
        odd = product[::-1]
    return np.stack((even[0], odd[0], even[1], odd[1]))


def _halves(keys: Rows) -> NDArray[np.uint64]:
    words = keys.view(np.uint64)
    return np.stack((words & _MASK, words >> _SHIFT))

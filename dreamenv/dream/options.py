"""What the environment accepts: an autoreset mode, rows, and for `reset` seeds and the options."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from dreamenv.checks import check_choice, check_whole, to_array
from dreamenv.dream.starting import StartStates
from dreamenv.errors import ConfigError, InputError, SeedError, UnknownNameError

__all__ = [
    "MOST_ROWS",
    "choose_pools",
    "episode_pool",
    "read_autoreset_mode",
    "read_branches",
    "read_options",
    "read_rows",
    "read_seed",
    "read_seeds",
]

Rows = NDArray[np.int64]

_OPTIONS = ("gaze", "prompt", "reset_mask", "start")
_SEED_LIMIT = 2**63

MOST_ROWS = 2**16
"""Dreams of one environment: their observation space alone holds gigabytes in memory."""


def read_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Return the mode of that name.

    Raises:
        ConfigError: there is none.
    """
    if isinstance(mode, AutoresetMode):
        return mode
    check_choice("autoreset_mode", mode, [known.value for known in AutoresetMode])
    return AutoresetMode(mode)


def read_seed(seed: Any) -> int:
    """Return a single seed.

    Raises:
        SeedError: it is no integer in [0, 2**63).
    """
    return check_whole("seed", seed, least=0, most=_SEED_LIMIT - 1, error=SeedError)


def read_seeds(seed: Any, rows: int) -> list[int | None]:
    """Return one seed per row, None where a row goes on with its stream; an int n gives n, n + 1, ...

    Raises:
        SeedError: a wrong number of seeds, or a seed that is no integer in [0, 2**63).
    """
    if seed is None:
        return [None] * rows
    if not _is_per_row(seed):
        first = read_seed(seed)
        return [read_seed(first + row) for row in range(rows)]
    if len(seed) != rows:
        raise SeedError(f"{len(seed)} seeds were given for {rows} rows; give one per row, or a single integer.")
    return [None if value is None else read_seed(value) for value in seed]


def read_options(options: Any, rows: int) -> tuple[Rows, Any]:
    """Return which rows to reset, and the start asked for, if any.

    Raises:
        UnknownNameError: an option there is not.
        InputError: no dictionary, or a mask of the wrong shape or type, or one that chooses no row.
    """
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        raise InputError(f"options must be a dictionary of {', '.join(_OPTIONS)}, or None, not {options!r}.")
    for name in options:
        if name not in _OPTIONS:
            raise UnknownNameError("reset option", str(name), _OPTIONS)
    if options.get("reset_mask") is None:
        return np.arange(rows), options.get("start")
    mask = to_array("options['reset_mask']", options["reset_mask"])
    if mask.shape != (rows,) or mask.dtype != np.bool_:
        raise InputError(f"options['reset_mask'] must be ({rows},) bool, not {mask.shape} {mask.dtype}.")
    if not mask.any():
        raise InputError("options['reset_mask'] chooses no row; at least one must be True.")
    return np.flatnonzero(mask), options.get("start")


def read_rows(rows: int | Sequence[int] | Rows, total: int) -> Rows:
    """Return one row or several, of ``total``, as an array.

    Raises:
        InputError: no such row.
    """
    wanted = np.atleast_1d(to_array("rows", rows))
    if wanted.dtype.kind not in "iu" or wanted.ndim != 1 or wanted.size == 0:
        raise InputError(f"rows must be an integer or a sequence of integers, not {rows!r}.")
    wrong = wanted[(wanted < 0) | (wanted >= total)]
    if len(wrong):
        raise InputError(f"there is no row {wrong[0]}: rows are 0 to {total - 1}.")
    return wanted.astype(np.int64)


def read_branches(rows: int | Sequence[int] | Rows, n: int | None, total: int) -> Rows:
    """Return the rows of ``total`` to copy: one row n times, by default as often as there are rows, or several once.

    Raises:
        InputError: no such row, or a number of copies that cannot be.
    """
    wanted = read_rows(rows, total)
    if np.ndim(rows) == 0:
        return np.repeat(wanted, total if n is None else check_whole("n", n, most=MOST_ROWS, error=InputError))
    if n is not None:
        raise InputError("n goes with a single row; repeat the rows you want several copies of.")
    return wanted


def choose_pools(start: Any, rows: Rows, total: int, starts: StartStates, usual: Rows) -> Rows:
    """Return the range of entries (n, 2) from which each of these of ``total`` rows takes its start.

    Args:
        start: the number of a start, "episode", or None for the usual range; or one of these for each of the total.
        rows: (n,) which.
        total: how many rows there are.
        starts: the world's.
        usual: (2,) the range of a row of which nothing is asked.

    Raises:
        InputError: there is no such start.
    """
    asked = list(start) if _is_per_row(start) else [start] * total
    if len(asked) != total:
        raise InputError(f"options['start'] must be one start, or {total} integers, 'episode' or None, not {start!r}.")
    return np.stack([usual if asked[row] is None else _pool(asked[row], starts) for row in rows.tolist()])


def _pool(start: Any, starts: StartStates) -> Rows:
    if isinstance(start, str) and start == "episode":
        return episode_pool(starts)
    try:
        number = -1 if isinstance(start, bool) else operator.index(start)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"options['start'] must be 'episode' or the number of a start, not {start!r}.") from None
    if not 0 <= number < starts.segments:
        raise InputError(f"there is no start {start}: this world has {starts.segments}, counted from 0.")
    return np.array([number, number + 1])


def _is_per_row(value: Any) -> bool:
    """Tell whether a value is given for each row."""
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0


def episode_pool(starts: StartStates) -> Rows:
    """Return the range of entries (2,) that begin with an episode.

    Raises:
        ConfigError: the world has none.
    """
    if starts.count == starts.segments:
        raise ConfigError(
            "none of this world's starts begins with an episode; "
            "pass starts=Starts.from_dataset(..., episode_starts_only=True)."
        )
    return np.array([starts.segments, starts.count])

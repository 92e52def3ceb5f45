"""What the environment accepts: an autoreset mode, and for `reset` seeds and the options "start" and "reset_mask"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from dreamenv.dream.starting import StartStates
from dreamenv.errors import ConfigError, InputError, SeedError, UnknownNameError

__all__ = ["choose_entries", "episode_pool", "read_autoreset_mode", "read_options", "read_seeds"]

Rows = NDArray[np.int64]

_OPTIONS = ("reset_mask", "start")
_SEED_LIMIT = 2**63


def read_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Return the mode of that name.

    Raises:
        ConfigError: there is none.
    """
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        names = [known.value for known in AutoresetMode]
        raise ConfigError(f"autoreset_mode must be one of {names}, not {mode!r}.") from error


def read_seeds(seed: int | Sequence[int | None] | None, rows: int) -> list[int | None]:
    """Return one seed per row, None where a row goes on with its stream; an int n gives n, n + 1, ...

    Raises:
        SeedError: a wrong number of seeds, or a seed that is no integer in [0, 2**63).
    """
    if seed is None:
        return [None] * rows
    if isinstance(seed, Integral) and not isinstance(seed, bool):
        seeds: list[Any] = [int(seed) + row for row in range(rows)]
    elif isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str):
        seeds = list(seed)
    else:
        raise SeedError(f"seed must be an integer, one integer per row, or None, not {seed!r}.")
    if len(seeds) != rows:
        raise SeedError(f"{len(seeds)} seeds were given for {rows} rows; give one per row, or a single integer.")
    for value in seeds:
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < _SEED_LIMIT:
            raise SeedError(f"seeds must be integers in [0, 2**63), not {value!r}.")
    return [None if value is None else int(value) for value in seeds]


def read_options(options: Mapping[str, Any] | None, rows: int) -> tuple[Rows, Any]:
    """Return which rows to reset, and the start asked for, if any.

    Raises:
        UnknownNameError: an option there is not.
        InputError: a mask of the wrong shape or type, or that chooses no row.
    """
    options = options or {}
    for name in options:
        if name not in _OPTIONS:
            raise UnknownNameError("reset option", str(name), _OPTIONS)
    mask = options.get("reset_mask")
    if mask is None:
        return np.arange(rows), options.get("start")
    mask = np.asarray(mask)
    if mask.shape != (rows,) or mask.dtype != np.bool_:
        raise InputError(f"options['reset_mask'] must be ({rows},) bool, not {mask.shape} {mask.dtype}.")
    if not mask.any():
        raise InputError("options['reset_mask'] chooses no row; at least one must be True.")
    return np.flatnonzero(mask), options.get("start")


def choose_entries(start: Any, rows: Rows, total: int, starts: StartStates) -> Rows | None:
    """Return the entries that these of ``total`` rows are to begin with; None to choose at random from a pool.

    Raises:
        InputError: there is no such start.
    """
    if start is None or isinstance(start, str):
        return None
    chosen = np.asarray(start)
    if chosen.dtype.kind not in "iu" or chosen.shape not in ((), (total,)):
        raise InputError(f"options['start'] must be 'episode', an integer or {total} integers, not {start!r}.")
    entries = np.broadcast_to(chosen, total)[rows].astype(np.int64)
    wrong = entries[(entries < 0) | (entries >= starts.segments)]
    if len(wrong):
        raise InputError(f"there is no start {wrong[0]}: this world has {starts.segments}, counted from 0.")
    return entries


def episode_pool(starts: StartStates) -> tuple[int, int]:
    """Return the range of entries that begin with an episode.

    Raises:
        ConfigError: the world has none.
    """
    if starts.count == starts.segments:
        raise ConfigError(
            "none of this world's starts begins with an episode; "
            "pass starts=Starts.from_dataset(..., episode_starts_only=True)."
        )
    return starts.segments, starts.count

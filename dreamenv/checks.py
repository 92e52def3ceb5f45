"""Checks of plain arguments: whole numbers, numbers, choices and flags, of Python, numpy or torch alike.

Each returns the value as Python's own type, so that it can be written as JSON and compared.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamenv.errors import ConfigError, InputError

__all__ = ["check_choice", "check_flag", "check_number", "check_whole", "to_array"]

MOST = 2**31 - 1
"""The greatest count that is taken where nothing else limits it."""

_LARGEST = float(np.finfo(np.float32).max)  # models compute in float32


def check_whole(
    name: str, value: Any, *, least: int = 1, most: int = MOST, error: type[Exception] = ConfigError, also: str = ""
) -> int:
    """Return a whole number from ``least`` to ``most``.

    Args:
        name: of the argument, for the message.
        value: a Python or numpy integer, or an array or tensor that holds a single one.
        least, most: the range, both included.
        error: what to raise.
        also: what else may be given, for the message: ", or None".

    Raises:
        error: anything else; a flag is no number.
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        number = None
    if number is None or number < least:
        raise error(f"{name} must be a whole number, at least {least}{also}, not {value!r}.")
    if number > most:
        raise error(f"{name} must be at most {most}, not {value!r}.")
    return number


def check_number(
    name: str,
    value: Any,
    *,
    least: float = -_LARGEST,
    most: float = _LARGEST,
    error: type[Exception] = ConfigError,
    also: str = "",
) -> float:
    """Return a finite number from ``least`` to ``most``, see `check_whole`."""
    number = _to_float(value)
    if not least <= number <= most:
        bounds = "".join(
            f", at {word} {bound:g}" for word, bound in (("least", least), ("most", most)) if abs(bound) < _LARGEST
        )
        raise error(f"{name} must be a finite number{bounds}{also}, not {value!r}.")
    return number


def check_choice(name: str, value: Any, choices: Sequence[str], *, error: type[Exception] = ConfigError) -> None:
    """Raise unless the value is one of these names."""
    if not isinstance(value, str) or value not in choices:
        raise error(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}.")


def check_flag(name: str, value: Any, *, error: type[Exception] = ConfigError) -> bool:
    """Return a flag as Python's own; a number is no flag."""
    if not isinstance(value, bool | np.bool_):
        raise error(f"{name} must be True or False, not {value!r}.")
    return bool(value)


def to_array(name: str, value: Any, *, error: type[Exception] = InputError) -> NDArray[Any]:
    """Return an array of an array, a tensor (of any device and type, with or without gradient) or nested sequences.

    Raises:
        error: what is of no form that an array has.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value  # numpy has no bfloat16
    try:
        array: NDArray[Any] = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as reason:
        raise error(f"{name} must be an array, a tensor or nested sequences of one shape: {reason}") from reason
    return array


def _to_float(value: Any) -> float:
    """Return a number as a float, NaN where it is none."""
    if isinstance(value, str | bytes | bool | np.bool_) or getattr(value, "ndim", 0) != 0:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan

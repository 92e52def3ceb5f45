"""Checks of plain arguments: whole numbers, numbers, choices and flags, of Python, numpy or torch alike.

Each returns the value as Python's own type, so that it can be written as JSON and compared. `check_typed` checks a
value against the type that a setting is declared as.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
import os
import reprlib
import typing
from collections.abc import Collection, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dreamenv.errors import ConfigError, InputError

__all__ = [
    "check_choice",
    "check_flag",
    "check_instance",
    "check_number",
    "check_path",
    "check_typed",
    "check_whole",
    "declared_types",
    "settle_types",
    "show",
    "to_array",
]

MOST = 2**31 - 1
"""The greatest count that is taken where nothing else limits it."""

_LONGEST = 255  # bytes in the name of a file or a folder
_LARGEST = float(np.finfo(np.float32).max)  # models compute in float32
_TYPES: dict[type, dict[str, Any]] = {}  # of the fields of each dataclass that was checked
_WORDS = {int: "a whole number", float: "a finite number", bool: "True or False", NoneType: "None", str: "a string"}


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
        raise error(f"{name} must be a whole number, at least {least}{also}, not {show(value)}.")
    if number > most:
        raise error(f"{name} must be at most {most}, not {show(value)}.")
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
        raise error(f"{name} must be a finite number{bounds}{also}, not {show(value)}.")
    return number


def check_choice(name: str, value: Any, choices: Sequence[str], *, error: type[Exception] = ConfigError) -> None:
    """Raise unless the value is one of these names."""
    if not isinstance(value, str) or value not in choices:
        raise error(f"{name} must be {' or '.join(map(repr, choices))}, not {show(value)}.")


def check_flag(name: str, value: Any, *, error: type[Exception] = ConfigError) -> bool:
    """Return a flag as Python's own; a number is no flag."""
    if not isinstance(value, bool | np.bool_):
        raise error(f"{name} must be True or False, not {show(value)}.")
    return bool(value)


def check_path(name: str, value: Any, *, error: type[Exception] = ConfigError) -> Path:
    """Return the path that a string or a path-like object is; raise on anything else, or what no file can be called."""
    try:
        text = os.fsdecode(value)
    except (TypeError, ValueError):
        raise error(f"{name} must be a path, not {show(value)}.") from None
    if not text or "\0" in text or any(len(part.encode(errors="replace")) > _LONGEST for part in text.split("/")):
        raise error(f"{name} must be a path that a file can have, not {show(text)}.")
    return Path(text)


def check_instance(name: str, value: Any, kind: type, *, error: type[Exception] = ConfigError) -> None:
    """Raise unless the value is of this class."""
    if not isinstance(value, kind):
        raise error(f"{name} must be {_article(kind.__name__)}, not {show(value)}.")


def check_typed(name: str, value: Any, hint: Any, *, where: str = "") -> Any:
    """Return a value of the type that a setting is declared as, numbers as Python's own.

    Args:
        name: of the setting, for the message.
        value: what was given.
        hint: a class, a Literal, a union, or a tuple of these. Of a Literal only the type is checked, not the word.
        where: it was given, for the message: " (in 'ddim')".

    Raises:
        ConfigError: a value of another type, a whole number beyond 32 bits, or another one beyond float32.
    """
    try:
        return _typed(value, hint)
    except ConfigError:
        most = f" of at most {MOST if hint is int else _LARGEST}" if _is_large(value) else ""
        raise ConfigError(f"{name} must be {_describe(hint)}{most}, not {show(value)}{where}.") from None


def settle_types(settings: Any, where: str = "", *, but: Collection[str] = ()) -> None:
    """Check every field of a frozen dataclass, but those, as `check_typed` does; make its numbers Python's own."""
    for name, hint in declared_types(type(settings)).items():
        if name not in but:
            object.__setattr__(settings, name, check_typed(name, getattr(settings, name), hint, where=where))


def declared_types(kind: type) -> dict[str, Any]:
    """Return the types that the fields of a dataclass are declared as."""
    if kind not in _TYPES:
        hints = typing.get_type_hints(kind)
        _TYPES[kind] = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return _TYPES[kind]


def show(value: Any) -> str:
    """Return a value as Python writes it, shortened where it is long or deep."""
    writer = reprlib.Repr()
    writer.maxlevel, writer.maxstring, writer.maxother, writer.maxlong = 4, 100, 200, 40
    writer.maxtuple = writer.maxlist = writer.maxdict = 12
    try:
        return writer.repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"such a {type(value).__name__}"


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


def _typed(value: Any, hint: Any) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        for one in inner:
            with contextlib.suppress(ConfigError):
                return _typed(value, one)
        raise ConfigError
    if origin is tuple and isinstance(value, tuple):
        each = [inner[0]] * len(value) if inner[1:] == (...,) else inner
        if len(value) == len(each):
            return tuple(map(_typed, value, each))
    if hint is int:
        return check_whole("", value, least=-MOST)
    if hint is float:
        number = check_number("", value)
        return value if isinstance(value, int) and abs(value) <= MOST else number  # 1 is written as 1
    if hint is bool:
        return check_flag("", value)
    kinds = tuple({type(one) for one in inner}) if origin is Literal else origin or hint
    if origin is tuple or (isinstance(kinds, type | tuple) and not isinstance(value, kinds)):
        raise ConfigError
    return value


def _describe(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return " or ".join(_describe(one) for one in inner)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        return f"a tuple, each {_describe(inner[0])}" if inner[1:] == (...,) else f"a tuple of {len(inner)}"
    return _WORDS.get(hint) or _article(str(getattr(hint, "__name__", hint)))


def _article(name: str) -> str:
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


def _is_large(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_is_large, value))
    return isinstance(value, int | float) and MOST < abs(value) < math.inf


def _to_float(value: Any) -> float:
    """Return a number as a float, NaN where it is none."""
    if isinstance(value, str | bytes | bool | np.bool_) or getattr(value, "ndim", 0) != 0:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan

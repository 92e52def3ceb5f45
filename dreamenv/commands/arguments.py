"""Parse command-line arguments into a command's dataclass, word errors in its flags, and report what was written."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import tyro

from dreamenv.errors import DreamenvError

__all__ = ["in_flags", "parse", "report_written"]

Command = TypeVar("Command")

_PARSED: ContextVar[tuple[Any, str]] = ContextVar("parsed", default=(None, ""))
"""The command's type (a process runs one), and the part of it that was refused, such as "config.ppo"."""

_PHRASES = {"resume=False": "--fresh", "world=World.load(...)": "--world FOLDER", "num_workers": "--workers"}
"""What a Python user is told to pass -> the flag that stands for it."""


def parse(command: type[Command], arguments: Sequence[str], *, name: str, description: str | None = None) -> Command:
    """Parse a command's dataclass from its arguments; ``--help`` and mistakes end the process as tyro does.

    Args:
        command: a dataclass, or a union of them; its docstring is the command's description, its attributes' are the
            options' help.
        arguments: what follows the command's name.
        name: the command's name.
        description: in place of the docstring.

    Raises:
        DreamenvError: what the dataclass raised on values that cannot work.
    """
    _PARSED.set((command, ""))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(command, args=list(arguments), prog=f"dreamenv {name}", description=description)
    except SystemExit as stop:
        cause = stop.__context__
        while cause is not None:
            if isinstance(cause, DreamenvError):  # which tyro shows in a box, under its Python name
                place = re.search(r"Error parsing ([\w.]+):", said.getvalue())
                _PARSED.set((command, place[1] if place else ""))
                raise cause from None
            cause = cause.__context__
        sys.stderr.write(said.getvalue())
        raise


def in_flags(message: str) -> str:
    """Return a message with the flags of the command that was parsed, where it names arguments of Python."""
    for phrase, flag in _PHRASES.items():
        message = message.replace(phrase, flag)
    command, place = _PARSED.get()
    every = list(_flags(command))
    within = [one for one in every if one[0].startswith(f"{place}.")]
    for name, flag in {path.rpartition(".")[2]: flag for path, flag in [*every, *within]}.items():
        message = re.sub(rf"(?<![\w./-]){name}=(?:'([^']*)'|([\w./-]*\w))", rf"{flag} \1\2", message)
        if "_" in name:
            message = re.sub(rf"(?<![\w./-]){name}(?![\w=./(])", flag, message)
        else:  # a word like "steps" is a flag only where something is demanded of it
            message = re.sub(rf"(?:(?<=^)|(?<=[.:;] )){name}(?= must )", flag, message)
    return message


def report_written(*paths: Path) -> None:
    """Print the paths that a command wrote, one line each."""
    for path in paths:
        print(f"Wrote {path}")


def _flags(command: Any, path: str = "", prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path of a field, flag) of a dataclass and of those within it, the outermost last: its names count."""
    if typing.get_origin(command) is typing.Annotated:
        command = typing.get_args(command)[0]
    if not dataclasses.is_dataclass(command):
        for option in typing.get_args(command):
            yield from _flags(option, path, prefix)
        return
    hints, own = typing.get_type_hints(command, include_extras=True), []
    for field in dataclasses.fields(command):
        hint, name = hints[field.name], field.name.replace("_", "-")
        extras: tuple[Any, ...] = ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *found = typing.get_args(hint)
            extras = tuple(found)
        if dataclasses.is_dataclass(hint):
            given = [extra.name for extra in extras if getattr(extra, "name", None) is not None]
            inner = given[0] if given else name
            yield from _flags(hint, f"{path}{field.name}.", f"{prefix}{inner}." if inner else prefix)
        elif tyro.conf.Positional not in extras:
            own.append((f"{path}{field.name}", f"--{prefix}{name}"))
    yield from own

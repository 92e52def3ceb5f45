"""Parse command-line arguments into a command's dataclass, and report what was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import tyro

__all__ = ["parse", "report_written"]

Command = TypeVar("Command")


def parse(command: type[Command], arguments: Sequence[str], *, name: str) -> Command:
    """Parse a command's dataclass from its arguments; ``--help`` and mistakes end the process as tyro does.

    Args:
        command: a dataclass; its docstring is the command's description, its attributes' are the options' help.
        arguments: what follows the command's name.
        name: the command's name.
    """
    return tyro.cli(command, args=list(arguments), prog=f"dreamenv {name}")


def report_written(*paths: Path) -> None:
    """Print the paths that a command wrote, one line each."""
    for path in paths:
        print(f"Wrote {path}")

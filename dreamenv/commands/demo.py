"""``dreamenv demo``: record, train, dream, train PPO in the dream, and test it in the real environment."""

from __future__ import annotations

from collections.abc import Sequence

from dreamenv.benchmarks.demo import DemoConfig, show
from dreamenv.commands.arguments import parse

__all__ = ["main"]

_DESCRIPTION = """The whole loop in a quarter of an hour on two cores, with a report to look at.

Records a real environment, trains a world, trains PPO in the dream alone, evaluates it in the real environment, and
compares with PPO trained in the real environment on as many frames. Safe to interrupt: rerun the same command to
resume.
"""


def main(arguments: Sequence[str]) -> None:
    """Run the demo."""
    show(parse(DemoConfig, arguments, name="demo", description=_DESCRIPTION))

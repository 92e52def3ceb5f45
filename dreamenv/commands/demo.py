"""``dreamenv demo``: record, train, dream, train PPO in the dream, and test it in the real environment."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Run the demo."""
    from dreamenv.benchmarks import demo

    demo.main(arguments, prog="dreamenv demo")

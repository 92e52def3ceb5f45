"""Signals that ask a program to end, handled as Ctrl-C is: what is open gets closed."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "interrupted_by_signals", "leave_signals_to_parent", "signals_held"]

# Ctrl-C, a polite kill, and the end of the terminal (not on Windows).
_HANDLED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_GRACE_SECONDS = 10.0


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Raise `Interrupted` when this process gets SIGINT, SIGTERM or SIGHUP.

    SIGTERM and SIGHUP are ignored for ten seconds after the first signal, so that what is being closed gets closed. A
    signal that was ignored before stays so (``nohup``). Does nothing in a thread other than the main one.
    """
    last = -math.inf

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        del frame
        if number == signal.SIGINT or time.monotonic() - last > _GRACE_SECONDS:
            last = time.monotonic()
            raise Interrupted(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _HANDLED}
        before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back Ctrl-C, SIGTERM and SIGHUP from this thread; processes that it starts go on holding them back."""
    if hasattr(signal, "pthread_sigmask"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        yield


def leave_signals_to_parent() -> None:
    """Have this process go on when its whole group is interrupted: its parent closes it."""
    for number in _HANDLED:  # SIGTERM and SIGHUP are not ignored: programs that this process starts must obey them
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else _do_nothing)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    del number, frame

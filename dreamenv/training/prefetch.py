"""Prepare batches in a background thread while the model trains on the previous one.

A batch is a pure function of its step, so reading ahead changes nothing about the run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

from dreamenv.world_model import Batch

__all__ = ["batches"]


def batches(make: Callable[[int], Batch], first: int, last: int, *, ahead: int = 2) -> Generator[Batch, None, None]:
    """Yield make(first) ... make(last - 1), with up to ``ahead`` of them prepared in advance.

    Close the iterator (or exhaust it) to end its thread. Exceptions of `make` are raised here.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="dreamenv-batches") as pool:
        pending: deque[Future[Batch]] = deque()
        following = first
        try:
            while following < last or pending:
                while following < last and len(pending) < ahead:
                    pending.append(pool.submit(make, following))
                    following += 1
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

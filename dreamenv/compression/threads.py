"""One thread: sums of floats depend on how many threads share them, and sender and receiver must get the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["arithmetic", "one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, without gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)


def arithmetic() -> str:
    """Return what the last bit of a float may depend on beside the program: torch's version, and the processor."""
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"

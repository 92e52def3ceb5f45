"""Keep freed memory for the next step, in place of returning it to the system, on Linux with glibc.

A step of training frees and allocates the same large buffers again and again. By default glibc maps each of them anew
from the system, which fills it with zeros page by page: thousands of page faults a step. See ``mallopt(3)``.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_KEPT = 1 << 30, 32 << 20  # bytes, the first that glibc takes; larger buffers are mapped, and returned if freed
_MOST_KEPT = (1 << 31) - 1  # bytes of free memory at the top of the heap; mallopt takes 32 bits
_USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process reuse buffers of up to 1 GiB; a call after the first does nothing.

    What the process holds stays near the most it ever needed at once. Nothing is changed where the C library is not
    glibc, or where the user has set thresholds in the environment. Values that are computed do not change.

    Returns:
        Whether the thresholds are set.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _USERS_OWN):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    mapped = any(mallopt(_M_MMAP_THRESHOLD, largest) for largest in _LARGEST_KEPT)
    return mapped and bool(mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT))

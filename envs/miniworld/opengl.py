"""One thread that owns all of MiniWorld's OpenGL, whatever thread an environment is used from.

An OpenGL context is current in one thread at a time, and pyglet never lets go of one: used from two threads, MiniWorld
fails or draws nothing. So everything that touches it, its import included, runs in one thread of its own, one call
after another. Environments that shall draw at the same time belong in processes of their own, as ``dreamenv collect``
has them.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from dreamenv.envs.missing import Missing, combine, missing_libraries, missing_package
from dreamenv.errors import WorkerError

__all__ = ["INSTALL_LIBRARIES", "find_missing", "in_drawing_thread", "send_to_drawing_thread"]

INSTALL_LIBRARIES = (
    "apt-get install -y libgl1 libegl1 libegl-mesa0 libglu1-mesa libgl1-mesa-dri libfreetype6 libfontconfig1"
)
"""The command for Debian and Ubuntu; ``make miniworld`` runs it."""

# pyglet loads the last two for a label that MiniWorld makes, and that nobody sees here.
_LIBRARIES = ("libGL.so.1", "libEGL.so.1", "libGLU.so.1", "libfreetype.so.6", "libfontconfig.so.1")

# Where distributions put them; anywhere else they are not looked for, and not missed.
_VENDOR_FOLDERS = ("/etc/glvnd/egl_vendor.d", "/usr/share/glvnd/egl_vendor.d")
_MESA_DRIVERS = (
    "/usr/lib/*/dri/*_dri.so", "/usr/lib*/dri/*_dri.so", "/usr/lib/*/libgallium*.so*", "/usr/lib*/libgallium*.so*",
)  # fmt: skip

Result = TypeVar("Result")


class _DrawingThread:
    """The thread, made when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0

    def send(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        with self._lock:
            if self._executor is None:
                self._executor, self._process = ThreadPoolExecutor(1, "dreamenv-miniworld"), os.getpid()
            if self._process != os.getpid():
                raise WorkerError(
                    f"MiniWorld cannot draw in process {os.getpid()}: it is a fork of process {self._process}, where "
                    "MiniWorld had drawn, and OpenGL does not survive that. Start processes with the method 'spawn'."
                )
            return self._executor.submit(function, *arguments)


_THREAD = _DrawingThread()


def in_drawing_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in the thread that owns OpenGL, and wait for what it returns or raises.

    Raises:
        WorkerError: this process was forked from one that had used OpenGL.
    """
    return _THREAD.send(function, *arguments).result()


def send_to_drawing_thread(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function in the thread that owns OpenGL, some time soon; in a forked process, which has none, never."""
    with contextlib.suppress(WorkerError):
        _THREAD.send(function, *arguments)


def find_missing() -> Missing | None:
    """Say what MiniWorld lacks: the package; on Linux also OpenGL's libraries, or a driver for them."""
    parts = [missing_package("miniworld", "pip install 'dreamenv[miniworld]'")]
    if sys.platform == "linux":  # elsewhere the system brings them
        parts.append(missing_libraries(_LIBRARIES, INSTALL_LIBRARIES) or _missing_driver())
    return combine(*parts)


def _missing_driver() -> Missing | None:
    """Say whether libEGL finds no device, or finds Mesa, and Mesa no driver.

    This only looks: an EGL that was initialised here would be the same that is in use in the drawing thread. What else
    can be wrong with a driver shows when the simulator starts, as the same error.
    """
    egl = ctypes.CDLL("libEGL.so.1")
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    count = ctypes.c_int32(0)
    if address:
        kind = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int32))
        kind(address)(0, None, ctypes.byref(count))
    if count.value == 0:
        return Missing(what="libEGL finds no device to draw on", remedy=INSTALL_LIBRARIES)
    vendors = [file.name for folder in _VENDOR_FOLDERS for file in Path(folder).glob("*.json")]
    if vendors == ["50_mesa.json"] and not any(glob.glob(pattern) for pattern in _MESA_DRIVERS):
        return Missing(what="Mesa has no driver to draw with", remedy=INSTALL_LIBRARIES)
    return None

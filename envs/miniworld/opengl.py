"""Run all of MiniWorld's OpenGL calls in one thread, and check for the libraries they need.

An OpenGL context is current in one thread at a time, and pyglet never releases one: used from two threads, MiniWorld
fails or renders nothing. So all that uses OpenGL, even its import, runs in one thread, one call after another.
Environments that render in parallel need processes of their own, as in ``dreamenv collect``.
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

__all__ = ["INSTALL_LIBRARIES", "call_in_render_thread", "find_missing", "submit_to_render_thread"]

INSTALL_LIBRARIES = (
    "apt-get install -y libgl1 libegl1 libegl-mesa0 libglu1-mesa libgl1-mesa-dri libfreetype6 libfontconfig1"
)
"""The command for Debian and Ubuntu; ``make miniworld`` runs it."""

# pyglet loads the last two for a text label that MiniWorld creates.
_LIBRARIES = ("libGL.so.1", "libEGL.so.1", "libGLU.so.1", "libfreetype.so.6", "libfontconfig.so.1")

# Where distributions install them; in other places they are neither found nor reported missing.
_VENDOR_FOLDERS = ("/etc/glvnd/egl_vendor.d", "/usr/share/glvnd/egl_vendor.d")
_MESA_DRIVERS = (
    "/usr/lib/*/dri/*_dri.so", "/usr/lib*/dri/*_dri.so", "/usr/lib/*/libgallium*.so*", "/usr/lib*/libgallium*.so*",
)  # fmt: skip

Result = TypeVar("Result")


class _RenderThread:
    """A thread that is started by the first call."""

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
                    f"MiniWorld cannot render in process {os.getpid()}: it was forked from process {self._process} "
                    "after MiniWorld had used OpenGL there. Start processes with the method 'spawn'."
                )
            return self._executor.submit(function, *arguments)


_RENDER_THREAD = _RenderThread()


def call_in_render_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in the render thread, and return or raise what it does.

    Raises:
        WorkerError: this process was forked from one that had used OpenGL.
    """
    return _RENDER_THREAD.send(function, *arguments).result()


def submit_to_render_thread(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function in the render thread without waiting for it; do nothing in a forked process, which has none."""
    with contextlib.suppress(WorkerError):
        _RENDER_THREAD.send(function, *arguments)


def find_missing() -> Missing | None:
    """Check for the package and, on Linux, for OpenGL's libraries and a driver."""
    parts = [missing_package("miniworld", "pip install 'dreamenv[miniworld]'")]
    if sys.platform == "linux":  # other systems include them
        parts.append(missing_libraries(_LIBRARIES, INSTALL_LIBRARIES) or _missing_driver())
    return combine(*parts)


def _missing_driver() -> Missing | None:
    """Check that libEGL finds a device and, where it is Mesa's, that Mesa has a driver.

    EGL is not initialised: this process may use it in the render thread. Other faults of a driver show when the
    simulator starts, as the same kind of error.
    """
    egl = ctypes.CDLL("libEGL.so.1")
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    count = ctypes.c_int32(0)
    if address:
        kind = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int32))
        kind(address)(0, None, ctypes.byref(count))
    if count.value == 0:
        return Missing(what="libEGL finds no device to render on", remedy=INSTALL_LIBRARIES)
    vendors = [file.name for folder in _VENDOR_FOLDERS for file in Path(folder).glob("*.json")]
    if vendors == ["50_mesa.json"] and not any(glob.glob(pattern) for pattern in _MESA_DRIVERS):
        return Missing(what="Mesa has no driver to render with", remedy=INSTALL_LIBRARIES)
    return None

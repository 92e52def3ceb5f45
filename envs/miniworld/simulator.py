"""Make MiniWorld simulators that can share a process, and free them; to be called in the render thread.

MiniWorld compiles every scene into OpenGL's display list number 1, and all contexts of a process share their lists: all
simulators would render the one that was reset last. Here each has a list of its own. MiniWorld also allocates a frame
buffer of 800 x 600 pixels for a window, some 30 MB, which is made smaller here, and never frees anything.
"""

from __future__ import annotations

import os
import sys
from types import FunctionType, MethodType
from typing import Any

from dreamenv.envs.miniworld.opengl import INSTALL_LIBRARIES
from dreamenv.errors import UnavailableError

__all__ = ["close_simulator", "make_simulator"]


def make_simulator(task: str, world: str, width: int, height: int) -> Any:
    """Make a simulator.

    Args:
        task: for error messages.
        world: class in ``miniworld.envs``.
        width: of its frames, in pixels.
        height: of its frames, in pixels.

    Raises:
        UnavailableError: OpenGL cannot be initialised.
    """
    import pyglet

    if sys.platform == "linux":
        pyglet.options["headless"] = True  # before the imports below, which need a display otherwise
        # Mesa's software renderer is fastest without threads of its own, since the frames are small.
        os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        import miniworld.envs  # opens a hidden window; the exceptions of that cannot be named before the import
        import miniworld.opengl
    except Exception as error:
        raise _unavailable(task, error) from error
    miniworld.opengl.print = _print_nothing  # it prints the samples per pixel of each frame buffer
    try:
        simulator = getattr(miniworld.envs, world)(obs_width=width, obs_height=height, window_width=8, window_height=8)
    except (
        ImportError,  # of a system library that is loaded late
        pyglet.gl.ConfigException,
        pyglet.gl.ContextException,
        pyglet.gl.lib.GLException,
        pyglet.window.WindowException,
    ) as error:
        raise _unavailable(task, error) from error
    _use_own_display_list(simulator)
    return simulator


def close_simulator(simulator: Any) -> None:
    """Free the OpenGL objects of a simulator."""
    from pyglet import gl

    simulator.shadow_window.switch_to()
    gl.glDeleteLists(simulator.dreamenv_list, 1)
    for frame_buffer in (simulator.obs_fb, simulator.vis_fb):
        for name in (frame_buffer.multi_fbo, frame_buffer.final_fbo):
            _free_frame_buffer(gl, name)
    simulator.shadow_window.close()


def _use_own_display_list(simulator: Any) -> None:
    """Give MiniWorld's two methods that use display list 1 OpenGL functions that use another list."""
    from miniworld.miniworld import MiniWorldEnv
    from pyglet import gl

    number = simulator.dreamenv_list = gl.glGenLists(1)
    renamed = {
        "glNewList": lambda _, mode: gl.glNewList(number, mode),
        "glDeleteLists": lambda _, count: gl.glDeleteLists(number, count),
        "glCallList": lambda _: gl.glCallList(number),
    }
    for method in (MiniWorldEnv._render_static, MiniWorldEnv._render_world):
        names = {**method.__globals__, **renamed}
        own = FunctionType(method.__code__, names, method.__name__, method.__defaults__, method.__closure__)
        setattr(simulator, method.__name__, MethodType(own, simulator))


def _free_frame_buffer(gl: Any, name: Any) -> None:
    """Delete a frame buffer and its attachments, which contexts share, so that they outlive their own context."""
    gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, name)
    for attachment in (gl.GL_COLOR_ATTACHMENT0, gl.GL_DEPTH_ATTACHMENT):
        kind, held = gl.GLint(), gl.GLint()
        ask = gl.glGetFramebufferAttachmentParameteriv
        ask(gl.GL_FRAMEBUFFER, attachment, gl.GL_FRAMEBUFFER_ATTACHMENT_OBJECT_TYPE, kind)
        ask(gl.GL_FRAMEBUFFER, attachment, gl.GL_FRAMEBUFFER_ATTACHMENT_OBJECT_NAME, held)
        delete = gl.glDeleteTextures if kind.value == gl.GL_TEXTURE else gl.glDeleteRenderbuffers
        delete(1, gl.GLuint(held.value))
    gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, 0)
    gl.glDeleteFramebuffers(1, name)


def _unavailable(task: str, error: Exception) -> UnavailableError:
    return UnavailableError(task, f"OpenGL cannot be initialised ({type(error).__name__}: {error})", INSTALL_LIBRARIES)


def _print_nothing(*_: Any) -> None:
    pass

"""MiniWorld's own classes, mended so that several simulators can live in one process; only for the drawing thread.

MiniWorld compiles every scene into OpenGL's display list number 1, and all contexts of a process share their lists: the
last simulator to be reset would be drawn by all. Here each has a list of its own. It also makes a canvas of 800 x 600
pixels for a window, some 30 MB, which nobody sees here, and never frees anything.
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
        task: for messages.
        world: class in ``miniworld.envs``.
        width: of its pictures, in pixels.
        height: of its pictures, in pixels.

    Raises:
        UnavailableError: OpenGL does not start here.
    """
    import pyglet

    if sys.platform == "linux":
        pyglet.options["headless"] = True  # before what follows is imported; else that needs a display
        # Mesa's software renderer is quickest without threads of its own: pictures are small, cores have work to do.
        os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        import miniworld.envs  # opens a first, hidden window; what that raises has no name before it is imported
        import miniworld.opengl
    except Exception as error:
        raise _unavailable(task, error) from error
    miniworld.opengl.print = _say_nothing  # it tells on stdout how many samples per pixel each canvas has
    try:
        simulator = getattr(miniworld.envs, world)(obs_width=width, obs_height=height, window_width=8, window_height=8)
    except (
        ImportError,  # of a library of the system that is loaded late
        pyglet.gl.ConfigException,
        pyglet.gl.ContextException,
        pyglet.gl.lib.GLException,
        pyglet.window.WindowException,
    ) as error:
        raise _unavailable(task, error) from error
    _give_own_list(simulator)
    return simulator


def close_simulator(simulator: Any) -> None:
    """Free what a simulator holds of OpenGL."""
    from pyglet import gl

    simulator.shadow_window.switch_to()
    gl.glDeleteLists(simulator.dreamenv_list, 1)
    for canvas in (simulator.obs_fb, simulator.vis_fb):
        for name in (canvas.multi_fbo, canvas.final_fbo):
            _free_frame_buffer(gl, name)
    simulator.shadow_window.close()


def _give_own_list(simulator: Any) -> None:
    """Let MiniWorld's two methods that name the display list run, as they are, with functions that name another."""
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
    """Delete a frame buffer and what is attached to it: contexts share that, so it would outlive its own context."""
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
    return UnavailableError(task, f"OpenGL does not start ({type(error).__name__}: {error})", INSTALL_LIBRARIES)


def _say_nothing(*_: Any) -> None:
    pass

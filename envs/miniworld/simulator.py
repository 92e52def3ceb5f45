"""MiniWorld's own classes, mended so that several simulators can live in one process. Call all of it in the drawing thread.

MiniWorld compiles every scene into OpenGL's display list number 1, and all its contexts share their lists: the last
simulator to be reset would be drawn by all. Here each has a list of its own. It also makes a second canvas of 800 x 600
pixels for a window, some 30 MB, which nobody sees here.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

from dreamenv.envs.miniworld.opengl import INSTALL_LIBRARIES
from dreamenv.errors import UnavailableError

__all__ = ["close_simulator", "make_simulator"]


def make_simulator(task: str, name: str, width: int, height: int) -> Any:
    """Make a simulator that draws pictures of (height, width) pixels.

    Args:
        task: for messages.
        name: MiniWorld's class.
        width: of the picture.
        height: of the picture.

    Raises:
        UnavailableError: OpenGL does not start here.
    """
    pyglet = _import_pyglet(task)
    try:
        return _own_scene(name)(obs_width=width, obs_height=height, window_width=8, window_height=8)
    except (ImportError, pyglet.window.WindowException, pyglet.gl.GLException, pyglet.gl.ContextException) as error:
        raise _unavailable(task, error) from error


def close_simulator(simulator: Any) -> None:
    """Free what a simulator holds of OpenGL."""
    simulator.free()


def _import_pyglet(task: str) -> Any:
    """Import pyglet so that it draws without a display."""
    import pyglet

    if sys.platform == "linux":
        pyglet.options["headless"] = True  # must be set before what follows
        # Mesa's software renderer is quickest without threads of its own: pictures are small, and cores have work to do.
        os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        import pyglet.gl
        import pyglet.window
    except ImportError as error:  # a library that pyglet loads by itself
        raise _unavailable(task, error) from error
    return pyglet


def _unavailable(task: str, error: Exception) -> UnavailableError:
    return UnavailableError(task, f"OpenGL does not start ({type(error).__name__}: {error})", INSTALL_LIBRARIES)


@cache
def _own_scene(name: str) -> Any:
    """Return MiniWorld's class of this name, with a scene of its own."""
    import miniworld.envs
    import miniworld.opengl
    from pyglet import gl

    miniworld.opengl.print = lambda *_: None  # it says on stdout that it takes 4 samples per pixel, not 8: for every one

    class OwnScene(getattr(miniworld.envs, name)):  # type: ignore[misc]  # chosen by name, and without annotations
        """A MiniWorld task whose rooms are in a display list of its own."""

        _scene = 0

        def _render_static(self) -> None:
            if not self._scene:
                self._scene = gl.glGenLists(1)
            gl.glNewList(self._scene, gl.GL_COMPILE)
            self._set_lights()
            for thing in (*self.rooms, *(entity for entity in self.entities if entity.is_static)):
                (getattr(thing, "_render", None) or thing.render)()
            gl.glEndList()

        def _set_lights(self) -> None:
            for setting in (gl.GL_LIGHTING, gl.GL_LIGHT0, gl.GL_COLOR_MATERIAL, gl.GL_TEXTURE_2D):
                gl.glEnable(setting)
            gl.glShadeModel(gl.GL_SMOOTH)
            gl.glColorMaterial(gl.GL_FRONT_AND_BACK, gl.GL_AMBIENT_AND_DIFFUSE)
            for kind, values in (
                (gl.GL_POSITION, (*self.light_pos, 1)),
                (gl.GL_AMBIENT, self.light_ambient),
                (gl.GL_DIFFUSE, self.light_color),
            ):
                gl.glLightfv(gl.GL_LIGHT0, kind, (gl.GLfloat * 4)(*values))

        def _render_world(self, frame_buffer: Any, render_agent: bool) -> Any:
            gl.glCallList(self._scene)
            for entity in self.entities:
                if not entity.is_static and (render_agent or entity is not self.agent):
                    entity.render()
            return frame_buffer.resolve()

        def free(self) -> None:
            """Delete the scene, and the context with its canvases."""
            self.shadow_window.switch_to()
            gl.glDeleteLists(self._scene, 1)
            self.shadow_window.close()

    return OwnScene

"""Start ViZDoom's engine under a supervisor, so that it ends with the program that plays it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import vizdoom

from dreamenv.supervisor import supervised

__all__ = ["use_supervisor"]


def use_supervisor(game: vizdoom.DoomGame, folder: str) -> None:
    """Have a game start a script in its working directory, which starts the engine under a supervisor.

    Where scripts cannot be started (Windows, a temporary folder that is mounted ``noexec``), the engine is started
    itself.
    """
    if os.name != "posix":
        return
    script = Path(folder) / "engine"
    # ViZDoom chooses the name of its shared memory and hands it to the engine with this argument.
    command = supervised([vizdoom.exe_path], folder, shared_memory="+viz_instance_id")
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    script.chmod(0o700)
    if os.access(script, os.X_OK):
        game.set_vizdoom_path(str(script))

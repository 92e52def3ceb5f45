"""Start the worker: ``python <this folder> REQUESTS REPLIES FRAME ALIVE PARENT``."""

from __future__ import annotations

import importlib
import os
import sys
import types

if __name__ == "__main__":
    folder = os.path.abspath(sys.path.pop(0))  # this folder, whose modules must not hide others of the same names
    # Where dreamenv is not installed, empty packages of its names let the modules of this folder import one another.
    for name in ("dreamenv", "dreamenv.envs", "dreamenv.envs.minerl"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["dreamenv.envs.minerl"].__path__ = [os.path.dirname(folder)]
    importlib.import_module("dreamenv.envs.minerl.worker.watchdog").main(sys.argv[1:])

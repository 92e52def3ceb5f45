"""Find the Python interpreter that has MineRL, and say what is missing if there is none."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import lru_cache

from dreamenv.envs.minerl.tasks import MINERL_TASKS
from dreamenv.envs.missing import Missing

__all__ = ["VARIABLE", "find_minerl", "minerl_interpreter"]

VARIABLE = "DREAMENV_MINERL_PYTHON"
"""The environment variable that names MineRL's interpreter."""

_GUIDE = "see docs/minecraft.md on how to install MineRL"
_SECONDS = 60.0
_PROBE = """
import importlib.util, json, sys
try:
    from importlib.metadata import version
except ImportError:  # Python 3.7
    from pkg_resources import get_distribution
    version = lambda name: get_distribution(name).version
try:
    minerl = version("minerl")
except Exception:  # a package without metadata, such as a source tree on the path
    minerl = ""
lacking = [name for name in ("minerl", "gym", "numpy") if importlib.util.find_spec(name) is None]
print(json.dumps({"python": sys.version_info[:2], "lacking": lacking, "minerl": minerl}))
"""


def minerl_interpreter(minerl_python: str | os.PathLike[str] | None = None) -> str | None:
    """Return the path of MineRL's interpreter: the argument, or else the variable; None if neither is set."""
    chosen = os.fspath(minerl_python) if minerl_python is not None else os.environ.get(VARIABLE)
    if not chosen:
        return None
    found = shutil.which(os.path.expanduser(chosen)) or chosen
    return os.path.abspath(found)  # not the real path: a virtual environment's interpreter is a link


def find_minerl(minerl_python: str | os.PathLike[str] | None = None, task: str | None = None) -> Missing | None:
    """Check for MineRL, or for one of its tasks. Each interpreter is run once; MineRL is not imported."""
    path = minerl_interpreter(minerl_python)
    if path is None:
        remedy = f"export {VARIABLE}=/path/to/minerl/bin/python ({_GUIDE})"
        return Missing(what=f"{VARIABLE} is not set, nor is minerl_python given", remedy=remedy)
    try:
        changed = os.stat(path).st_mtime_ns
    except OSError:
        return Missing(
            what=f"there is no interpreter at {path}", remedy=f"set {VARIABLE} to one that exists ({_GUIDE})"
        )
    answer = _probe(path, changed)
    if isinstance(answer, Missing):
        return answer
    if task is None:
        return None
    wanted, found = MINERL_TASKS[task].since, re.match(r"(\d+)\.(\d+)", answer)
    if found is None or (int(found[1]), int(found[2])) >= wanted:  # of an unknown version: the worker will check
        return None
    major, minor = wanted
    return Missing(
        what=f"{path} has MineRL {answer}, and {MINERL_TASKS[task].env_id} needs MineRL {major}.{minor}",
        remedy=f"set {VARIABLE} to a Python that has MineRL {major}.{minor} ({_GUIDE})",
    )


@lru_cache(maxsize=32)
def _probe(path: str, changed: int) -> Missing | str:
    """Return the version of an interpreter's MineRL; ``changed`` is part of the cache's key only."""
    del changed
    another = f"set {VARIABLE} to a Python that has MineRL ({_GUIDE})"
    try:
        answer = subprocess.run([path, "-c", _PROBE], capture_output=True, text=True, timeout=_SECONDS, check=True)
        facts = json.loads(answer.stdout)
        python, lacking, version = tuple(facts["python"]), facts["lacking"], str(facts["minerl"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        reason = type(error).__name__ if isinstance(error, ValueError) else str(error)
        return Missing(what=f"{path} does not run as a Python interpreter ({reason})", remedy=another)
    if lacking:
        remedy = f"install MineRL into it ({_GUIDE}), or {another}"
        return Missing(what=f"the interpreter {path} has no package {' and no '.join(lacking)}", remedy=remedy)
    if python < (3, 7):
        return Missing(what=f"{path} is Python {python[0]}.{python[1]}, older than 3.7", remedy=another)
    return version

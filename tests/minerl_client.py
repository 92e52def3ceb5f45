"""Build a virtual environment with the real MineRL Python client of PyPI, 0.4.4, but without the game.

::

    make minerl                                # or: python tests/minerl_client.py [FOLDER]

The game (Minecraft 1.11.2 with Malmo) must be downloaded from other hosts than PyPI and needs JDK 8. MineRL's own
switch READTHEDOCS=1 leaves it out. What is left is every line of Python that a user's environment runs. The game's
launch script is replaced by one that starts `dreamenv.envs.minerl.fake_malmo` with this interpreter, so that the
client's whole way of launching runs too. gym 0.19.0, which this client needs, no longer builds as a wheel, so its
package is unpacked next to the others. Nothing of either is part of dreamenv.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

__all__ = ["DEFAULT_FOLDER", "CannotBuildError", "build"]

DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / ".venv-minerl"

_CLIENT, _GYM = "minerl==0.4.4", "gym==0.19.0"
_PYTHONS = ((3, 8), (3, 9), (3, 10), (3, 11))  # for which there are wheels of numpy 1.23
_BUILDING = ("setuptools<70", "wheel")
_PACKAGES = (
    *("numpy<1.24", "opencv-python-headless<4.10", "lxml<7", "psutil<8", "Pyro4==4.82", "coloredlogs==15.0.1"),
    *("pillow", "dill", "xmltodict==0.12.0", "inflection==0.5.1", "jinja2<4", "tqdm", "requests", "daemoniker==0.2.3"),
    "cloudpickle==1.6.0",
)
_PLAN = json.dumps([_CLIENT, _GYM, *_PACKAGES])
_CHECK = "import gym, minerl; gym.make('MineRLNavigateDense-v0'); gym.make('MineRLTreechop-v0')"


class CannotBuildError(Exception):
    """The environment cannot be built on this machine; the message says why."""


def build(folder: Path = DEFAULT_FOLDER) -> Path:
    """Build the environment, once, and return its interpreter.

    Several processes may call this at once: one builds, the others wait.

    Raises:
        CannotBuildError: no fitting Python, or PyPI cannot be reached.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    python, stamp = folder / "bin" / "python", folder / "built.json"
    lock = os.open(folder.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.is_file() and stamp.read_text() == _PLAN and python.exists()):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _build(folder, python)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            stamp.write_text(_PLAN)
        _replace_the_game(next(folder.glob("lib/python*/site-packages/minerl")))
    finally:
        os.close(lock)
    return python


def _replace_the_game(client: Path) -> None:
    script = client / "Malmo" / "Minecraft" / "launchClient.sh"
    wanted = f'#!/bin/sh\nexec "{sys.executable}" -m dreamenv.envs.minerl.fake_malmo "$@"\n'
    if script.read_text() != wanted:
        script.write_text(wanted)
        script.chmod(0o755)


def _build(folder: Path, python: Path) -> None:
    sources = folder / "sources"
    sdist = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", str(sources)]
    _run([_old_python(), "-m", "venv", str(folder)])
    _pip(python, "install", *_BUILDING)
    _pip(python, "install", *_PACKAGES)
    _pip(python, "download", *sdist, _CLIENT)
    _pip(python, "download", *sdist, _GYM)
    _pip(python, "install", "--no-deps", "--no-build-isolation", str(next(sources.glob("minerl-*"))))
    target = _run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    with tarfile.open(next(sources.glob("gym-*"))) as archive:
        archive.extractall(sources, filter="data")
    shutil.move(next(sources.glob("gym-*/gym")), target)
    shutil.rmtree(sources)
    _run([str(python), "-c", _CHECK])


def _old_python() -> str:
    """Return an interpreter that the client's numpy has wheels for; this one, if it is."""
    if sys.version_info[:2] in _PYTHONS:
        return sys.executable
    for major, minor in reversed(_PYTHONS):
        found = shutil.which(f"python{major}.{minor}")
        if found is not None:
            return found
    raise CannotBuildError(
        "MineRL 0.4.4 needs numpy < 1.24, so a Python from 3.8 to 3.11, and there is none on the PATH"
    )


def _pip(python: Path, *arguments: str) -> str:
    return _run([str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments])


def _run(command: list[str]) -> str:
    """Run a command and return what it printed."""
    settings = {**os.environ, "READTHEDOCS": "1", "PIP_RETRIES": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=settings)
    if ended.returncode != 0:
        lines = ended.stderr.strip().splitlines() or ["no message"]
        raise CannotBuildError(f"{' '.join(command[1:5])} … failed: {lines[-1]}")
    return ended.stdout


if __name__ == "__main__":
    try:
        print(build(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else DEFAULT_FOLDER))
    except CannotBuildError as error:
        sys.exit(f"The MineRL client could not be built: {error}")

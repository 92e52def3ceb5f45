"""Engines end with the program that plays them, however it ends, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamenv.envs import make_real
from dreamenv.errors import WorkerError
from dreamenv.supervisor import supervised

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

ENGINE = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
PROGRAM = """
import subprocess, sys, time
from dreamenv.supervisor import supervised
engine = [sys.executable, "-c", {engine!r}]
process = subprocess.Popen(supervised(engine, {folder!r}, shared_memory="+name") + ["+name", {name!r}])
print(process.pid, flush=True)
time.sleep(60)
"""
PLAYER = """
from dreamenv.envs import make_real
import time
env = make_real("take_cover", size=16)
env.reset(seed=0)
print(env.unwrapped.working_directory, flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def wait_until(condition, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def processes_in(folder: str) -> list[int]:
    """Return the ids of the processes that work in a folder, which may be removed already."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{entry}/cwd").removesuffix(" (deleted)") == folder:
                found.append(int(entry))
    return found


def play_on(env: Any, steps: int = 1000) -> None:
    for _ in range(steps):
        env.step(0)


def read_pid(folder: Path) -> int:
    assert wait_until(lambda: (folder / "pid").is_file() and (folder / "pid").read_text())
    return int((folder / "pid").read_text())


@pytest.mark.parametrize("victim", ["program", "supervisor, politely"])
def test_an_engine_and_its_folder_and_shared_memory_are_gone_when_its_program_dies(tmp_path, victim):
    folder, name = tmp_path / "engine", f"dreamenv{os.getpid()}"
    folder.mkdir()
    shared = Path("/dev/shm") / f"test{name}"
    shared.write_bytes(b"frame")
    code = PROGRAM.format(engine=ENGINE, folder=str(folder), name=name)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as program:
        supervisor, engine = int(program.stdout.readline()), read_pid(folder)
        os.kill(*((program.pid, signal.SIGKILL) if victim == "program" else (supervisor, signal.SIGTERM)))
        assert wait_until(lambda: not is_running(engine) and not is_running(supervisor) and not folder.exists())
        assert shared.exists() == (victim != "program")  # which removes it itself while it lives
        program.kill()
    shared.unlink(missing_ok=True)


def test_an_engine_ends_when_its_supervisor_is_killed(tmp_path):
    with subprocess.Popen(supervised([sys.executable, "-c", ENGINE], tmp_path)) as supervisor:
        engine = read_pid(tmp_path)
        supervisor.kill()
        assert wait_until(lambda: not is_running(engine))


def test_the_engines_exit_status_is_that_of_its_supervisor(tmp_path):
    for code, status in (("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)):
        (tmp_path / str(status)).mkdir()
        assert subprocess.call(supervised([sys.executable, "-c", code], tmp_path / str(status))) == status


def test_an_engine_inherits_no_descriptors_and_hears_no_ctrl_c(tmp_path):
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    supervisor = subprocess.Popen(
        supervised([sys.executable, "-c", ENGINE], tmp_path), close_fds=False, start_new_session=True
    )
    os.close(theirs)
    engine = read_pid(tmp_path)
    assert os.read(ours, 1) == b""  # nobody holds the other end any more
    os.close(ours)
    os.killpg(supervisor.pid, signal.SIGINT)
    assert os.getpgid(engine) == supervisor.pid
    time.sleep(0.2)
    assert is_running(engine)
    supervisor.terminate()
    supervisor.wait()
    assert not is_running(engine)


def test_descriptors_are_closed_in_the_programs_that_a_process_starts():
    code = (
        "import os, subprocess, sys\n"
        "from dreamenv.supervisor import close_descriptors_on_exec\n"
        "close_descriptors_on_exec()\n"
        "look = 'import os, sys; os.fstat(int(sys.argv[1]))'\n"
        "sys.exit(subprocess.call([sys.executable, '-c', look, sys.argv[1]], close_fds=False))\n"
    )
    ours, theirs = os.pipe()
    command = [sys.executable, "-c", code, str(theirs)]
    assert subprocess.call(command, pass_fds=(theirs,), stderr=subprocess.DEVNULL) == 1
    os.close(ours)
    os.close(theirs)


def test_a_process_whose_parent_is_dead_already_ends_at_once():
    code = f"from dreamenv.supervisor import end_with_parent; end_with_parent({os.getpid()}); print('lives')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "lives\n"
    wrong = code.replace(f"end_with_parent({os.getpid()})", "end_with_parent(1 << 30)")
    done = subprocess.run([sys.executable, "-c", wrong], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_nothing_is_left_of_vizdoom_when_its_program_is_killed(tmp_path, number):
    shared = set(os.listdir("/dev/shm"))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", PLAYER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as program:
        folder = program.stdout.readline().strip()
        [engine] = processes_in(folder)
        name = Path(f"/proc/{engine}/cmdline").read_bytes().split(b"\0+viz_instance_id\0")[1].split(b"\0")[0].decode()
        assert any(name in file for file in os.listdir("/dev/shm"))
        program.send_signal(number)
    assert wait_until(lambda: not is_running(engine) and not os.path.exists(folder))
    assert wait_until(lambda: not any(name in file for file in set(os.listdir("/dev/shm")) - shared))
    assert not [file for file in os.listdir(tmp_path) if file.startswith("dreamenv")]


def test_the_death_of_vizdooms_supervisor_is_a_worker_error_and_ends_the_engine():
    env = make_real("take_cover", size=16)
    env.reset(seed=0)
    [engine] = processes_in(env.unwrapped.working_directory)
    supervisor = int(Path(f"/proc/{engine}/stat").read_text().rsplit(")", 1)[1].split()[1])
    assert supervisor != os.getpid()
    os.kill(supervisor, signal.SIGKILL)
    assert wait_until(lambda: not is_running(engine))
    with pytest.raises(WorkerError, match="ViZDoom engine"):
        play_on(env)
    env.close()
    again = make_real("take_cover", size=16)
    assert again.reset(seed=0)[0].dtype == np.uint8
    again.close()

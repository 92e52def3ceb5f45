"""An engine of Minetest that dies or hangs is noticed, and nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from minetest_games import engine_of, left_behind, needs_minetest, play_on

from dreamenv.envs import make_real
from dreamenv.errors import WorkerError


@needs_minetest
@pytest.mark.parametrize("victim", ["minetest", "xvfb", "supervisor"])
def test_a_killed_engine_is_noticed_and_the_next_reset_starts_another(victim):
    env = make_real("minetest_maze")
    frame, _ = env.reset(seed=0)
    engine = engine_of(env)
    pids = {**engine.pids, "supervisor": engine.supervisor_pid}
    os.kill(pids[victim], signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(WorkerError, match="Minetest engine"):
        play_on(env)
    assert time.monotonic() - began < 10
    assert left_behind(pids.values(), engine.folder, engine.display) == []
    np.testing.assert_array_equal(env.reset(seed=0)[0], frame)
    again = engine_of(env)
    env.close()
    assert left_behind(again.pids.values(), again.folder, again.display) == []


@needs_minetest
def test_an_engine_that_hangs_is_noticed(monkeypatch):
    monkeypatch.setattr("dreamenv.envs.minetest.engine._STEP_SECONDS", 1.0)
    env = make_real("minetest_maze")
    env.reset(seed=0)
    engine = engine_of(env)
    monkeypatch.setattr(engine, "_signal", lambda number: None)  # it stays stopped
    with pytest.raises(WorkerError, match="hangs"):
        env.step(0)
    assert left_behind(engine.pids.values(), engine.folder, engine.display) == []
    env.close()


@needs_minetest
def test_nothing_is_left_when_python_itself_is_killed():
    code = (
        "from dreamenv.envs import make_real\n"
        "import time\n"
        "env = make_real('minetest_maze'); env.reset(seed=0); engine = env.unwrapped.engine\n"
        "print(*engine.pids.values(), engine.supervisor_pid, engine.display, engine.folder, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        *pids, display, folder = process.stdout.readline().split()
        assert os.path.exists(folder)
        process.kill()
    assert left_behind([int(pid) for pid in pids], folder, display) == []

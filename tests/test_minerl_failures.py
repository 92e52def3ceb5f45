"""Whatever dies, hangs or is missing around MineRL is a typed error, is started anew, and leaves nothing running."""

from __future__ import annotations

import ast
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from minerl_games import client_python, gone, marked, stand_in

from dreamenv.commands.doctor import check_real_environments
from dreamenv.envs import FAMILIES, make_real
from dreamenv.envs.minerl import process, worker
from dreamenv.envs.minerl.interpreter import find_minerl
from dreamenv.envs.minerl.tasks import MINERL_TASKS
from dreamenv.errors import ConfigError, ResetNeededError, UnavailableError, WorkerError

TASK = "minerl_treechop"


@pytest.fixture(scope="module")
def python():
    """MineRL's interpreter."""
    return client_python()


@pytest.fixture
def started():
    """Environments to close at the end, should the test fail."""
    envs = []
    yield envs
    for env in envs:
        env.close()


def begin(started, python, port, **settings):
    """Make an environment and start an episode; it, and where its worker lives."""
    env = make_real(TASK, minerl_python=python, port=port, **settings).unwrapped
    started.append(env)
    env.reset(seed=0)
    return env, env._worker.mark, env._worker.folder


# Deaths


def test_the_death_of_the_game_is_an_error_and_the_next_reset_plays_in_a_new_game(python, started):
    with stand_in() as (port, game):
        env, mark, folder = begin(started, python, port)
        game.kill()
        began = time.monotonic()
        with pytest.raises(WorkerError, match=rf"{TASK}.*game does not answer.*reset\(\)"):
            env.step(0)
        assert time.monotonic() - began < 10
        assert gone(mark, folder)
        with pytest.raises(ResetNeededError):
            env.step(0)
        with pytest.raises(ConfigError, match=f"nothing listens on port {port}"):
            env.reset(seed=0)
    with stand_in("--port", str(port)):
        env.reset(seed=0)
        env.step(1)


def test_a_game_that_falls_silent_is_given_up(python, started):
    with stand_in("--hang-at", "6") as (port, _):
        env, mark, folder = begin(started, python, port, step_timeout=1.5)
        env.step(0)
        with pytest.raises(WorkerError, match=r"did not answer 'step' within 1\.5 s"):
            env.step(0)
        assert gone(mark, folder)


def test_the_death_of_worker_or_guard_is_an_error_and_the_next_reset_starts_another(python, started):
    with stand_in() as (port, _):
        env, mark, folder = begin(started, python, port)
        guard = env._worker._process.pid
        (player,) = set(marked(mark)) - {guard}
        os.kill(player, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"died during 'step'"):
            env.step(0)
        assert gone(mark, folder)
        env.reset(seed=0)
        mark, folder = env._worker.mark, env._worker.folder
        os.kill(env._worker._process.pid, signal.SIGKILL)
        assert gone(mark, folder)  # the player does the guard's work
        with pytest.raises(WorkerError, match=r"died"):
            env.step(0)
        env.reset(seed=0)
        env.step(0)


def test_closing_leaves_nothing_and_can_be_undone_by_a_reset(python, started):
    with stand_in() as (port, _):
        env, mark, folder = begin(started, python, port)
        assert len(marked(mark)) == 2
        env.close()
        env.close()
        assert gone(mark, folder, seconds=0.1)  # nothing is left for later
        env.reset(seed=0)
        env.step(0)


def test_a_game_that_minerl_starts_ends_with_us_even_if_we_are_killed(python, started):
    code = (
        "import sys, time\n"
        "from dreamenv.envs import make_real\n"
        f"env = make_real({TASK!r}, minerl_python=sys.argv[1])\n"
        "info = env.reset(seed=0)[1]\n"
        "info = env.step(1)[4]\n"
        "worker = env.unwrapped._worker\n"
        "print(worker.mark, worker.folder, info['stand_in'], flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, python], stdout=subprocess.PIPE, text=True) as ours:
        try:
            line = ours.stdout.readline().split()
            assert line, "it did not start"
            mark, folder, is_stand_in = line
            assert is_stand_in == "True"
            commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in marked(mark)]
            assert any("stand_in" in command for command in commands)  # in Java's place, in a session of its own
            assert any("process_watcher" in command for command in commands)
        finally:
            ours.kill()
    assert gone(mark, folder)


# Ports


def test_two_environments_never_play_in_one_game(python, started):
    with stand_in() as (port, _):
        env, *_ = begin(started, python, port)
        with pytest.raises(ConfigError, match=f"another environment plays in the game on port {port}"):
            begin(started, python, port)
        env.step(0)
        env.close()
        begin(started, python, port)


def test_another_program_behind_the_port_is_named(python, started):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(WorkerError, match=rf"within 3 s.*MineRL game that listens on port {port}"):
            begin(started, python, port, reset_timeout=3.0)


def test_a_busy_game_is_waited_for(python, started):
    with stand_in("--busy", "1") as (port, _):
        env, *_ = begin(started, python, port)
        env.step(0)


# Interpreters


def test_an_interpreter_without_minerl_is_named_with_the_remedy(tmp_path, monkeypatch):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho hello\n")
    broken.chmod(0o755)
    cases = {
        None: "DREAMENV_MINERL_PYTHON is not set",
        sys.executable: "has no package minerl",
        str(tmp_path / "nowhere"): "no interpreter at .*nowhere",
        str(broken): "does not answer as a Python interpreter",
        str(tmp_path): "does not answer as a Python interpreter",
    }
    family = next(family for family in FAMILIES if TASK in family.tasks)
    for chosen, named in cases.items():
        monkeypatch.delenv("DREAMENV_MINERL_PYTHON", raising=False)
        with pytest.raises(UnavailableError, match=rf"{TASK}.*{named}.*DREAMENV_MINERL_PYTHON") as raised:
            make_real(TASK, **({} if chosen is None else {"minerl_python": chosen}))
        if chosen is not None:
            monkeypatch.setenv("DREAMENV_MINERL_PYTHON", chosen)
        missing = family.missing_for(TASK)
        assert missing.what in str(raised.value)
        assert missing.remedy in str(raised.value)
        assert "docs/minecraft.md" in missing.remedy


def test_doctor_lists_every_task_and_says_what_lacks(monkeypatch):
    monkeypatch.setenv("DREAMENV_MINERL_PYTHON", "/nowhere")
    monkeypatch.setattr("dreamenv.envs.FAMILIES", [family for family in FAMILIES if TASK in family.tasks])
    findings = list(check_real_environments())
    assert [finding.name for finding in findings] == list(MINERL_TASKS)
    for finding in findings:
        assert not finding.ok
        assert not finding.required
        assert finding.detail == "there is no interpreter at /nowhere"
        assert "docs/minecraft.md" in finding.remedy


def test_minerl_is_found_and_its_interpreter_asked_once(python, monkeypatch):
    assert find_minerl(python) is None

    def refuse(*_args, **_kwargs):
        raise AssertionError("the interpreter was asked again")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert find_minerl(python) is None


def test_a_relative_path_to_the_interpreter_works(python, monkeypatch):
    monkeypatch.chdir(os.path.dirname(python))
    env = make_real(TASK, minerl_python="./python", native_actions=True)
    env.close()


def test_doctor_and_the_error_say_which_task_needs_a_newer_minerl(python, monkeypatch):
    monkeypatch.setenv("DREAMENV_MINERL_PYTHON", python)
    monkeypatch.setattr("dreamenv.envs.FAMILIES", [family for family in FAMILIES if TASK in family.tasks])
    findings = {finding.name: finding for finding in check_real_environments()}
    assert [name for name, finding in findings.items() if not finding.ok] == ["minerl_survival"]
    with pytest.raises(
        UnavailableError, match=r"has MineRL 0\.4\.4, and MineRLHumanSurvival-v0 came with 1\.0"
    ) as raised:
        make_real("minerl_survival")
    assert findings["minerl_survival"].detail in str(raised.value)
    assert findings["minerl_survival"].remedy in str(raised.value)


def test_an_environment_that_this_minerl_lacks_is_named(python, monkeypatch):
    monkeypatch.setattr("dreamenv.envs.minerl.interpreter._probe", lambda *_: "")  # a MineRL without a version
    with pytest.raises(UnavailableError, match=r"no MineRLHumanSurvival-v0.*version that has it"):
        make_real("minerl_survival", minerl_python=python).reset()


def test_a_worker_of_another_dreamenv_is_refused(python, monkeypatch):
    monkeypatch.setattr(process.worker, "PROTOCOL", 2)
    with pytest.raises(WorkerError, match="version 2, the worker 1"):
        make_real(TASK, minerl_python=python).reset()


def test_the_worker_is_one_file_for_python_3_7():
    tree = ast.parse(Path(worker.__file__).read_text(), feature_version=(3, 7))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules <= sys.stdlib_module_names | {"numpy"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value == "pickle"]


# Messages


@pytest.fixture
def pipe():
    """A pipe: where it is read, where it is written; and the line that reads it."""
    reads, writes = os.pipe()
    yield reads, writes, worker.Line(reads, writes)
    os.close(reads)


def test_messages_are_json_behind_their_length(pipe):
    _, writes, line = pipe
    line.send({"op": "step", "ticks": 4})
    assert line.receive() == {"op": "step", "ticks": 4}
    body = json.dumps({"op": "close", "why": "é" * 70_000}).encode()
    whole = len(body).to_bytes(4, "big") + body
    sender = threading.Thread(target=lambda: [os.write(writes, piece) for piece in (whole[:2], whole[2:9], whole[9:])])
    sender.start()
    assert line.receive(seconds=60)["why"] == "é" * 70_000
    sender.join()
    with pytest.raises(TimeoutError):
        line.receive(seconds=0.01)
    os.close(writes)
    with pytest.raises(EOFError):
        line.receive()


def looks_while_nothing_comes(line, monkeypatch):
    """How often a line looks, after a message that was there at once, by a clock that ticks with every glance at it."""
    clock, looks = itertools.count(), []
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr(worker.os, "sched_yield", lambda: looks.append(1))
    line.send({})
    line.receive()
    with pytest.raises(TimeoutError):
        line.receive(seconds=5)
    return len(looks)


@pytest.mark.parametrize(
    ("why", "settings", "looks"),
    [
        ("messages come swiftly, and a core is to spare", {}, 4),
        ("on one core the other end needs it", {"CORES": 1}, 0),
        ("messages take their time", {"BRIEF": 0.5}, 0),
        ("somebody took the core between two looks", {"DISPLACED": 0.5}, 1),
    ],
)
def test_only_swift_messages_are_looked_for_and_only_with_a_core_to_spare(why, settings, looks, pipe, monkeypatch):
    for name, value in {"CORES": 2, "BRIEF": 60.0, "DISPLACED": 60.0, "CROWDED": 60.0, **settings}.items():
        monkeypatch.setattr(worker, name, value)
    _, writes, line = pipe
    assert looks_while_nothing_comes(line, monkeypatch) == looks, why
    if "DISPLACED" in settings:
        assert looks_while_nothing_comes(line, monkeypatch) == 0  # for as long as cores are taken to be crowded
    os.close(writes)


def test_a_message_that_comes_while_it_is_looked_for_is_received(pipe, monkeypatch):
    for name, value in {"CORES": 2, "BRIEF": 60.0, "DISPLACED": 60.0}.items():
        monkeypatch.setattr(worker, name, value)
    _, writes, line = pipe
    line.send({})
    line.receive()
    monkeypatch.setattr(worker.os, "sched_yield", lambda: line.send({"ticks": 1}))
    assert line.receive(seconds=60) == {"ticks": 1}
    monkeypatch.setattr(worker.os, "sched_yield", lambda: os.close(writes))
    with pytest.raises(EOFError):
        line.receive(seconds=60)

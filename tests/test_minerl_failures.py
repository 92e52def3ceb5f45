"""Whatever dies, hangs or is missing around MineRL is a typed error, is started again, and leaves nothing running."""

from __future__ import annotations

import ast
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from minerl_games import client_python, fake_malmo, gone, marked

from dreamenv.commands.doctor import check_real_environments
from dreamenv.envs import FAMILIES, make_real
from dreamenv.envs.minerl import process, worker
from dreamenv.envs.minerl.interpreter import find_minerl
from dreamenv.envs.minerl.tasks import MINERL_TASKS
from dreamenv.envs.minerl.worker import messages
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
    with fake_malmo() as (port, game):
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
    with fake_malmo("--port", str(port)):
        env.reset(seed=0)
        env.step(1)


def test_a_game_that_stops_answering_is_given_up(python, started):
    with fake_malmo("--hang-at", "6") as (port, _):
        env, mark, folder = begin(started, python, port, step_timeout=1.5)
        env.step(0)
        with pytest.raises(WorkerError, match=r"did not answer 'step' within 1\.5 s"):
            env.step(0)
        assert gone(mark, folder)


def test_the_death_of_server_or_watchdog_is_an_error_and_the_next_reset_starts_another(python, started):
    with fake_malmo() as (port, _):
        env, mark, folder = begin(started, python, port)
        watchdog = env._worker._process.pid
        (server,) = set(marked(mark)) - {watchdog}
        os.kill(server, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"died during 'step'"):
            env.step(0)
        assert gone(mark, folder)
        env.reset(seed=0)
        mark, folder = env._worker.mark, env._worker.folder
        os.kill(env._worker._process.pid, signal.SIGKILL)
        assert gone(mark, folder)  # the server does the watchdog's work
        with pytest.raises(WorkerError, match=r"died"):
            env.step(0)
        env.reset(seed=0)
        env.step(0)


def test_closing_leaves_nothing_and_can_be_undone_by_a_reset(python, started):
    with fake_malmo() as (port, _):
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
        "print(worker.mark, worker.folder, info['fake_malmo'], flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, python], stdout=subprocess.PIPE, text=True) as ours:
        try:
            line = ours.stdout.readline().split()
            assert line, "it did not start"
            mark, folder, is_fake = line
            assert is_fake == "True"
            commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in marked(mark)]
            assert any("fake_malmo" in command for command in commands)  # in Java's place, in a session of its own
            assert any("process_watcher" in command for command in commands)
        finally:
            ours.kill()
    assert gone(mark, folder)


# Ports


def test_two_environments_never_play_in_one_game(python, started):
    with fake_malmo() as (port, _):
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
    with fake_malmo("--busy", "1") as (port, _):
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
        str(broken): "does not run as a Python interpreter",
        str(tmp_path): "does not run as a Python interpreter",
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


def test_doctor_lists_every_task_and_its_missing_parts(monkeypatch):
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
        UnavailableError, match=r"has MineRL 0\.4\.4, and MineRLHumanSurvival-v0 needs MineRL 1\.0"
    ) as raised:
        make_real("minerl_survival")
    assert findings["minerl_survival"].detail in str(raised.value)
    assert findings["minerl_survival"].remedy in str(raised.value)


def test_an_environment_that_this_minerl_lacks_is_named(python, monkeypatch):
    monkeypatch.setattr("dreamenv.envs.minerl.interpreter._probe", lambda *_: "")  # a MineRL without a version
    with pytest.raises(UnavailableError, match=r"no MineRLHumanSurvival-v0.*version that has it"):
        make_real("minerl_survival", minerl_python=python).reset()


def test_a_worker_of_another_dreamenv_is_refused(python, monkeypatch):
    monkeypatch.setattr(process, "PROTOCOL", 2)
    with pytest.raises(WorkerError, match="version 2, the worker 1"):
        make_real(TASK, minerl_python=python).reset()


@pytest.mark.parametrize("file", sorted(Path(worker.__file__).parent.glob("*.py")), ids=lambda file: file.name)
def test_the_worker_needs_no_dreamenv_and_python_3_7_only(file):
    tree = ast.parse(file.read_text(), feature_version=(3, 7))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    others = {name for name in modules if not name.startswith(f"{worker.__name__}.")}
    assert others <= sys.stdlib_module_names | {"numpy"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value == "pickle"]


def test_the_worker_runs_where_no_dreamenv_is_installed(tmp_path):
    folder = shutil.copytree(Path(worker.__file__).parent, tmp_path / "worker")
    command = [sys.executable, "-S", str(folder), "0"]  # too few arguments
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={})
    assert str(folder / "watchdog.py") in run.stderr
    assert "ValueError: not enough values to unpack" in run.stderr


# Messages


@pytest.fixture
def pipe():
    """A pipe: where it is read, where it is written; and what sends and receives on it."""
    reads, writes = os.pipe()
    yield reads, writes, messages.MessagePipe(reads, writes)
    os.close(reads)


def test_messages_are_json_behind_their_length(pipe):
    _, writes, end = pipe
    end.send({"op": "step", "ticks": 4})
    assert end.receive() == {"op": "step", "ticks": 4}
    body = json.dumps({"op": "close", "why": "é" * 70_000}).encode()
    whole = len(body).to_bytes(4, "big") + body
    sender = threading.Thread(target=lambda: [os.write(writes, piece) for piece in (whole[:2], whole[2:9], whole[9:])])
    sender.start()
    assert end.receive(seconds=60)["why"] == "é" * 70_000
    sender.join()
    with pytest.raises(TimeoutError):
        end.receive(seconds=0.01)
    os.close(writes)
    with pytest.raises(EOFError):
        end.receive()


def polls_while_nothing_comes(end, monkeypatch):
    """How often it polls, after a message that was there at once, by a clock that ticks with every look at it."""
    clock, polls = itertools.count(), []
    monkeypatch.setattr(messages, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr(messages.os, "sched_yield", lambda: polls.append(1))
    end.send({})
    end.receive()
    with pytest.raises(TimeoutError):
        end.receive(seconds=5)
    return len(polls)


@pytest.mark.parametrize(
    ("why", "settings", "polls"),
    [
        ("messages follow quickly, and a core is to spare", {}, 4),
        ("on one core the other end needs it", {"CORES": 1}, 0),
        ("messages take their time", {"SPIN_SECONDS": 0.5}, 0),
        ("another process took the core between two polls", {"PREEMPTED_SECONDS": 0.5}, 1),
    ],
)
def test_only_quick_messages_are_polled_for_and_only_with_a_core_to_spare(why, settings, polls, pipe, monkeypatch):
    for name, value in {
        "CORES": 2,
        "SPIN_SECONDS": 60.0,
        "PREEMPTED_SECONDS": 60.0,
        "BACKOFF_SECONDS": 60.0,
        **settings,
    }.items():
        monkeypatch.setattr(messages, name, value)
    _, writes, end = pipe
    assert polls_while_nothing_comes(end, monkeypatch) == polls, why
    if "PREEMPTED_SECONDS" in settings:
        assert polls_while_nothing_comes(end, monkeypatch) == 0  # until the back-off is over
    os.close(writes)


def test_a_message_that_comes_while_polling_is_received(pipe, monkeypatch):
    for name, value in {"CORES": 2, "SPIN_SECONDS": 60.0, "PREEMPTED_SECONDS": 60.0}.items():
        monkeypatch.setattr(messages, name, value)
    _, writes, end = pipe
    end.send({})
    end.receive()
    monkeypatch.setattr(messages.os, "sched_yield", lambda: end.send({"ticks": 1}))
    assert end.receive(seconds=60) == {"ticks": 1}
    monkeypatch.setattr(messages.os, "sched_yield", lambda: os.close(writes))
    with pytest.raises(EOFError):
        end.receive(seconds=60)

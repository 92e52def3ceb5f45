"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is open gets closed, and the exit status says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_supervisor import is_running, processes_in, wait_until

from dreamenv.cli import main
from dreamenv.commands import info
from dreamenv.signals import Interrupted, interrupted_by_signals, signals_held

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other systems have other signals")
ENDING = [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]


@pytest.mark.parametrize(("number", "status"), ENDING)
def test_a_signal_interrupts_a_command_and_is_its_exit_status(monkeypatch, capsys, number, status):
    closed = []

    def work(path: str | None) -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            if number != signal.SIGINT:
                os.kill(os.getpid(), number)  # a second one does not disturb the closing
            time.sleep(0.01)
            closed.append(path)

    before = [signal.getsignal(number) for number, _ in ENDING]
    monkeypatch.setattr(info, "describe", work)
    assert main(["info"]) == status
    assert len(closed) == 1
    assert "same command" in capsys.readouterr().err
    assert [signal.getsignal(number) for number, _ in ENDING] == before


def test_a_signal_that_is_ignored_stays_ignored_and_other_threads_are_let_be():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupted_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(main(["--version"])))
    thread.start()
    thread.join()
    assert statuses == [0]
    with pytest.raises(Interrupted, match="SIGTERM"), interrupted_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)


def test_signals_are_held_back_and_processes_that_start_meanwhile_go_on_holding_them():
    def start_and_interrupt() -> None:
        with signals_held():
            children.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"]))
            for number, _ in ENDING:
                children[0].send_signal(number)
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            time.sleep(0.05)
            children.append(None)

    children: list[subprocess.Popen[bytes] | None] = []
    with interrupted_by_signals(), pytest.raises(Interrupted):
        start_and_interrupt()
    assert len(children) == 2
    assert children[0].wait() == 0


@pytest.mark.parametrize(("number", "status"), ENDING)
def test_an_interrupted_recording_closes_its_engines_and_says_how_to_resume(tmp_path, number, status):
    """The whole process group gets the signal, as from a terminal or a job scheduler."""
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "dreamenv", "collect", "take_cover", "--out", "d", "--steps", "1000000"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert wait_until(lambda: (tmp_path / "d" / "data" / "0").exists(), 60)
        engines = [pid for path in (tmp_path / "temporary").glob("dreamenv-*") for pid in processes_in(str(path))]
        assert engines
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=40)
    assert process.returncode == status
    assert "rerun the same command" in said
    assert "Traceback" not in said
    assert not any(map(is_running, engines))
    assert not [file for file in os.listdir(tmp_path / "temporary") if file.startswith("dreamenv")]
    assert not list((Path(tmp_path) / "d" / "pending").glob("workers-*"))

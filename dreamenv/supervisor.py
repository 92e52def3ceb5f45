"""Processes that end with the program that started them, however that ends: engines, displays, recording workers.

A program that is killed cannot clean up. So an engine is started by a supervisor, which is this file run as a script
(`supervised`): it ends the engine and removes its folder when the program dies (even by SIGKILL), when the supervisor
is told to (SIGTERM, or its standard input closes), or when the engine dies. If the supervisor itself is killed, Linux
ends the engine (PR_SET_PDEATHSIG). The engine inherits no file descriptors of the program, so that a pipe closes when
the program dies; and it is in a process group of its own, so that Ctrl-C reaches the program alone.

The script imports only the standard library. With ``reports``, it prints a line of JSON, {"engine": pid, "display":
number, "display_server": pid} or {"error": reason}, and at the end {"ended": exit codes, "log": end of the log}.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["close_descriptors_on_exec", "end_with_parent", "main", "supervised"]

_PR_SET_PDEATHSIG = 1
_LOG_TAIL = 2000  # characters of the log that are printed at the end
_TERMINATE_SECONDS = 5.0  # for the display to remove its socket
_POLL_SECONDS = 0.5 if hasattr(os, "pidfd_open") else 0.02  # where the death of a process wakes nobody, look often


def supervised(
    command: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    environment: Mapping[str, str] | None = None,
    display: Sequence[str] | None = None,
    display_seconds: float = 0.0,
    shared_memory: str | None = None,
    reports: bool = False,
) -> list[str]:
    """Return the command that runs an engine under a supervisor; arguments put after it are the engine's.

    Args:
        command: of the engine.
        folder: where it works; removed at the end.
        environment: its environment variables; None for ours.
        display: the command of an X server that is started before; it must take ``-displayfd``.
        display_seconds: time limit of that start.
        shared_memory: the argument of the engine after which the name follows that ends the names of its objects in
            /dev/shm; these are removed if the program dies.
        reports: write the output of the engine to ``folder/log.txt``, print the lines described above, and also end
            when the standard input closes.
    """
    config = {
        "command": list(command), "folder": os.fspath(folder), "parent": os.getpid(),
        "environment": None if environment is None else dict(environment),
        "display": None if display is None else list(display), "display_seconds": display_seconds,
        "shared_memory": shared_memory, "reports": reports,
    }  # fmt: skip
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), json.dumps(config)]


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have Linux send this process a signal when its parent dies, or rather the thread that started it.

    Does nothing on other systems.

    Args:
        parent: process id; if it is dead already, this process ends at once.
        number: of the signal.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def close_descriptors_on_exec() -> None:
    """Keep all open file descriptors but the standard ones from the programs that this process starts."""
    for number in _descriptors():
        with contextlib.suppress(OSError):
            os.set_inheritable(number, False)


def main(config: Mapping[str, Any], arguments: Sequence[str] = ()) -> int:
    """Start display and engine, wait, end them.

    Args:
        config: the arguments of `supervised`, and ``parent``, the id of the process whose death ends all.
        arguments: of the engine, after those in its command.

    Returns:
        The engine's exit status; 1 if it did not run.
    """
    _leave_the_program()
    environment = dict(os.environ if config["environment"] is None else config["environment"])
    children: dict[str, subprocess.Popen[bytes]] = {}
    started: dict[str, int] = {}
    log = None
    try:
        if config["reports"]:
            log = open(os.path.join(config["folder"], "log.txt"), "ab")  # noqa: SIM115 - the children keep it open
        if config["display"] is not None:
            number = _start_display(children, config, log, environment)
            if not number:
                _report(config, {"error": "its display, Xvfb, did not start"})
                return 1
            environment["DISPLAY"] = f":{number}"
            started = {"display": int(number), "display_server": children["display"].pid}
        command = [*config["command"], *arguments]
        children["engine"] = _start(command, config, log, environment, signal.SIGKILL)
        _report(config, {"engine": children["engine"].pid, **started})
        _wait(config["parent"], list(children.values()), [0] if config["reports"] else [])
    finally:
        exit_codes = {name: child.poll() for name, child in children.items()}
        _end(children, started.get("display"))
        with contextlib.suppress(OSError):  # the parent may be dead
            _report(config, {"ended": exit_codes, "log": _tail(config["folder"])})
        if os.getppid() != config["parent"]:
            _remove_shared_memory(config["shared_memory"], arguments)
        shutil.rmtree(config["folder"], ignore_errors=True)
    status = children["engine"].returncode
    return status if status >= 0 else 128 - status


def _leave_the_program() -> None:
    """Let go of what was inherited: descriptors, the process group, the working directory, signals."""
    for number in _descriptors():
        with contextlib.suppress(OSError):
            os.close(number)
    with contextlib.suppress(PermissionError):  # the leader of a session has left already
        os.setpgid(0, 0)
    os.chdir("/")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/dev/fd") if int(name) > 2]
    except OSError:
        return []


def _start_display(
    children: dict[str, subprocess.Popen[bytes]], config: Mapping[str, Any], log: Any, environment: Mapping[str, str]
) -> str:
    """Start the display; return its number, "" if it does not start in time."""
    read_end, write_end = os.pipe()
    command = [*config["display"], "-displayfd", str(write_end)]
    children["display"] = _start(command, config, log, environment, signal.SIGTERM, (write_end,))
    os.close(write_end)
    number = _read_line(read_end, config["display_seconds"])
    os.close(read_end)
    return number


def _start(
    command: Sequence[str],
    config: Mapping[str, Any],
    log: Any,
    environment: Mapping[str, str],
    on_death: signal.Signals,
    descriptors: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    supervisor = os.getpid()
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=descriptors, env=environment,
        cwd=config["folder"], preexec_fn=lambda: end_with_parent(supervisor, on_death),
    )  # fmt: skip


def _wait(parent: int, children: Sequence[subprocess.Popen[bytes]], lifelines: Sequence[int]) -> None:
    """Return when the parent or a child has died, or a lifeline was closed."""
    watched = [*lifelines]
    with contextlib.suppress(AttributeError, OSError):  # only Linux has it, from 5.3 on
        watched += [os.pidfd_open(child.pid) for child in children]
        watched.append(os.pidfd_open(parent))
    while os.getppid() == parent and all(child.poll() is None for child in children):
        for number in select.select(watched, [], [], _POLL_SECONDS)[0]:
            if number in lifelines and not os.read(number, 1):
                return


def _read_line(descriptor: int, seconds: float) -> str:
    """Return a line, or "" if none is complete in time. Xvfb writes its number and the line's end separately."""
    text, deadline = b"", time.monotonic() + seconds
    while not text.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(descriptor, 16) if ready else b""
        if not piece:
            return ""
        text += piece
    return text.decode().strip()


def _end(children: Mapping[str, subprocess.Popen[bytes]], display: int | None) -> None:
    if "engine" in children:
        children["engine"].kill()
        children["engine"].wait()
    if "display" in children:  # the last, so that it can remove its socket
        children["display"].terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            children["display"].wait(_TERMINATE_SECONDS)
        children["display"].kill()
        children["display"].wait()
    if display is not None:
        _remove_socket(f"/tmp/.X11-unix/X{display}")


def _remove_socket(path: str) -> None:
    """Remove the socket of a display that was killed, unless another display listens there now.

    There is no lock file to remove: Xvfb makes none when it chooses its number itself.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _remove_shared_memory(option: str | None, arguments: Sequence[str]) -> None:
    if option in arguments[:-1]:
        name = arguments[arguments.index(option) + 1]
        for path in glob.glob(f"/dev/shm/*{glob.escape(name)}") if name else ():
            with contextlib.suppress(OSError):
                os.unlink(path)


def _tail(folder: str) -> str:
    with open(os.path.join(folder, "log.txt"), errors="replace") as file:
        return file.read()[-_LOG_TAIL:]


def _report(config: Mapping[str, Any], message: Mapping[str, Any]) -> None:
    if config["reports"]:
        os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), sys.argv[2:]))

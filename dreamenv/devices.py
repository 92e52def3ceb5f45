"""Find devices by name, and refuse unavailable ones early; tell whether networks can be compiled for one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch

from dreamenv.errors import DeviceError

__all__ = ["compiler_problem", "find_device"]


def find_device(name: str | torch.device) -> torch.device:
    """Return the device of this name ("cpu", "cuda", "cuda:1", "mps").

    Raises:
        DeviceError: no such device on this machine; the message lists those available.
    """
    try:
        device = torch.device(name if isinstance(name, torch.device) else str(name))
    except RuntimeError as error:
        raise DeviceError(f"{name!r} is not the name of a device. Available: {', '.join(_available())}.") from error
    available = {
        "cpu": device.index in (None, 0),
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available() and device.index in (None, 0),
        "meta": False,
    }
    if not available.get(device.type, True):
        raise DeviceError(f"device {str(name)!r} is not available here. Available: {', '.join(_available())}.")
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise DeviceError(
            f"device {str(name)!r} cannot be used in a process that was forked from one that used it. Spawn processes "
            "instead: vector_kwargs={'context': 'spawn'} for gymnasium.make_vec."
        )
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def compiler_problem(device: torch.device) -> str | None:
    """Return why `torch.compile` cannot work for a device on this machine, and what would help; None if it can."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "there is no Triton; install the package triton."
    kind, variable = ("C", "CC") if device.type == "cuda" else ("C++", "CXX")
    usual = {"C": ("gcc", "clang", "cc"), "C++": ("clang++" if sys.platform == "darwin" else "g++",)}[kind]
    wanted = (os.environ[variable].split()[0],) if os.environ.get(variable, "").strip() else usual
    if not any(shutil.which(name) for name in wanted):
        return (
            f"there is no {kind} compiler ({', '.join(wanted)}); install one (apt-get install g++) or name one in the "
            f"environment variable {variable}."
        )
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's header files are missing; install them (apt-get install python3-dev)."
    return None


def _available() -> list[str]:
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def _compute_on_one_thread() -> None:
    """Let a forked process compute without torch's threads, which a fork does not copy: it would wait for them."""
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_compute_on_one_thread)

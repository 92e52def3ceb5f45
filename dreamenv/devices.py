"""Find devices by name, and refuse unavailable ones early."""

from __future__ import annotations

import torch

from dreamenv.errors import DeviceError

__all__ = ["find_device"]


def find_device(name: str | torch.device) -> torch.device:
    """Return the device of this name ("cpu", "cuda", "cuda:1", "mps").

    Raises:
        DeviceError: no such device on this machine; the message lists those available.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"{name!r} is not the name of a device. Available: {', '.join(_available())}.") from error
    available = {
        "cpu": device.index in (None, 0),
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available() and device.index in (None, 0),
        "meta": False,
    }
    if not available.get(device.type, True):
        raise DeviceError(f"device {str(name)!r} is not available here. Available: {', '.join(_available())}.")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def _available() -> list[str]:
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names

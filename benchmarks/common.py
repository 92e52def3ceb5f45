"""Tools of all benchmarks: facts of the machine, the commit, fair timing, results written as JSON.

A result is a claim about one commit on one machine; `envelope` records both with the figures. Two things are
compared by running them in turn within the same process, because a shared machine changes speed by the minute:
`interleaved` times each candidate once per round and takes ratios within rounds.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamenv.errors import ConfigError
from dreamenv.metrics.statistics import mean_iqm_interval
from dreamenv.storage import read_json, seal, unseal, write_file
from dreamenv.training.record import differences

__all__ = [
    "Comparison",
    "Timing",
    "cached",
    "claim",
    "commit",
    "envelope",
    "interleaved",
    "machine",
    "peak_memory_mib",
    "print_table",
    "read_result",
    "write_json",
]

_DIGITS = 12  # of a key's digest in a file's name
_PACKAGES = ("dreamenv", "torch", "gymnasium", "stable-baselines3", "tensordict", "numpy", "vizdoom")


def machine() -> dict[str, Any]:
    """Return what figures of speed depend on: processor, cores, threads, memory, accelerator, versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def commit() -> str | None:
    """Return the commit of the source tree this code runs from, with "+changes" if it was edited; None outside git."""
    folder = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != folder:
            return None  # installed into another repository
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def envelope(benchmark: str, results: Any, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Wrap results with what is needed to judge and repeat them."""
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": commit(),
        "machine": machine(),
        "settings": dict(settings or {}),
        "results": results,
    }


def write_json(path: str | Path, values: Any) -> Path:
    """Write JSON so that a reader finds the old file or the new one, never half of one.

    Raises:
        StorageError: the disk refused; what was there is untouched.
    """
    path = Path(path)
    text = json.dumps(values, indent=2, default=_plain, allow_nan=False) + "\n"
    write_file(path, text.encode())
    return path


def read_result(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote when this ran before.

    Raises:
        ConfigError: it cannot be read.
    """
    values: dict[str, Any] = read_json(path, ConfigError, "Delete it and run again; it is measured again.")
    return values


def cached(folder: Path, name: str, key: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Measure something once for each key, and keep it; nothing is ever looked up by its name alone.

    Args:
        folder: where results are kept, as ``<name>-<digest of the key>.json``.
        name: of the result, for readers.
        key: all that the result depends on, JSON values.
        measure: returns the result, JSON values.

    Raises:
        ConfigError: the result that was kept cannot be read, or was altered.
        StorageError: the disk refused.
    """
    known = _as_json(key)
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    path = folder / f"{name}-{digest[:_DIGITS]}.json"
    if not path.exists():
        write_json(path, seal(_as_json({"key": known, "result": measure()})))
    remedy = "Delete it and run again; it is measured again."
    result: dict[str, Any] = unseal(read_result(path), path, ConfigError, remedy)["result"]
    return result


def claim(path: Path, key: Mapping[str, Any]) -> None:
    """Write down what a folder will be made from, or check that it was made from the same.

    Args:
        path: of the JSON file that says it, in or beside the folder.
        key: all that the folder's content depends on, JSON values.

    Raises:
        ConfigError: it was made from something else, or the file cannot be read.
        StorageError: the disk refused.
    """
    known = _as_json(key)
    if not path.exists():
        write_json(path, known)
        return
    different = differences(read_result(path), known)
    if different:
        raise ConfigError(
            f"{path.parent} was made in another way ({'; '.join(different)[:500]}). Choose another folder, or delete "
            "that one."
        )


def _as_json(values: Any) -> Any:
    return json.loads(json.dumps(values, sort_keys=True, default=_plain))


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How fast one candidate ran.

    Attributes:
        rate: units of work per second, the median over rounds.
        low, high: 95% bootstrap interval of the mean rate over rounds.
        rounds: how often it was timed.
    """

    rate: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Candidates timed in turn.

    Attributes:
        timings: by name.
        ratios: rate relative to the first candidate, the median of the ratios within rounds.
    """

    timings: dict[str, Timing]
    ratios: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"timings": {name: vars(timing) for name, timing in self.timings.items()}, "ratios": self.ratios}


def interleaved(
    candidates: Mapping[str, Callable[[], float]],
    *,
    rounds: int = 5,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time candidates round after round, each once per round, in an order that rotates.

    Args:
        candidates: name -> function that does some work and returns how many units it did. It must itself wait for
            its device.
        rounds: timed rounds.
        warm_up: rounds before them, not counted.
        clock: seconds; `time.process_time` counts those of the processor, on which a busy machine has less influence.
    """
    if not candidates or rounds < 1:
        raise ConfigError(f"timing needs a candidate and at least one round, not {len(candidates)} and {rounds}.")
    names = list(candidates)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            began = clock()
            work = candidates[name]()
            rate = work / max(clock() - began, 1e-9)
            if turn >= 0:
                rates[name].append(rate)
    timings = {}
    for name in names:
        low, high = mean_iqm_interval(rates[name]).mean_interval
        timings[name] = Timing(rate=float(np.median(rates[name])), low=low, high=high, rounds=rounds)
    first = np.asarray(rates[names[0]])
    return Comparison(
        timings=timings, ratios={name: float(np.median(np.asarray(rates[name]) / first)) for name in names}
    )


def peak_memory_mib() -> float:
    """Return the most memory this process has ever held resident, in MiB (2**20 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes, Linux KiB


def print_table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Print rows under a header as a Markdown table; floats with four digits."""
    cells = [header, *(tuple(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print("\n".join(lines))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | torch.Tensor):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "to_json"):
        return value.to_json()
    raise TypeError(f"{type(value).__name__} is not JSON.")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

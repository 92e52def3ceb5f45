"""Print what the worlds in the package are worth, from the measures that each carries: a second.

    python -m dreamenv.benchmarks.shipped_worlds

Objects are those of the real frame that the dream shows at their places 1 and 8 steps after it stopped seeing reality,
in brackets those that the codec alone keeps; actions, how often they are told from the dream as a share of how often
from reality, mean of steps 1 to 30; sharpness, the gradient energy at step 100 as a share of reality's. Measured by
``python -m dreamenv.benchmarks.fidelity --into-world`` on episodes that no world was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from dreamenv.benchmarks.common import print_table
from dreamenv.errors import UnknownNameError
from dreamenv.shipped import shipped_worlds

__all__ = ["ShippedWorlds", "main", "row_of"]

HEADER = (
    "world",
    "minutes of a core",
    "MB",
    "objects, 1 step",
    "8 steps",
    "actions",
    "sharpness",
    "PSNR, 1, 10, 30, 100",
)
_STEPS = ("1", "10", "30", "100")


@dataclass(frozen=True, kw_only=True)
class ShippedWorlds:
    """Which worlds.

    Attributes:
        names: of worlds in the package; empty for all.
    """

    names: tuple[str, ...] = ()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    settings = tyro.cli(ShippedWorlds, args=arguments, description=__doc__)
    folders = shipped_worlds()
    for name in settings.names:
        if name not in folders:
            raise UnknownNameError("world in the package", name, folders)
    print_table(HEADER, [row_of(name, folders[name]) for name in settings.names or folders])


def row_of(name: str, folder: Path) -> tuple[str, ...]:
    """Return the row of a world's folder; a dash stands for what was not measured."""
    description = json.loads((folder / "world.json").read_text())
    metrics, record = description.get("metrics", {}), description.get("record", {})
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    return (
        name,
        f"{record.get('seconds', 0) / 60:.0f}",
        f"{megabytes:.1f}",
        *(_objects(metrics, step) for step in ("1", "8")),
        _actions(metrics),
        _percent(metrics.get("drift", {}).get("100", {}).get("gradient_energy_ratio")),
        ", ".join(
            f"{entry['psnr']['mean']:.1f}" for step in _STEPS if (entry := metrics.get("horizons", {}).get(step))
        ),
    )


def _objects(metrics: Mapping[str, Any], step: str) -> str:
    entry = metrics.get("objects", {}).get("steps", {}).get(step, {})
    dream, codec = (_mean((entry.get(place) or {}).get("found")) for place in ("dream", "codec"))
    return "-" if dream is None else f"{_percent(dream)} ({_percent(codec)})"


def _actions(metrics: Mapping[str, Any]) -> str:
    steps = metrics.get("actions", {}).get("steps", {})
    shares = [share for entry in steps.values() if (share := _mean(entry.get("share"))) is not None]
    return _percent(sum(shares) / len(shares) if shares else None)


def _mean(interval: Mapping[str, float] | None) -> float | None:
    return None if interval is None else interval["mean"]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


if __name__ == "__main__":
    main()

"""The measures of a world as one table that a newcomer can read, for reports, model cards and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["HOW_TO_READ", "summary_table"]

HOW_TO_READ = (
    "Each row is so many steps after the world stopped seeing reality. Objects: the share of the small things in the "
    "real frame that the dream shows at their places; in brackets, what the world's picture codec alone keeps of them, "
    "the most that could be shown. Actions: how often a network that was trained on real frames tells from the dream "
    "which action was taken, as a share of how often it can from reality. Sharpness: of edges, against reality; 100% "
    "is as sharp, less is blurred. PSNR: how close the pixels are, in decibels, more is closer; in brackets, that of "
    "simply showing the last seen frame again. A dash was not measured."
)

Metrics = Mapping[str, Any]


def summary_table(metrics: Metrics) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a header and rows of text, one row per step into the dream; without what no row has.

    Args:
        metrics: of a world: entries of `dreamenv.metrics.fidelity.fidelity`, ``objects`` of
            `dreamenv.metrics.objects.object_fidelity` and ``actions`` of `dreamenv.metrics.rollouts.rollout_fidelity`,
            any of which may be missing.
    """
    columns = {
        f"{', '.join(metrics.get('objects', {}).get('kinds', ('objects',)))} (codec)": _objects(metrics),
        "actions": _actions(metrics),
        "sharpness": {
            step: _percent(entry.get("gradient_energy_ratio")) for step, entry in metrics.get("drift", {}).items()
        },
        "PSNR (last frame again)": {
            step: f"{entry['psnr']['mean']:.1f} ({entry['persistence_psnr']['mean']:.1f})"
            for step, entry in metrics.get("horizons", {}).items()
        },
    }
    columns = {name: cells for name, cells in columns.items() if any(cell != "-" for cell in cells.values())}
    steps = sorted({step for cells in columns.values() for step in cells}, key=int)
    rows = [(step, *(cells.get(step, "-") for cells in columns.values())) for step in steps]
    return ("step", *columns), rows


def _objects(metrics: Metrics) -> dict[str, str]:
    cells = {}
    for step, entry in metrics.get("objects", {}).get("steps", {}).items():
        dream, codec = entry["dream"]["found"], entry.get("codec", {}).get("found")
        cells[step] = "-" if dream is None else _percent(dream["mean"]) + (
            f" ({_percent(codec['mean'])})" if codec else ""
        )  # fmt: skip
    return cells


def _actions(metrics: Metrics) -> dict[str, str]:
    steps = metrics.get("actions", {}).get("steps", {})
    return {step: _percent((entry["share"] or {}).get("mean")) for step, entry in steps.items()}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"

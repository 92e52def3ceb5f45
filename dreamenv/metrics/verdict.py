"""What a world is worth, in one line: against repeating the last frame, which any world should beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["fidelity_verdict", "worse_horizons"]

_SHOWN = (1, 30)


def worse_horizons(metrics: Mapping[str, Any]) -> list[int]:
    """Return the steps into the dream, of those shown, at which its PSNR is below that of repeating the last frame."""
    return [step for step, entry in _shown(metrics).items() if entry["psnr_gain"]["mean"] < 0]


def fidelity_verdict(metrics: Mapping[str, Any]) -> str:
    """Return one line that compares a world's PSNR with that of repeating the last frame, 1 and 30 steps ahead.

    Args:
        metrics: of a world, see `dreamenv.metrics.fidelity.fidelity`; where episodes are shorter than 30 steps, the
            longest horizon that was measured stands for it.
    """
    shown = _shown(metrics)
    if not shown:
        return "The world was not compared with repeating the last frame: no episode was held out."
    steps = "; ".join(
        f"{step} step{'s' if step > 1 else ''} ahead {entry['psnr']['mean']:.1f} dB PSNR against "
        f"{entry['persistence_psnr']['mean']:.1f}"
        for step, entry in shown.items()
    )
    worse = worse_horizons(metrics)
    where = " and ".join(f"{step} step{'s' if step > 1 else ''}" for step in worse)
    warning = (
        f" WARNING: worse than repeating the last frame at {where}; train longer, on more recorded steps, or a larger "
        "model."
        if worse
        else ""
    )
    return f"World against repeating the last frame, held-out episodes: {steps}.{warning}"


def _shown(metrics: Mapping[str, Any]) -> dict[int, Any]:
    measured = {int(step): entry for step, entry in metrics.get("horizons", {}).items()}
    chosen = {max((step for step in measured if step <= wanted), default=None) for wanted in _SHOWN}
    return {step: measured[step] for step in sorted(step for step in chosen if step is not None)}

"""The infos of a batch of dreams, as gymnasium lays them out.

``name`` holds values (b,), and ``_name`` says (b,) which rows have one; the others' are 0. The names are the same in
every `reset` and `step`. Dreams that ended and restarted within one step leave their last observation and infos in
``final_obs`` and ``final_info``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Infos", "first_infos", "keep_final", "restart_infos", "step_infos"]

Infos: TypeAlias = dict[str, Any]
Rows = NDArray[np.int64]


def step_infos(start: Rows, values: dict[str, NDArray[np.float32]]) -> Infos:
    """Return the infos of a step.

    Args:
        start: (b,) which start each row's dream began with.
        values: (b,) each. They become float64, as gymnasium makes an array of Python's numbers.
    """
    infos: Infos = {"start": start, **{name: value.astype(np.float64) for name, value in values.items()}}
    return {**infos, **{f"_{name}": np.ones(len(start), dtype=np.bool_) for name in infos}}


def first_infos(start: Rows, mask: NDArray[np.bool_], names: list[str]) -> Infos:
    """Return the infos of the masked rows (b,), whose dreams begin; no step has given the named values yet."""
    infos: Infos = {"start": np.where(mask, start, 0), **{name: np.zeros(len(start)) for name in names}}
    return {**infos, **{f"_{name}": mask.copy() for name in infos}}


def restart_infos(infos: Infos, start: Rows, rows: Rows) -> None:
    """Let rows that begin another dream say how it starts (b,), and nothing of a step."""
    for name in _own_names(infos):
        infos[name][rows] = 0
    infos["start"][rows] = start[rows]


def keep_final(infos: Infos, final_observations: Any, mask: NDArray[np.bool_]) -> None:
    """Keep what the masked rows (b,) showed and said last, as gymnasium's SAME_STEP autoreset asks.

    Observations that are an array become an array of objects, as gymnasium has them; tensors stay as they are.
    """
    if isinstance(final_observations, np.ndarray):
        shown = np.full(len(mask), None, dtype=object)
        for row in np.flatnonzero(mask):
            shown[row] = final_observations[row].copy()
        final_observations = shown
    final: Infos = {}
    for name in _own_names(infos):
        final[name], final[f"_{name}"] = np.where(mask, infos[name], 0), mask.copy()
    infos.update(final_obs=final_observations, _final_obs=mask, final_info=final, _final_info=mask.copy())


def _own_names(infos: Infos) -> list[str]:
    return [name for name in infos if not name.startswith(("_", "final_"))]

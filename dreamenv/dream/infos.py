"""The infos of a batch of dreams, as gymnasium lays them out.

``name`` holds values (b,), and ``_name`` says (b,) which rows have one. Dreams that ended and restarted within one step
leave their last observation and infos in ``final_obs`` and ``final_info``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Infos", "add_starts", "make_infos", "move_to_final", "row_mask"]

Infos: TypeAlias = dict[str, Any]
Rows = NDArray[np.int64]


def make_infos(values: dict[str, NDArray[Any]], mask: NDArray[np.bool_]) -> Infos:
    """Return values (b,) with a mask (b,) for each."""
    return {**values, **{f"_{name}": mask.copy() for name in values}}


def add_starts(infos: Infos, starts: Infos, rows: Rows) -> None:
    """Let rows that start a dream say how it starts, and nothing of a step."""
    for name in _own_names(infos):
        infos[f"_{name}"][rows] = False
    infos.update(starts)


def move_to_final(infos: Infos, final_observations: Any, mask: NDArray[np.bool_]) -> None:
    """Keep what the masked rows (b,) showed and said last, as gymnasium's SAME_STEP autoreset asks."""
    final: Infos = {}
    for name in _own_names(infos):
        final[name], final[f"_{name}"] = infos[name].copy(), infos[f"_{name}"] & mask
    infos.update(final_obs=final_observations, _final_obs=mask, final_info=final, _final_info=mask.copy())


def row_mask(rows: Rows, num_envs: int) -> NDArray[np.bool_]:
    """Return a mask (b,) of these rows."""
    mask = np.zeros(num_envs, dtype=np.bool_)
    mask[rows] = True
    return mask


def _own_names(infos: Infos) -> list[str]:
    return [name for name in infos if not name.startswith(("_", "final_"))]

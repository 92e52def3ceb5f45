"""The last steps of every row, as entries of a state: what a revision starts from.

Slot l - 1 is the newest step, and ``age`` tells how many slots are of this dream. Every slot keeps what was before its
step, so the oldest one is an anchor from which all of them can be run anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamenv.tensordicts import TensorDict
from dreamenv.world_model import State

__all__ = ["empty_history", "pushed"]


def empty_history(state: State, steps: int, classes: int, action: Tensor) -> TensorDict:
    """Return the history of rows that have just started.

    Args:
        state: theirs, of ``deter`` (b, d) and ``stoch`` (b, v).
        steps: l.
        classes: k, of each of the v variables.
        action: (*a) one of the type that the world takes.

    Returns:
        ``probs`` (b, l, v, k) float32, the posterior's of the frame, 0 where none was seen; ``seen`` (b, l) bool;
        ``action`` (b, l, *a) what led to it; ``deter`` (b, l, d) and ``stoch`` (b, l, v), the memory before the step;
        ``age`` (b,) int64, how many steps there were, at most l.
    """
    deter, stoch = state["deter"], state["stoch"]
    rows, device = len(deter), deter.device
    return TensorDict(
        {
            "probs": torch.zeros(rows, steps, stoch.shape[1], classes, device=device),
            "seen": torch.zeros(rows, steps, dtype=torch.bool, device=device),
            "action": action.to(device).expand(rows, steps, *action.shape).clone(),
            "deter": deter.new_zeros(rows, steps, deter.shape[1]),
            "stoch": stoch.new_zeros(rows, steps, stoch.shape[1]),
            "age": torch.zeros(rows, dtype=torch.int64, device=device),
        },
        batch_size=[rows],
    )


def pushed(
    history: TensorDict, actions: Tensor, before: Sequence[tuple[Tensor, Tensor]], probs: Tensor | None
) -> TensorDict:
    """Return the history after t more steps.

    Args:
        history: as it was.
        actions: (b, t, *a).
        before: deter (b, d) and latent (b, v) before each of them.
        probs: (b, t, v, k) the posterior's probabilities of the frames; None where none was seen.
    """
    rows, t = actions.shape[:2]
    steps, (_, _, variables, classes) = history["seen"].shape[1], history["probs"].shape
    if probs is None:
        probs = history["probs"].new_zeros(rows, t, variables, classes)
        seen = history["seen"].new_zeros(rows, t)
    else:
        seen = history["seen"].new_ones(rows, t)
    new = {
        "probs": probs,
        "seen": seen,
        "action": actions,
        "deter": torch.stack([deter for deter, _ in before], dim=1),
        "stoch": torch.stack([latent for _, latent in before], dim=1),
    }
    joined = {name: torch.cat((history[name], value), dim=1)[:, -steps:].contiguous() for name, value in new.items()}
    return TensorDict({**joined, "age": (history["age"] + t).clamp_max(steps)}, batch_size=[rows])

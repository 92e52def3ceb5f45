"""Rewards of dreams from a function of the user's, instead of the world's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dreamenv.errors import ConfigError

__all__ = ["RewardFunction", "compute_rewards"]

RewardFunction: TypeAlias = Callable[[NDArray[np.uint8], Any], Any]
"""Frames (b, h, w, c) uint8 that a step led to, and the actions (b, *a) that led there, to rewards (b,)."""


def compute_rewards(function: RewardFunction, frames: Tensor, actions: Any) -> NDArray[np.float32]:
    """Return a function's rewards (b,) of frames (b, h, w, c), handing it arrays of its own.

    Raises:
        ConfigError: it returned something else than a finite number per row.
    """
    host = actions.detach().cpu().numpy() if isinstance(actions, Tensor) else actions
    rewards = np.asarray(function(frames.cpu().numpy().copy(), host), dtype=np.float32)
    if rewards.shape != (len(frames),) or not np.isfinite(rewards).all():
        raise ConfigError(f"reward_fn must return {len(frames)} finite numbers, not {rewards!r}.")
    return rewards

"""Rewards of dreams from a function of the user's, instead of the world's own; and the penalty for uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dreamenv.checks import to_array
from dreamenv.dream.config import DreamConfig
from dreamenv.errors import ConfigError
from dreamenv.world_model import WorldModel

__all__ = ["RewardFunction", "compute_rewards", "step_info_names"]

RewardFunction: TypeAlias = Callable[[NDArray[np.uint8], Any], Any]
"""Frames (b, h, w, c) uint8 that a step led to, and the actions (b, *a) that led there, to rewards (b,).

Actions are laid out as `dreamenv.action_layout` says, whatever form they were handed to `step` in.
"""


def compute_rewards(function: RewardFunction, frames: Tensor, actions: Tensor) -> NDArray[np.float32]:
    """Return a function's rewards (b,) of frames (b, h, w, c) and actions (b, *a), handing it arrays of its own.

    Raises:
        ConfigError: it returned something else than a finite number per row.
    """
    given = function(frames.cpu().numpy().copy(), actions.cpu().numpy().copy())
    rewards = to_array("what reward_fn returns", given, error=ConfigError)
    fits = rewards.shape == (len(frames),) and rewards.dtype.kind in "fiub"
    if not fits or not np.isfinite(numbers := rewards.astype(np.float32)).all():
        raise ConfigError(f"reward_fn must return {len(frames)} finite numbers, not {given!r}.")
    return numbers


def step_info_names(model: WorldModel, config: DreamConfig, kind: str) -> list[str]:
    """Return the names of the infos that steps give values to.

    Args:
        model: the world.
        config: how it is dreamt.
        kind: the world's, for the error.

    Raises:
        ConfigError: uncertainty matters, and the world estimates none.
    """
    if model.estimates_uncertainty:
        penalised = ["imagined_reward"] if config.uncertainty_penalty else []
        return ["termination_probability", "uncertainty", *penalised]
    if config.uncertainty_penalty or config.max_uncertainty is not None:
        raise ConfigError(f"a {kind} estimates no uncertainty; leave uncertainty_penalty and max_uncertainty out.")
    return ["termination_probability"]

"""Persistence: the last frame again. The floor that every world has to beat.

It has no parameters; its reward is the training data's mean and its termination probability the data's rate, kept as
buffers that `calibrate` sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import repeat
from torch import Tensor

from dreamenv.world_model import (
    BackboneConfig,
    DataStatistics,
    Imagined,
    Stage,
    State,
    WorldModel,
    WorldModelSpec,
    check_actions,
    check_first_frame,
    check_frames,
    check_state,
    new_state,
)

__all__ = ["PRESETS", "Persistence", "PersistenceConfig"]


@dataclass(frozen=True, kw_only=True)
class PersistenceConfig(BackboneConfig, kind="persistence"):
    """Nothing to set."""

    def build(self, spec: WorldModelSpec) -> Persistence:
        """See `BackboneConfig`."""
        return Persistence(spec)


class Persistence(WorldModel):
    """A world in which nothing ever changes. State: ``frame`` (b, c, h, w)."""

    reward: Tensor
    termination: Tensor

    def __init__(self, spec: WorldModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("reward", torch.zeros(()))
        self.register_buffer("termination", torch.zeros(()))

    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        """Remember the first frame."""
        check_first_frame(self.spec, first_frame, seed)
        return new_state(seed, {"frame": first_frame.clone()})

    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        """Remember the last frame."""
        check_actions(self.spec, actions)
        check_frames(self.spec, actions, frames)
        check_state(state, actions, ("frame",))
        return _advanced(state, frames[:, -1].clone(), actions.shape[1])

    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        """Show the remembered frame again."""
        check_actions(self.spec, actions)
        check_state(state, actions, ("frame",))
        b, k = actions.shape[:2]
        imagined = Imagined(
            frames=repeat(state["frame"], "b c h w -> b k c h w", k=k).clone() if decode else None,
            rewards=self.reward.expand(b, k),
            termination=self.termination.expand(b, k),
        )
        return imagined, _advanced(state, state["frame"], k)

    def stages(self) -> Sequence[Stage]:
        """Nothing to train."""
        return ()

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the mean reward and the rate of terminations."""
        self.reward.fill_(statistics.reward_mean)
        self.termination.fill_(statistics.termination_rate)


def _advanced(state: State, frame: Tensor, steps: int) -> State:
    following = state.copy()
    following["frame"] = frame
    following["rng_counter"] = state["rng_counter"] + steps
    return following


PRESETS = {"default": PersistenceConfig}

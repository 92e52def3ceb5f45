"""No rewards and no terminations, for worlds of published weights that predict frames alone."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.heads.base import Head, HeadConfig, HeadOutput
from dreamenv.world_model import Batch, DataStatistics

__all__ = ["NoRewardHead", "NoRewardHeadConfig"]


@dataclass(frozen=True, kw_only=True)
class NoRewardHeadConfig(HeadConfig, kind="no_reward"):
    """Settings: only what is seen of a frame.

    Attributes:
        sight: places per side that a frame is averaged to, for a policy that reads `Head.embed`.

    Raises:
        ConfigError: no place.
    """

    sight: int = 8
    predicts_rewards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.sight < 1:
            raise ConfigError(f"sight must be at least 1, not {self.sight}.")

    def build(self, frame_shape: tuple[int, int, int], action_size: int) -> NoRewardHead:
        """See `HeadConfig`."""
        del action_size
        return NoRewardHead(self, frame_shape)


class NoRewardHead(Head):
    """Rewards of 0, and no termination ever.

    Args:
        config: what is seen of a frame.
        frame_shape: (c, h, w).
    """

    def __init__(self, config: NoRewardHeadConfig, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.sight, self.entries = config.sight, {}
        self.embedding_size = frame_shape[0] * config.sight**2

    def embed(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the present frame, small: (b, embedding_size)."""
        return functional.adaptive_avg_pool2d(state["frame"], self.sight).flatten(1)

    def follow(self, state: MutableMapping[str, Tensor], actions: Tensor, frames: Tensor) -> HeadOutput:
        """Return zeros (b, t)."""
        del state, actions
        zeros = torch.zeros(frames.shape[:2], device=frames.device)
        return HeadOutput(rewards=zeros, termination=zeros)

    def calibrate(self, statistics: DataStatistics) -> None:
        """Nothing is learned."""

    def loss(self, actions: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Nothing is learned."""
        raise NotImplementedError("a head without rewards has no stage to train")

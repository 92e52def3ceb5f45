"""No rewards and no endings, for worlds of published weights that foretell frames alone."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.world_model import Batch, DataStatistics

__all__ = ["Silent", "SilentSizes"]


@dataclass(frozen=True, kw_only=True)
class SilentSizes:
    """Nothing to size but what is seen of a frame.

    Attributes:
        kind: "silent".
        sight: places per side that a frame is averaged to, for a policy that reads `embed`.
    """

    kind: str = "silent"
    sight: int = 8

    def events(self, config: DenoisingConfig, frame_shape: tuple[int, int, int], action_size: int) -> nn.Module:
        """Make it."""
        del config, action_size
        return Silent(self, frame_shape)


class Silent(nn.Module):
    """Rewards of 0, and no ending ever; see `dreamenv.backbones.denoising.events.Events` for what it is asked.

    Args:
        sizes: what is seen of a frame.
        frame_shape: (c, h, w).
    """

    def __init__(self, sizes: SilentSizes, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.sight, self.entries = sizes.sight, dict[str, int]()
        self.embedding_size = frame_shape[0] * sizes.sight**2

    def embed(self, state: MutableMapping[str, Tensor]) -> Tensor:
        """The present frame, small: (b, embedding_size)."""
        return functional.adaptive_avg_pool2d(state["frame"], self.sight).flatten(1)

    def follow(self, state: MutableMapping[str, Tensor], actions: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros (b, t), twice."""
        del state, actions
        nothing = torch.zeros(frames.shape[:2], device=frames.device)
        return nothing, nothing

    def calibrate(self, statistics: DataStatistics) -> None:
        """Nothing is learned."""

    def loss(self, actions: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Nothing is learned."""
        raise NotImplementedError("a silent world has no stage that learns rewards")

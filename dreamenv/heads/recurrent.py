"""A recurrent head: convolutions look at each frame, a gated recurrent unit remembers, and an MLP predicts.

State: ``hidden`` (b, hidden_size).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dreamenv.errors import ConfigError
from dreamenv.heads.base import Head, HeadConfig, HeadOutput, HeadTraining
from dreamenv.heads.reward_termination import RewardTerminationHeadConfig
from dreamenv.nn.dropout import dropout
from dreamenv.nn.pixels import FrameEncoder
from dreamenv.nn.precision import Linear, autocast
from dreamenv.nn.recurrence import GRU
from dreamenv.world_model import Batch, DataStatistics

__all__ = ["RecurrentHead", "RecurrentHeadConfig"]

_PATCHES = {"frame": 4, "latent": 2}  # pixels or places per side that the first convolution takes at once


@dataclass(frozen=True, kw_only=True)
class RecurrentHeadConfig(HeadConfig, kind="recurrent_head"):
    """Settings.

    Attributes:
        hidden_size: width of the recurrent memory.
        channels: of the convolutions, finest stage first.
        watches: what it sees: the "frame", or the codec's "latent" of it, which is the cheaper.
        dropout: share of the memory hidden from the predictions while training; terminations are few, and without it
            they are learned by heart.
        prediction: what reads the memory.
        training: the stage that learns it.

    Raises:
        ConfigError: a size or share that cannot be.
    """

    hidden_size: int = 256
    channels: tuple[int, ...] = (32, 48, 64)
    watches: Literal["frame", "latent"] = "frame"
    dropout: float = 0.2
    prediction: RewardTerminationHeadConfig = RewardTerminationHeadConfig(hidden_size=256)
    training: HeadTraining = HeadTraining()

    def __post_init__(self) -> None:
        if self.hidden_size < 1:
            raise ConfigError(f"hidden_size must be at least 1, not {self.hidden_size}.")
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be positive, at least one, not {self.channels}.")
        if self.watches not in _PATCHES:
            raise ConfigError(f"watches must be one of {', '.join(_PATCHES)}, not {self.watches!r}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), not {self.dropout}.")

    @property
    def stage(self) -> HeadTraining:
        """See `HeadConfig`."""
        return self.training

    def build(self, frame_shape: tuple[int, int, int], action_size: int) -> RecurrentHead:
        """See `HeadConfig`."""
        return RecurrentHead(self, frame_shape, action_size)


class RecurrentHead(Head):
    """The head.

    Args:
        config: its settings.
        frame_shape: (c, h, w) of what it watches.
        action_size: width of an action's vector.

    Raises:
        ConfigError: a frame whose sides are no multiples of 4, or latents whose sides are odd.
    """

    def __init__(self, config: RecurrentHeadConfig, frame_shape: tuple[int, int, int], action_size: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.config, self.entries, self.embedding_size = config, {"hidden": size}, 2 * size
        self.encoder = FrameEncoder(frame_shape, config.channels, patch=_PATCHES[config.watches])
        self.frame_proj = nn.Sequential(Linear(self.encoder.features, size), nn.LayerNorm(size), nn.SiLU())
        self.gru_proj = Linear(size + action_size, 3 * size)
        self.gru = GRU(size)
        self.prediction = config.prediction.build(size)

    def embed(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the memory, and what is seen in the present frame."""
        return torch.cat((state["hidden"], self._see(state[self.config.watches])), dim=-1)

    def follow(self, state: MutableMapping[str, Tensor], actions: Tensor, frames: Tensor) -> HeadOutput:
        """See `Head`."""
        before = torch.cat((state[self.config.watches][:, None], frames[:, :-1]), dim=1)
        inputs = self._inputs(before, actions)
        path = []
        for new in inputs.unbind(dim=1):
            state["hidden"] = self.gru.step(new, state["hidden"])
            path.append(state["hidden"])
        predicted: HeadOutput = self.prediction(torch.stack(path, dim=1))
        return predicted

    def calibrate(self, statistics: DataStatistics) -> None:
        """See `Head`."""
        self.prediction.calibrate(statistics)

    def loss(self, actions: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Head`."""
        if batch.features is None:
            before = torch.cat((batch.first_frame[:, None], batch.frames[:, :-1]), dim=1)
        else:
            before = batch.features[:, :-1].float()
        with autocast(actions.device, self.config.training.bfloat16 and self.training):
            path = self.gru(self._inputs(before, actions))
            if self.training:
                path = dropout(path, self.config.dropout, batch.generator)
            return self.prediction.loss(path, batch)

    def _inputs(self, frames: Tensor, actions: Tensor) -> Tensor:
        """Frames (b, t, c, h, w) and the vectors (b, t, a) of the actions taken there -> (b, t, 3 hidden_size)."""
        seen = self._see(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        projected: Tensor = self.gru_proj(torch.cat((seen, actions), dim=-1))
        return projected

    def _see(self, frames: Tensor) -> Tensor:
        """Frames (n, c, h, w), or latents, -> (n, hidden_size)."""
        seen: Tensor = self.frame_proj(self.encoder(frames))
        return seen

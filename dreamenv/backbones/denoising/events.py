"""What happens beside the frames: a recurrent memory that foretells rewards and endings.

It reads each frame and the action taken there, and speaks before the next frame is drawn: so the frame on which an
episode ends is never needed, and rewards cost no denoising.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.nn.pixels import FrameEncoder
from dreamenv.nn.precision import Linear
from dreamenv.nn.recurrence import GRU
from dreamenv.nn.twohot import TwoHot
from dreamenv.world_model import Batch, DataStatistics

__all__ = ["Events"]


class Events(nn.Module):
    """Reward and ending of each step.

    Args:
        config: its widths.
        shape: (c, h, w) of what it sees, frames or latents.
        action_size: width of an action's vector.

    Attributes:
        entries: name -> width of what it keeps in the state, (b, width) each.
        embedding_size: of `embed`.
    """

    def __init__(self, config: DenoisingConfig, shape: tuple[int, int, int], action_size: int) -> None:
        super().__init__()
        self.config, self.entries, self.embedding_size = config, {"memory": config.memory}, 2 * config.memory
        self.encoder = FrameEncoder(shape, config.event_channels, patch=4 if config.events_see == "frame" else 2)
        width = config.memory
        self.glance = nn.Sequential(Linear(self.encoder.features, width), nn.LayerNorm(width), nn.SiLU())
        self.enter = Linear(width + action_size, 3 * width)
        self.recurrence = GRU(width)
        self.bins = TwoHot()
        self.reward = nn.Sequential(Linear(width, width), nn.SiLU(), Linear(width, self.bins.bins))
        self.ending = nn.Sequential(Linear(width, width), nn.SiLU(), Linear(width, 1))

    def embed(self, state: MutableMapping[str, Tensor]) -> Tensor:
        """The memory, and what it sees in the present frame: (b, embedding_size)."""
        return torch.cat((state["memory"], self.look(state[self.config.events_see])), dim=-1)

    def follow(self, state: MutableMapping[str, Tensor], actions: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Take the vectors of actions (b, t, a) and the frames (b, t, c, h, w) they led to into the state, in place.

        The state's ``frame`` (b, c, h, w) is the one before them. Frames are in [0, 1]; or all are latents, and the
        state's ``latent`` that is.

        Returns:
            Rewards and probabilities of an ending, (b, t) each.
        """
        before = torch.cat((state[self.config.events_see][:, None], frames[:, :-1]), dim=1)
        seen = self.look(before.flatten(0, 1)).unflatten(0, before.shape[:2])
        memories = []
        for i in range(frames.shape[1]):
            state["memory"] = self.step(state["memory"], seen[:, i], actions[:, i])
            memories.append(state["memory"])
        return self.tell(torch.stack(memories, dim=1))

    def look(self, frames: Tensor) -> Tensor:
        """Frames (n, c, h, w) in [0, 1], or latents, to what is seen in them, (n, memory)."""
        seen: Tensor = self.glance(self.encoder(frames))
        return seen

    def step(self, memory: Tensor, seen: Tensor, action: Tensor) -> Tensor:
        """Take in one frame (b, memory) and the vector of the action taken there (b, a); return the new memory."""
        return self.recurrence.step(self.enter(torch.cat((seen, action), dim=-1)), memory)

    def tell(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Memories (..., memory) to the expected reward and the probability of an ending, (...) each."""
        return self.bins.mean(self.reward(memory).float()), self.ending(memory).float().squeeze(-1).sigmoid()

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the range of rewards and the rate of endings from the data."""
        self.bins.set_range(statistics.reward_min, statistics.reward_max)
        rate = min(max(statistics.termination_rate, 1e-5), 0.5)
        last = self.ending[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, math.log(rate / (1 - rate)))

    def loss(self, actions: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropies, given the actions' vectors (b, t, a)."""
        if batch.features is None:
            frames = torch.cat((batch.first_frame[:, None], batch.frames[:, :-1]), dim=1)
        else:
            frames = batch.features[:, :-1].float()
        seen = self.look(rearrange(frames, "b t c h w -> (b t) c h w")).unflatten(0, frames.shape[:2])
        path = self.recurrence(self.enter(torch.cat((seen, actions), dim=-1)))
        if self.training and self.config.dropout:
            kept = torch.rand(path.shape, generator=batch.generator, device=path.device) >= self.config.dropout
            path = path * kept / (1 - self.config.dropout)
        total = batch.weight.sum().clamp_min(1e-8)
        rewards = self.bins.loss(self.reward(path).float(), batch.rewards)
        endings = functional.binary_cross_entropy_with_logits(
            self.ending(path).float().squeeze(-1), batch.terminated.float(), reduction="none"
        )
        terms = {
            "reward": (rewards * batch.weight).sum() / total,
            "termination": (endings * batch.weight).sum() / total,
        }
        return terms["reward"] + self.config.termination_weight * terms["termination"], terms

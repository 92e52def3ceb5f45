"""A tiny world model with everything that is hard on a trainer, for tests.

Two stages; the first has two objectives that pull against each other, the second reads precomputed features; dropout
draws from torch's global stream and noise from the batch's generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamenv.world_model import (
    BackboneConfig,
    Batch,
    DataStatistics,
    Imagined,
    Objective,
    Stage,
    State,
    WorldModel,
    WorldModelSpec,
    new_state,
)


@dataclass(frozen=True, kw_only=True)
class TrainableConfig(BackboneConfig, kind="trainable"):
    width: int = 4
    rate: float = 0.01
    explode_at: int = -1
    sequence_length: int = 5
    batch_size: int = 4

    def build(self, spec: WorldModelSpec) -> Trainable:
        return Trainable(self, spec)


class Trainable(WorldModel):
    """Blends the last frame with a learned one; its critic tells recorded from blended frames."""

    mean_reward: Tensor

    def __init__(self, config: TrainableConfig, spec: WorldModelSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        channels = spec.frame_shape[0]
        self.register_buffer("mean_reward", torch.zeros(()))
        self.encode = nn.Conv2d(channels, config.width, 3, padding=1)
        self.decode = nn.Conv2d(config.width, channels, 3, padding=1)
        self.norm = nn.GroupNorm(1, config.width)
        self.critic = nn.Conv2d(channels, 1, 3, padding=1)
        self.dropout = nn.Dropout(0.3)
        self.reward = nn.Linear(config.width, 1)
        self.seen_steps = 0

    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        return new_state(seed, {"frame": first_frame})

    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        state = state.copy()
        state["frame"] = frames[:, -1]
        state["rng_counter"] = state["rng_counter"] + actions.shape[1]
        return state

    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        b, k = actions.shape[:2]
        frames, frame = [], state["frame"]
        for _ in range(k):
            frame = self._next(frame).clamp(0, 1)
            frames.append(frame)
        state = state.copy()
        state["frame"] = frame
        state["rng_counter"] = state["rng_counter"] + k
        return Imagined(torch.stack(frames, 1), self.mean_reward.expand(b, k), torch.full((b, k), 0.1)), state

    def calibrate(self, statistics: DataStatistics) -> None:
        self.mean_reward.fill_(statistics.reward_mean)

    def stages(self) -> Sequence[Stage]:
        maker = [p for module in (self.encode, self.decode, self.norm) for p in module.parameters()]
        size = {
            "batch_size": self.config.batch_size,
            "sequence_length": self.config.sequence_length,
            "learning_rate": self.config.rate,
        }
        return (
            Stage(
                name="images", steps=20, **size,
                networks=[(self.decode, "forward")],
                objectives=[
                    Objective("maker", maker, self.maker_loss),
                    Objective("critic", list(self.critic.parameters()), self.critic_loss),
                ],
            ),
            Stage(
                name="rewards", steps=20, **size, precompute=self.features,
                objectives=[Objective("rewards", list(self.reward.parameters()), self.reward_loss)],
            ),
        )  # fmt: skip

    def maker_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        self.seen_steps += self.training
        noise = 0.01 * torch.randn(batch.first_frame.shape, generator=batch.generator)
        dreamed = self._next(self.dropout(batch.first_frame + noise))
        error = (dreamed - batch.frames[:, 0]).square().mean()
        fooled = -self.critic(dreamed).mean()
        if self.seen_steps == self.config.explode_at + 1:
            error = error * torch.inf
        return error + 0.01 * fooled, {"error": error, "fooled": fooled}

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        with torch.no_grad():
            dreamed = self._next(batch.first_frame)
        loss = (self.critic(dreamed) - 1).square().mean() + (self.critic(batch.frames[:, 0]) + 1).square().mean()
        return loss, {}

    def features(self, frames: Tensor) -> Tensor:
        return self.encode(frames).mean(dim=(-2, -1))

    def reward_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert batch.features is not None
        predicted = self.reward(self.dropout(batch.features[:, 1:])).squeeze(-1)
        return ((predicted - batch.rewards).square() * batch.weight).mean(), {}

    def _next(self, frame: Tensor) -> Tensor:
        return 0.9 * frame + self.decode(self.norm(self.encode(frame)).relu())

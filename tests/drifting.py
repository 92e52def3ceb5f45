"""A small world for tests of dreams: a grey level that drifts at random, and by its actions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from dreamenv.action_layout import ActionLayout
from dreamenv.data.provenance import Provenance
from dreamenv.data.starts import Starts
from dreamenv.randomness import normal
from dreamenv.world import World
from dreamenv.world_model import BackboneConfig, Imagined, State, WorldModel, WorldModelSpec, new_state

CONTEXT = 3


@dataclass(frozen=True, kw_only=True)
class DriftingConfig(BackboneConfig, kind="drifting"):
    """How it drifts."""

    noise: float = 0.05
    termination: float = 0.0
    doubt: float = 0.25
    terminal_reward: float | None = None
    chunk: int = 1

    def build(self, spec: WorldModelSpec) -> Drifting:
        return Drifting(self, spec)


class Drifting(WorldModel):
    """State: ``level`` (b,), what every pixel shows. Reward: the action. Embedding: the level and the counter."""

    embedding_size = 2
    estimates_uncertainty = True

    def __init__(self, config: DriftingConfig, spec: WorldModelSpec) -> None:
        super().__init__()
        self.config, self.spec = config, dataclasses.replace(spec, chunk=config.chunk)
        self.scale = nn.Parameter(torch.ones(2))

    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        return new_state(seed, {"level": first_frame.mean(dim=(1, 2, 3))})

    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        state = state.copy()
        state["level"] = frames[:, -1].mean(dim=(1, 2, 3))
        state["rng_counter"] = state["rng_counter"] + actions.shape[1]
        return state

    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        b, k = actions.shape[:2]
        assert k % self.config.chunk == 0
        state, levels = state.copy(), []
        for i in range(k):
            noise = normal(state["rng_key"], state["rng_counter"]) * self.config.noise * state["temperature"]
            moved = 0.01 * actions[:, i].reshape(b, -1).float().sum(dim=1)
            state["level"] = (state["level"] + self.scale[0] * noise + moved) % 1.0
            state["rng_counter"] = state["rng_counter"] + 1
            levels.append(state["level"])
        path = torch.stack(levels, dim=1)
        frames = path[..., None, None, None].expand(b, k, *self.spec.frame_shape) if decode else None
        rewards = actions.reshape(b, k, -1).float().sum(dim=-1)
        full = torch.full((b, k), self.config.termination)
        last = self.config.terminal_reward
        at_end = None if last is None else torch.full((b, k), last)
        return Imagined(frames, rewards, full, torch.full((b, k), self.config.doubt), at_end), state

    def embed(self, state: State) -> Tensor:
        return torch.stack((state["level"], state["rng_counter"].float()), dim=1)

    def reconstruct(self, frames: Tensor) -> Tensor:
        """Show the level alone."""
        return frames.mean(dim=(1, 2, 3), keepdim=True).expand(frames.shape)

    def stages(self) -> tuple[()]:
        return ()


def make_starts(count: int = 20, size: int = 16, space: gym.Space | None = None) -> Starts:
    """Segments of unequal lengths, every fourth from an episode's beginning; the last frame of segment i is i grey."""
    space = space or gym.spaces.Discrete(3)
    space.seed(0)
    lengths = np.arange(count) % (CONTEXT + 1)
    frames = np.zeros((count, CONTEXT, size, size, 3), dtype=np.uint8)
    for i, length in enumerate(lengths):
        frames[i, :length] = (10 * np.arange(length) + i - 10 * (length - 1))[:, None, None, None] % 256
    layout = ActionLayout(space)
    actions = np.stack([[layout.pack(space.sample()) for _ in range(CONTEXT)] for _ in range(count)])
    first = np.zeros((count, size, size, 3), dtype=np.uint8)
    first[:] = np.where(lengths == 0, np.arange(count), 200)[:, None, None, None]
    return Starts(
        first_frames=first, actions=actions, frames=frames, lengths=lengths, at_episode_start=lengths % 4 == 1
    )


def make_provenance(size: int = 16, **changes) -> Provenance:
    values = {
        "environment_id": "Toy-v0", "action_names": ("stay", "left", "right"), "action_table": [0, 1, 2],
        "frame_skip": 4, "frame_size": size, "resize": "area", "frame_rate": 8.75, "max_episode_steps": 50,
        "score": "steps survived",
    }  # fmt: skip
    return Provenance(**{**values, **changes})


def make_world(*, size: int = 16, space: gym.Space | None = None, starts: int = 20, **settings) -> World:
    space = space or gym.spaces.Discrete(3)
    config = DriftingConfig(**settings)
    spec = WorldModelSpec(frame_shape=(3, size, size), action_space=space, frame_rate=8.75)
    return World(config.build(spec), config, make_starts(starts, size, space), make_provenance(size))

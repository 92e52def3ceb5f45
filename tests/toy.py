"""A tiny real environment and tiny recordings of it, for tests: catch the falling square.

A bright square falls two pixels a step towards a paddle at the bottom. Actions: stay, left, right. Catching it pays 1
and drops another; missing it ends the episode. Everything follows from the seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.episode import Episode
from dreamenv.data.provenance import Provenance

SIZE = 16
SQUARE = 4


class ToyEnv(gym.Env[np.ndarray, np.int64]):
    """16x16 RGB, Discrete(3), deterministic by seed.

    Args:
        max_episode_steps: steps until truncation.
        lethal: whether a missed square ends the episode.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, *, max_episode_steps: int = 30, lethal: bool = True, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(3)
        self.max_episode_steps, self.lethal, self.render_mode = max_episode_steps, lethal, render_mode

    @property
    def provenance(self) -> Provenance:
        return Provenance(
            environment_id="dreamenv/Toy-v0",
            environment_kwargs={"max_episode_steps": self.max_episode_steps, "lethal": self.lethal},
            action_names=("stay", "left", "right"),
            action_table=[[0], [-1], [1]],
            frame_size=SIZE,
            frame_rate=10.0,
            max_episode_steps=self.max_episode_steps,
            score="squares caught",
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_count = self.caught = 0
        self.paddle = int(self.np_random.integers(SIZE - SQUARE))
        self._drop()
        return self._frame(), self._info()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.step_count += 1
        self.paddle = int(np.clip(self.paddle + (0, -2, 2)[int(action)], 0, SIZE - SQUARE))
        self.row += 2
        reward, terminated = 0.0, False
        if self.row >= SIZE - SQUARE:
            if abs(self.column - self.paddle) < SQUARE:
                reward = 1.0
                self.caught += 1
            else:
                terminated = self.lethal
            self._drop()
        truncated = self.step_count >= self.max_episode_steps and not terminated
        return self._frame(), reward, terminated, truncated, self._info()

    def render(self) -> np.ndarray:
        return self._frame()

    def _drop(self) -> None:
        self.row, self.column = 0, int(self.np_random.integers(SIZE - SQUARE))

    def _info(self) -> dict[str, Any]:
        return {"score": float(self.caught), "success": self.caught > 0}

    def _frame(self) -> np.ndarray:
        frame = np.zeros((SIZE, SIZE, 3), np.uint8)
        frame[self.row : self.row + SQUARE, self.column : self.column + SQUARE] = (255, 200, 60)
        frame[-2:, self.paddle : self.paddle + SQUARE] = (60, 160, 255)
        return frame


def play(seed: int, env: gym.Env[Any, Any] | None = None) -> Episode:
    """Record one episode under uniformly random actions."""
    env = env or ToyEnv()
    rng = np.random.default_rng(seed)
    frame, info = env.reset(seed=seed)
    frames, actions, rewards, done = [frame], [], [], False
    while not done:
        actions.append(int(rng.integers(3)))
        frame, reward, terminated, truncated, info = env.step(actions[-1])
        frames.append(frame)
        rewards.append(reward)
        done = terminated or truncated
    return Episode(
        frames=frames, actions=actions, rewards=rewards, terminated=terminated, truncated=truncated,
        policy="random", seed=seed, score=info["score"], success=info["success"],
    )  # fmt: skip


def random_episode(
    steps: int, *, seed: int = 0, size: int = SIZE, terminated: bool = False, rewards: Any = None
) -> Episode:
    """An episode of exactly so many steps; frame i holds the value i (modulo 256) in its first pixel."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (steps + 1, size, size, 3), dtype=np.uint8)
    frames[:, 0, 0] = (np.arange(steps + 1) % 256)[:, None]
    return Episode(
        frames=frames,
        actions=rng.integers(3, size=steps),
        rewards=rng.normal(size=steps) if rewards is None else rewards,
        terminated=terminated,
        truncated=not terminated,
        seed=seed,
    )


def empty_dataset(path: str | Path, *, size: int = SIZE) -> EpisodeDataset:
    """A dataset of the toy environment without episodes."""
    return EpisodeDataset.create(path, ToyEnv().provenance, gym.spaces.Discrete(3), (size, size, 3))


def toy_dataset(path: str | Path, episodes: int = 8, **kwargs: Any) -> EpisodeDataset:
    """Record episodes of the toy environment with seeds 0, 1, ..."""
    dataset, env = empty_dataset(path), ToyEnv(**kwargs)
    for seed in range(episodes):
        dataset.append(play(seed, env))
    return dataset

"""Real environments as one batch: stepped in threads, observed as the dreams are.

Simulators that work outside the GIL (ViZDoom's engine is a process of its own) run side by side; one batched filter
turns all rows' frames into the world's latents.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dreamenv.agents.observations import FrameStack, ObservationConfig
from dreamenv.agents.rows import RowsVecEnv, Stepped
from dreamenv.data.provenance import Provenance
from dreamenv.dream.latents import LatentFilter, latent_space
from dreamenv.dream.reconstruction import Reconstruction
from dreamenv.envs import make_real
from dreamenv.errors import ConfigError, WorldMismatchError
from dreamenv.world import World

__all__ = ["EnvironmentMaker", "RealVecEnv", "check_provenance", "make_environment", "provenance_of"]

EnvironmentMaker: TypeAlias = "str | Callable[[], gym.Env[Any, Any]]"
"""A task's short name, a gymnasium id, or a function that makes the environment."""


def make_environment(maker: EnvironmentMaker) -> gym.Env[Any, Any]:
    """Make one real environment."""
    return make_real(maker) if isinstance(maker, str) else maker()


def provenance_of(env: gym.Env[Any, Any]) -> Provenance | None:
    """Return an environment's provenance, None if it has none."""
    return env.get_wrapper_attr("provenance") if env.has_wrapper_attr("provenance") else None


def check_provenance(world: World, env: gym.Env[Any, Any]) -> None:
    """Refuse a real environment that is not the one the world was learned from.

    Raises:
        WorldMismatchError: the action table, frame skip, frame size or resize differ, or the action spaces do.
    """
    real = provenance_of(env)
    if world.provenance is not None and real is not None:
        world.provenance.check_matches(real)
    if env.action_space != world.spec.action_space:
        raise WorldMismatchError(
            f"the world takes actions of {world.spec.action_space}, the real environment of {env.action_space}."
        )
    channels, height, width = world.spec.frame_shape
    if env.observation_space.shape != (height, width, channels):
        raise WorldMismatchError(
            f"the world shows frames of {(height, width, channels)}, the real environment of "
            f"{env.observation_space.shape}; make it with size={height if height == width else (height, width)}."
        )


class RealVecEnv(RowsVecEnv):
    """Several copies of a real environment.

    An episode depends on its seed alone, not on its row, the number of rows or the threads.

    Args:
        maker: which environment.
        num_envs: copies, at least 1.
        observation: what the policy sees, or a function of the frames' (h, w, c) that says so.
        world: whose filter makes the latents, and whose provenance the environment must match; needed for latents and
            for reconstructed frames.
        threads: how many copies step at once; None for twice the processor's cores, 1 for one after another.
    """

    def __init__(
        self,
        maker: EnvironmentMaker,
        num_envs: int = 1,
        *,
        observation: ObservationConfig | Callable[[tuple[int, int, int]], ObservationConfig] | None = None,
        world: World | None = None,
        threads: int | None = None,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, not {num_envs}.")
        if threads is not None and threads < 1:
            raise ConfigError(f"threads must be at least 1, not {threads}.")
        self.envs = [make_environment(maker)]
        try:
            if world is not None:
                check_provenance(world, self.envs[0])
            shape = self.envs[0].observation_space.shape
            if shape is None or len(shape) != 3:
                raise ConfigError(
                    f"a real environment must show frames (h, w, c), not {self.envs[0].observation_space}."
                )
            config = observation(shape) if callable(observation) else observation or ObservationConfig(kind="frame")
            if config.kind == "latent" and world is None:
                raise ConfigError("latent observations of a real environment need a world that filters its frames.")
            self._reconstruction = Reconstruction(world) if config.reconstructed else None
            self._filter = None
            self._stack = None
            if config.kind == "latent" and world is not None:
                self._filter = LatentFilter(world, num_envs)
                space = latent_space(world)
            else:
                self._stack = FrameStack(config, num_envs, shape)
                space = self._stack.space
            self.envs += [make_environment(maker) for _ in range(num_envs - 1)]
            super().__init__(num_envs, space, self.envs[0].action_space)
        except BaseException:
            for env in self.envs:
                env.close()
            raise
        self.provenance = provenance_of(self.envs[0])
        self.frames = np.zeros((num_envs, *shape), np.uint8)
        """(b, h, w, c), each row's last real frame."""
        workers = min(num_envs, 2 * (os.cpu_count() or 1) if threads is None else threads)
        self._pool = ThreadPoolExecutor(workers, "dreamenv-real") if workers > 1 else None

    def reset_rows(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> NDArray[Any]:
        """Start episodes; the seed fixes both the episode and the filter's randomness."""

        def start(pair: tuple[int, int]) -> NDArray[np.uint8]:
            frame: NDArray[np.uint8] = self.envs[pair[0]].reset(seed=pair[1])[0]
            return frame

        frames = np.stack(self._map(start, [(int(row), int(seed)) for row, seed in zip(rows, seeds, strict=True)]))
        self.frames[rows] = frames
        if self._filter is not None:
            return self._filter.reset(rows, frames, seeds.tolist())
        assert self._stack is not None
        return self._stack.reset(rows, frames if self._reconstruction is None else self._reconstruction(frames))

    def step_rows(self, actions: NDArray[Any], active: NDArray[np.bool_] | None = None) -> Stepped:
        """Step the active rows; the others' frames stay as they are."""
        taken = self._read_actions(actions)
        native = self.policy_actions.to_environment(taken)
        rows = self._everything if active is None else np.flatnonzero(active)
        results = self._map(lambda row: self.envs[row].step(native[row]), [int(row) for row in rows])
        rewards = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row, result in zip(rows, results, strict=True):
            self.frames[row], rewards[row], terminated[row], truncated[row], infos[row] = result
        observations: NDArray[Any]
        if self._filter is not None:
            observations = self._filter.step(taken, self.frames)
        else:
            assert self._stack is not None
            observations = self._stack.push(
                self.frames if self._reconstruction is None else self._reconstruction(self.frames)
            )
        return Stepped(observations, rewards, terminated, truncated, infos)

    def close(self) -> None:
        """Close every copy."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        for env in self.envs:
            env.close()

    def get_images(self) -> list[NDArray[np.uint8] | None]:
        """Return each row's last real frame."""
        return list(self.frames)

    def _map(self, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        if self._pool is None or len(items) == 1:
            return [function(item) for item in items]
        return list(self._pool.map(function, items))

    def _target(self, row: int) -> Any:
        env = self.envs[row]
        return _Attributes(env)

    def _is_wrapped(self, row: int, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        env: Any = self.envs[row]
        while isinstance(env, gym.Wrapper):
            if isinstance(env, wrapper_class):
                return True
            env = env.env
        return False


class _Attributes:
    """Reads and sets attributes through all of an environment's wrappers."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        object.__setattr__(self, "_env", env)

    def __getattr__(self, name: str) -> Any:
        return self._env.get_wrapper_attr(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._env.set_wrapper_attr(name, value)

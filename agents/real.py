"""Real environments as one batch: stepped in threads, observed as the dreams are.

Simulators that work outside the GIL (ViZDoom's engine is a process of its own) run side by side; one batched filter
turns all rows' frames into the world's latents.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dreamenv.agents.observations import FrameStack, ObservationConfig
from dreamenv.agents.rows import RowsVecEnv, Stepped
from dreamenv.checks import check_whole
from dreamenv.data.provenance import Provenance
from dreamenv.dream.hindsight import FRAME_AGE
from dreamenv.dream.latents import LatentFilter, latent_space
from dreamenv.dream.reconstruction import Reconstruction
from dreamenv.envs import EnvironmentMaker, make_real
from dreamenv.errors import ConfigError, WorldMismatchError
from dreamenv.world import World

__all__ = ["RealVecEnv", "check_provenance"]


def check_provenance(world: World, env: gym.Env[Any, Any]) -> None:
    """Refuse a real environment that is not the one the world was learned from.

    Raises:
        WorldMismatchError: the action table, frame skip, frame size or resize differ, or the action spaces do.
    """
    if world.provenance is not None:
        world.provenance.check_matches(env.get_wrapper_attr("provenance"))
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
        maker: which environment, as `make_real` takes it.
        num_envs: copies, at least 1.
        observation: what the policy sees, or a function of the frames' (h, w, c) that says so.
        world: whose filter makes the latents, and whose provenance the environment must match; needed for latents and
            for reconstructed frames.
        revise: of latents where frames are missing or late, see `LatentFilter`.
        threads: how many copies step at once; None for twice the processor's cores, 1 for one after another.
    """

    def __init__(
        self,
        maker: EnvironmentMaker,
        num_envs: int = 1,
        *,
        observation: ObservationConfig | Callable[[tuple[int, int, int]], ObservationConfig] | None = None,
        world: World | None = None,
        revise: bool = True,
        threads: int | None = None,
    ) -> None:
        num_envs = check_whole("num_envs", num_envs)
        if threads is not None:
            threads = check_whole("threads", threads, also=", or None")
        self.envs = [make_real(maker)]
        try:
            if world is not None:
                check_provenance(world, self.envs[0])
            height, width, channels = self.envs[0].observation_space.shape or ()
            shape = (height, width, channels)
            config = observation(shape) if callable(observation) else observation or ObservationConfig(kind="frame")
            if config.kind == "latent" and world is None:
                raise ConfigError("latent observations of a real environment need a world that filters its frames.")
            self._reconstruction = Reconstruction(world) if config.reconstructed else None
            self._filter = None
            self._stack = None
            if config.kind == "latent" and world is not None:
                self._filter = LatentFilter(world, num_envs, revise=revise)
                space = latent_space(world)
            else:
                self._stack = FrameStack(config, num_envs, shape)
                space = self._stack.space
            self.envs += [make_real(maker) for _ in range(num_envs - 1)]
            super().__init__(num_envs, space, self.envs[0].action_space)
        except BaseException:
            for env in self.envs:
                env.close()
            raise
        self.provenance: Provenance = self.envs[0].get_wrapper_attr("provenance")
        self.frames = np.zeros((num_envs, *shape), np.uint8)
        """(b, h, w, c), each row's last real frame."""
        workers = min(num_envs, 2 * (os.cpu_count() or 1) if threads is None else threads)
        self._pool = ThreadPoolExecutor(workers, "dreamenv-real") if workers > 1 else None

    def reset_rows(
        self, rows: NDArray[np.int64], seeds: NDArray[np.int64], options: Sequence[dict[str, Any]] | None = None
    ) -> NDArray[Any]:
        """Start episodes; the seed fixes both the episode and the filter's randomness."""
        self._check_open()

        def start(place: int) -> NDArray[np.uint8]:
            row, asked = int(rows[place]), None if options is None else options[place]
            frame, self.reset_infos[row] = self.envs[row].reset(seed=int(seeds[place]), options=asked or None)
            return np.asarray(frame)

        frames = np.stack(self._map(start, list(range(len(rows)))))
        self.frames[rows] = frames
        if self._filter is not None:
            return self._filter.reset(rows, frames, seeds.tolist())
        assert self._stack is not None
        return self._stack.reset(rows, frames if self._reconstruction is None else self._reconstruction(frames))

    def step_rows(self, actions: NDArray[Any], active: NDArray[np.bool_] | None = None) -> Stepped:
        """Step the active rows; the others' frames stay as they are."""
        self._check_open()
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
            observations = self._filter.step(taken, self.frames, [info.get(FRAME_AGE, 0) for info in infos])
        else:
            assert self._stack is not None
            observations = self._stack.push(
                self.frames if self._reconstruction is None else self._reconstruction(self.frames)
            )
        return Stepped(observations, rewards, terminated, truncated, infos)

    def close(self) -> None:
        """Close every copy."""
        super().close()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)  # after an interrupt, rows may still be waiting for their turn
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

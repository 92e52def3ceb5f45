"""The same latent observations in the real environment: a world's model filters real frames into its embedding.

In a dream the model's state follows its own imagination; here `WorldModel.observe` follows what really happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamenv.capabilities import SupportsEmbed
from dreamenv.checks import check_whole, to_array
from dreamenv.dream.actions import ActionReader, one_row
from dreamenv.dream.options import read_seeds
from dreamenv.errors import ConfigError, FrameError, InputError, ResetNeededError, SeedError, WorldMismatchError
from dreamenv.frames import frames_to_model
from dreamenv.world import World
from dreamenv.world_model import State

__all__ = ["LatentFilter", "LatentObservation", "frame_space", "latent_space"]

Latents = NDArray[np.float32]


class LatentFilter:
    """Follows ``rows`` real environments at once.

    Args:
        world: whose model does it; where the model is, it runs.
        rows: number of environments, b.

    Attributes:
        rows: b.
        size: d, the width of the latents.

    Raises:
        ConfigError: this world's model has no embedding.
    """

    def __init__(self, world: World, rows: int = 1) -> None:
        rows = check_whole("rows", rows)
        self.rows, self.size = rows, latent_space(world).shape[0]
        self._device = world.device
        world.model.eval()
        self._model = world.model
        c, h, w = world.spec.frame_shape
        self._frame_shape = (h, w, c)
        self._read = ActionReader(world.spec.action_space, rows, world.device)
        self._state: State | None = None

    def reset(self, rows: Sequence[int] | NDArray[np.integer[Any]], frames: Any, seeds: Sequence[int]) -> Latents:
        """Start episodes in some rows, the first time in all.

        Args:
            rows: (n,) which.
            frames: (n, h, w, c) uint8, the episodes' first frames.
            seeds: (n,) of the filter's own samples: with the same frames and actions, they give the same latents.

        Returns:
            (n, d) float32.

        Raises:
            InputError, FrameError, SeedError: rows, frames or seeds that do not fit.
        """
        places = to_array("rows", rows)
        if places.ndim != 1 or places.dtype.kind not in "iu" or len(set(places.tolist())) != len(places):
            raise InputError(f"rows must be distinct integers, not {rows!r}.")
        if not len(places) or places.min() < 0 or places.max() >= self.rows:
            raise InputError(f"rows must be some of 0 to {self.rows - 1}, not {places.tolist()}.")
        numbers = read_seeds(list(seeds), len(places))
        if None in numbers:
            raise SeedError("a filter needs a seed for every row, not None.")
        if self._state is None and len(places) < self.rows:
            raise ResetNeededError(f"the first reset must be of all {self.rows} rows.")
        first = self._frames(frames, len(places))
        with torch.inference_mode():
            fresh = self._model.start(first, torch.tensor(numbers, device=self._device))
            if self._state is None:
                self._state = fresh.clone()
            state = self._state.clone()
            state[torch.from_numpy(places.astype(np.int64)).to(self._device)] = fresh
            self._state = state
            return self._latents(fresh)

    def step(self, actions: Any, frames: Any) -> Latents:
        """Observe what every row's action led to.

        Rows whose episode ended may be given any frame, and `reset` afterwards.

        Args:
            actions: (b, *a), or a dictionary of batched entries where the space is a Dict.
            frames: (b, h, w, c) uint8, what they led to.

        Returns:
            (b, d) float32.

        Raises:
            ActionError, FrameError, ResetNeededError: see `dreamenv.errors`.
        """
        if self._state is None:
            raise ResetNeededError("reset() must be called before step().")
        taken, seen = self._read(actions), self._frames(frames, self.rows)
        with torch.inference_mode():
            self._state = self._model.observe(self._state, taken, seen[:, None])
            return self._latents(self._state)

    def _frames(self, frames: Any, rows: int) -> Tensor:
        array = to_array("frames", frames, error=FrameError)
        if array.shape != (rows, *self._frame_shape) or array.dtype != np.uint8:
            raise FrameError(
                f"frames must be {(rows, *self._frame_shape)} uint8, not {array.shape} {array.dtype}. "
                "Make the real environment with the frame size the world was trained on."
            )
        return frames_to_model(torch.from_numpy(np.ascontiguousarray(array)).to(self._device))

    def _latents(self, state: State) -> Latents:
        return cast(SupportsEmbed, self._model).embed(state).cpu().numpy().astype(np.float32)


class LatentObservation(gym.Wrapper[Any, Any, Any, Any]):
    """Gives a real environment a world's latent observations, as `DreamEnv` has them with ``observation="latent"``.

    Args:
        env: a real environment of (h, w, c) uint8 frames.
        world: whose model filters them.

    Raises:
        WorldMismatchError: the environment's action table, frame skip, frame size or resize are not those the world
            was recorded with.
        ConfigError: this world's model has no embedding.
    """

    def __init__(self, env: gym.Env[Any, Any], world: World) -> None:
        super().__init__(env)
        _check_fits(env, world)
        self.observation_space = latent_space(world)
        self._filter = LatentFilter(world)
        self._seeds = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; the seed is the environment's and the filter's."""
        frame, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
        return self._filter.reset([0], np.asarray(frame)[None], [int(self._seeds.integers(2**63))])[0], info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act, and filter the resulting frame."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        latents = self._filter.step(one_row(action), np.asarray(frame)[None])
        return latents[0], reward, terminated, truncated, info


def frame_space(frame_shape: tuple[int, int, int]) -> gym.spaces.Box:
    """Return the space of observations that are frames, (h, w, c) uint8, given (c, h, w)."""
    c, h, w = frame_shape
    return gym.spaces.Box(0, 255, (h, w, c), np.uint8)


def latent_space(world: World) -> gym.spaces.Box:
    """Return the space of a world's latent observations, (d,) float32.

    Raises:
        ConfigError: this world's model has no embedding.
    """
    model = world.model
    if not isinstance(model, SupportsEmbed):
        raise ConfigError(f"this world's model ({type(model).__name__}) has no embedding; use observation='frame'.")
    # Finite, because gymnasium's checker warns of infinite bounds.
    most = np.finfo(np.float32).max
    return gym.spaces.Box(-most, most, (model.embedding_size,), np.float32)


def _check_fits(env: gym.Env[Any, Any], world: World) -> None:
    try:
        provenance = env.get_wrapper_attr("provenance")
    except AttributeError:
        provenance = None
    if provenance is not None and world.provenance is not None:
        world.provenance.check_matches(provenance)
    c, h, w = world.spec.frame_shape
    if env.observation_space.shape != (h, w, c):
        raise WorldMismatchError(
            f"the environment's frames are {env.observation_space.shape} and the world's {(h, w, c)}; "
            "make the environment with the size the world was trained on."
        )
    if env.action_space != world.spec.action_space:
        raise WorldMismatchError(
            f"the environment's actions are {env.action_space} and the world's {world.spec.action_space}."
        )

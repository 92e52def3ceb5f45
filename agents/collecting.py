"""A trained policy as a recorder: what `dreamenv.data.collect` needs to record episodes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamenv.agents.observations import FrameStack
from dreamenv.agents.saved_policy import PolicyState, SavedPolicy
from dreamenv.dream.latents import LatentFilter
from dreamenv.dream.reconstruction import Reconstruction
from dreamenv.errors import ConfigError
from dreamenv.world import World

__all__ = ["CollectionPolicy"]


class CollectionPolicy:
    """A saved policy that looks at one real environment's frames.

    Give paths, not loaded objects, where worker processes make it themselves.

    Args:
        policy: a policy or its folder.
        world: the world whose latents it reads, or that reconstructs its frames, or its folder; None for a policy that
            reads frames as they are.
        deterministic: act greedily instead of sampling.
        name: what the recording calls it.
    """

    def __init__(
        self,
        policy: SavedPolicy | str | Path,
        world: World | str | Path | None = None,
        *,
        deterministic: bool = False,
        name: str = "agent",
    ) -> None:
        self.name = name
        self._policy = policy if isinstance(policy, SavedPolicy) else SavedPolicy.load(policy)
        self._deterministic = deterministic
        latent = self._policy.config.observation.kind == "latent"
        if latent and world is None:
            raise ConfigError("this policy reads latents: give the world whose filter makes them.")
        loaded = World.load(world) if isinstance(world, str | Path) else world
        self._filter = LatentFilter(loaded, 1) if latent and loaded is not None else None
        self._reconstruction = Reconstruction(loaded) if self._policy.config.observation.reconstructed else None
        self._stack: FrameStack | None = None
        self._seed = 0
        self._state: PolicyState | None = None
        self._policy_actions = self._policy.policy_actions
        self._action: NDArray[Any] | None = None  # (1, *a), as the filter takes it

    def reset(self, seed: int) -> None:
        """Start an episode; its first frame comes with the next `act`."""
        self._seed, self._state, self._action = seed, None, None

    def act(self, frame: NDArray[np.uint8]) -> Any:
        """Choose an action after seeing a frame (h, w, c)."""
        frames = frame[None] if self._reconstruction is None else self._reconstruction(frame[None])
        seen: NDArray[Any]
        if self._state is None or self._action is None:
            seeds, rows = np.array([self._seed], np.int64), np.zeros(1, np.int64)
            self._state = self._policy.start(seeds)
            if self._filter is not None:
                seen = self._filter.reset(rows, frames, [self._seed])
            else:
                height, width, channels = frame.shape
                self._stack = self._stack or FrameStack(self._policy.config.observation, 1, (height, width, channels))
                seen = self._stack.reset(rows, frames)
        elif self._filter is not None:
            seen = self._filter.step(self._action, frames)
        elif self._stack is not None:
            seen = self._stack.push(frames)
        chosen, self._state = self._policy.act(seen, self._state, deterministic=self._deterministic)
        self._action = self._policy_actions.to_arrays(chosen)
        return self._policy_actions.to_environment(self._action)[0]

    def set_last_action(self, action: Any) -> None:
        """Note that another action was taken than the one chosen, as `EpsilonPolicy` reports."""
        self._action = self._policy_actions.layout.pack(action)[None]

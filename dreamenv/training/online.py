"""A world that learns from the real environment while a policy acts there.

After every few real steps it takes a gradient step on what it remembers of them, mixed with what it knew before, by the
same pieces as `dreamenv.training.adapt`. After AdaJEPA's gradient step per plan (arXiv 2606.32026).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from dreamenv.allocator import keep_freed_memory
from dreamenv.checks import check_flag, check_instance, check_number, to_array
from dreamenv.data.checks import check_actions
from dreamenv.data.episode import Episode
from dreamenv.data.memory import StepMemory
from dreamenv.data.provenance import Provenance
from dreamenv.errors import EpisodeError, FrameError, InputError, ResetNeededError
from dreamenv.training.adapt_config import OnlineConfig
from dreamenv.training.adaptation import Replay, check_replay, old_experience, replay_record
from dreamenv.training.features import with_features
from dreamenv.training.learner import Learner
from dreamenv.training.random_state import derived_seed, eval_mode, isolated
from dreamenv.training.rehearsal import mixed_batches
from dreamenv.world import World

__all__ = ["OnlineWorld"]


class OnlineWorld:
    """A world that learns as it goes.

    ::

        online = OnlineWorld(world)
        frame, info = env.reset()
        online.reset(frame)
        while acting:
            action = ...
            frame, reward, terminated, truncated, info = env.step(action)
            online.step(action, frame, reward, terminated, truncated)
        adapted = online.world

    Args:
        world: where it begins; never changed.
        config: how often it learns, and how.
        replay: old experience, see `dreamenv.training.adapt`.
        provenance: of the environment it learns from; None for the world's.

    Attributes:
        real_steps: steps taken from the real environment.
        gradient_steps: taken on them so far.

    Raises:
        ConfigError, DatasetError, DeviceError: as `dreamenv.training.adapt`.
    """

    def __init__(
        self,
        world: World,
        config: OnlineConfig = OnlineConfig(),  # noqa: B008 - frozen
        *,
        replay: Replay = "dreams",
        provenance: Provenance | None = None,
    ) -> None:
        check_instance("world", world, World)
        check_instance("config", config, OnlineConfig)
        if provenance is not None:
            check_instance("provenance", provenance, Provenance)
        check_replay(world, replay)
        keep_freed_memory()
        self._config, self._base, self._replay = config, world, replay
        self._provenance = provenance or world.provenance
        self._layout = world.spec.action_layout
        c, h, w = world.spec.frame_shape
        self._memory = StepMemory((h, w, c), self._layout, config.memory)
        self._learner = Learner(world, config.adapt, None)
        with isolated(config.adapt.seed, config.adapt.num_threads, world.device):
            self._old = old_experience(world, replay, config.adapt)
        self._running = False
        self.real_steps = 0

    @property
    def gradient_steps(self) -> int:
        """Gradient steps taken so far."""
        return sum(self._learner.steps)

    @property
    def world(self) -> World:
        """The world as it is now: an ordinary one that learns no more, and starts where real steps led.

        Before the first real step it is a copy of the world it began as.

        Raises:
            DivergedError: a loss became infinite or NaN.
        """
        config = self._config.adapt
        starts = (
            self._memory.segments(config.starts, config.start_context, config.seed)
            if self._memory.total_steps
            else self._base.starts
        )
        record = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "online": {"real_steps": self.real_steps, "every": self._config.every},
            "replay": replay_record(self._replay),
        }
        return self._learner.world(starts, self._provenance, record)

    def reset(self, frame: npt.ArrayLike) -> None:
        """Begin an episode of the real environment with its first frame, (h, w, c) uint8.

        Raises:
            FrameError: a frame of another shape or type.
        """
        self._memory.begin(self._checked(frame))
        self._running = True

    def step(self, action: Any, frame: npt.ArrayLike, reward: float, terminated: bool, truncated: bool = False) -> int:
        """Take a step from the real environment, and learn if it is time to.

        Args:
            action: of the world's action space.
            frame: what it led to, (h, w, c) uint8.
            reward: in the environment's units.
            terminated, truncated: whether the episode ended, as the environment said.

        Returns:
            How many gradient steps were taken.

        Raises:
            ResetNeededError: no episode runs.
            ActionError, FrameError, InputError: what the world does not know; nothing was remembered.
            DivergedError: a loss became infinite or NaN.
        """
        if not self._running:
            raise ResetNeededError("no episode is running; begin one with reset(frame).")
        packed = np.asarray(self._layout.pack(action))
        check_actions(packed[None], self._layout)
        shown = self._checked(frame)
        reward = check_number("reward", reward, error=InputError)
        terminated = check_flag("terminated", terminated, error=InputError)
        truncated = check_flag("truncated", truncated, error=InputError)
        self._memory.add(packed, shown, reward, terminated=terminated)
        self._running = not (terminated or truncated)
        return self._after(1)

    def append(self, episode: Episode) -> int:
        """Take a whole episode, or a piece of one, and learn as often as in so many steps.

        Returns:
            How many gradient steps were taken.

        Raises:
            EpisodeError: it is none, or its frames are of another size.
            ActionError: its actions are outside the world's.
            DivergedError: a loss became infinite or NaN.
        """
        check_instance("what is appended", episode, Episode, error=EpisodeError)
        shape = self._frame_shape
        if episode.frames.shape[1:] != shape:
            raise EpisodeError(f"the episode's frames are {episode.frames.shape[1:]}; the world's are {shape}.")
        check_actions(episode.actions, self._layout)
        self._memory.append(episode)
        self._running = False
        return self._after(len(episode))

    @property
    def _frame_shape(self) -> tuple[int, int, int]:
        c, h, w = self._base.spec.frame_shape
        return h, w, c

    def _checked(self, frame: Any) -> npt.NDArray[np.uint8]:
        array = to_array("frame", frame, error=FrameError)
        if array.shape != self._frame_shape or array.dtype != np.uint8:
            raise FrameError(f"a frame must be {self._frame_shape} uint8, not {array.shape} {array.dtype}.")
        return array

    def _after(self, steps: int) -> int:
        """Take the gradient steps that are due after so many more real steps."""
        updates = self._config.updates(self.real_steps, self.real_steps + steps)
        self.real_steps += steps
        due = updates * self._config.gradient_steps
        for _ in range(due):
            self._learn()
        if due:
            self._learner.check()
        return due

    def _learn(self) -> None:
        learner, config = self._learner, self._config.adapt
        seed = derived_seed(config.seed, self.gradient_steps)
        index = learner.next_stage()
        stage = learner.stages[index]
        with isolated(seed, config.num_threads, learner.device):
            # What is encoded changes as the codec learns, so features are made anew.
            make = mixed_batches(
                stage, self._memory, self._old, rehearsal=config.rehearsal, seed=seed, device=learner.device
            )
            with eval_mode(learner.model, None, learner.device):
                batch = with_features(make(0), stage)
            learner.step(index, batch)

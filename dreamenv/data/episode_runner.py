"""Plays one episode after another in one environment, each decided by its number and the recording's seed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dreamenv.action_layout import ActionLayout
from dreamenv.data.checks import check_actions, check_frame, check_frame_space, check_rewards
from dreamenv.data.episode import Episode
from dreamenv.data.episode_files import write_episode
from dreamenv.data.policies import Policy
from dreamenv.data.spaces import space_to_json
from dreamenv.envs.make import EnvironmentMaker, make_real
from dreamenv.errors import EpisodeError, InputError
from dreamenv.storage import draft_folder, move_into_place, storage_errors

__all__ = [
    "Description",
    "EpisodeRunner",
    "Factories",
    "RecordingJob",
    "Stopped",
    "episode_seed",
    "write_pending",
]

Description = dict[str, Any]
"""What is recorded, as JSON: provenance, action_space, frame_shape, policy."""

Factories = tuple[EnvironmentMaker, Callable[[], Policy]]
"""What makes the environment, as `make_real` takes it, and the policy."""

_CHECK_SECONDS = 0.25  # between two checks whether to stop
_ENVIRONMENT, _POLICY = 0, 1


@dataclass(frozen=True, kw_only=True)
class RecordingJob:
    """What all episodes of one recording have in common.

    Attributes:
        folder: where pending episodes are written.
        seed: of the recording.
        max_steps: the most steps an episode may have; None for no limit.
    """

    folder: Path
    seed: int
    max_steps: int | None


class Stopped(Exception):  # noqa: N818  (no error)
    """The recording ends; the episode in progress is not needed."""


def episode_seed(seed: int, number: int, stream: int = _ENVIRONMENT) -> int:
    """Return the seed of episode ``number`` of a recording, in [0, 2**31).

    Stream 0 is for the environment, 1 for the policy: with one seed for both, their random numbers would be the same.
    """
    return int(np.random.SeedSequence((seed, number, stream)).generate_state(1)[0] >> 1)


class EpisodeRunner:
    """Plays episodes with one environment and one policy.

    Args:
        factories: make the environment and the policy.
        working_directory: a folder to change to, for environments that write files; None stays in the current one.

    Raises:
        ConfigError: the actions cannot be recorded.
    """

    def __init__(self, factories: Factories, working_directory: Path | None = None) -> None:
        make_env, make_policy = factories
        self._policy = make_policy()  # first, since its paths may be relative
        if working_directory is not None:
            working_directory.mkdir(parents=True, exist_ok=True)
            os.chdir(working_directory)
        self._env = make_real(make_env)
        self._layout = ActionLayout(self._env.action_space)

    def describe(self) -> Description:
        """Return what is recorded.

        Raises:
            FrameError: its observations are no frames that can be recorded.
        """
        return {
            "provenance": self._env.get_wrapper_attr("provenance").to_json(),
            "action_space": space_to_json(self._env.action_space),
            "frame_shape": list(self._frame_shape),
            "policy": self._policy.name,
        }

    def run(self, job: RecordingJob, number: int, stopped: Callable[[], bool] = lambda: False) -> Episode:
        """Play episode ``number`` of a recording.

        Raises:
            Stopped: ``stopped()`` became true.
            ActionError: the policy left the action space.
            FrameError: a frame is not what the observation space says.
            EpisodeError: a reward or the score is not finite.
        """
        env_seed = episode_seed(job.seed, number)
        actions: list[Any] = []
        try:
            return self._play(env_seed, episode_seed(job.seed, number, _POLICY), job.max_steps, actions, stopped)
        except (InputError, EpisodeError) as error:
            where = f"{self._env} and {self._policy.name!r}, episode {number} (seed {env_seed})"
            raise type(error)(f"{where}, after {len(actions)} steps: {error}") from error

    def _play(
        self,
        env_seed: int,
        policy_seed: int,
        max_steps: int | None,
        actions: list[Any],
        stopped: Callable[[], bool],
    ) -> Episode:
        """Play an episode; fill ``actions`` meanwhile."""
        self._policy.reset(policy_seed)
        frame, info = self._env.reset(seed=env_seed)
        frames = [check_frame(frame, self._frame_shape)]  # copies: the environment may write into its frame again
        rewards: list[Any] = []
        captions: list[Any] = []  # each in force when an action is taken
        terminated = truncated = False
        checked = -math.inf
        while not (terminated or truncated or len(actions) == max_steps):
            if time.monotonic() - checked > _CHECK_SECONDS:
                if stopped():
                    raise Stopped
                checked = time.monotonic()
            action = self._policy.act(frames[-1])
            packed = np.array(self._layout.pack(action))  # a copy, too
            check_actions(packed[None], self._layout)
            captions.append(info.get("caption", ""))
            frame, reward, terminated, truncated, info = self._env.step(action)
            frames.append(check_frame(frame, self._frame_shape))
            actions.append(packed)
            rewards.append(reward)
        done = terminated or truncated
        return Episode(
            frames=np.stack(frames),
            actions=np.stack(actions),
            rewards=check_rewards(rewards),
            terminated=terminated,
            truncated=not terminated,
            policy=self._policy.name,
            seed=env_seed,
            score=info.get("score") if done else None,
            success=info.get("success") if done else None,
            captions=tuple(captions),
        )

    @cached_property
    def _frame_shape(self) -> tuple[int, int, int]:
        return check_frame_space(self._env.observation_space, str(self._env))

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def write_pending(folder: Path, number: int, episode: Episode) -> None:
    """Write an episode to ``<folder>/<number>``, completely or not at all."""
    place = folder / str(number)
    with storage_errors(f"write an episode of {len(episode)} steps to {folder}"), draft_folder(place) as draft:
        write_episode(draft, episode, number)
        move_into_place(draft, place)

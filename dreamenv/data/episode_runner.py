"""Plays one episode after another in one environment, each decided by its number and the recording's seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from dreamenv.action_layout import ActionLayout
from dreamenv.data.episode import Episode
from dreamenv.data.episode_files import write_episode
from dreamenv.data.policies import Policy
from dreamenv.data.spaces import space_to_json
from dreamenv.errors import ConfigError
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

Factories = tuple[Callable[[], gym.Env[Any, Any]], Callable[[], Policy]]
"""Functions that make the environment and the policy."""

_CHECK_EVERY = 32  # steps between two checks whether to stop: 20 ms of ViZDoom
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
    """

    def __init__(self, factories: Factories, working_directory: Path | None = None) -> None:
        make_env, make_policy = factories
        self._policy = make_policy()  # first, since its paths may be relative
        if working_directory is not None:
            working_directory.mkdir(parents=True, exist_ok=True)
            os.chdir(working_directory)
        self._env = make_env()
        self._layout = ActionLayout(self._env.action_space)

    def describe(self) -> Description:
        """Return what is recorded.

        Raises:
            ConfigError: the environment has no provenance, or its observations are no frames.
        """
        try:
            provenance = self._env.get_wrapper_attr("provenance").to_json()
        except AttributeError:
            raise ConfigError(
                f"{self._env} has no attribute 'provenance', which a recording needs. Give it one: a "
                "dreamenv.data.Provenance."
            ) from None
        space = self._env.observation_space
        if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
            raise ConfigError(f"only uint8 frames (h, w, c) can be recorded; {self._env} observes {space}.")
        return {
            "provenance": provenance,
            "action_space": space_to_json(self._env.action_space),
            "frame_shape": list(space.shape),
            "policy": self._policy.name,
        }

    def run(self, job: RecordingJob, number: int, stopped: Callable[[], bool] = lambda: False) -> Episode:
        """Play episode ``number`` of a recording.

        Raises:
            Stopped: ``stopped()`` became true.
        """
        env_seed = episode_seed(job.seed, number)
        self._policy.reset(episode_seed(job.seed, number, _POLICY))
        frame, info = self._env.reset(seed=env_seed)
        frames = [np.array(frame)]
        actions: list[Any] = []
        rewards: list[Any] = []
        terminated = truncated = False
        while not (terminated or truncated or len(actions) == job.max_steps):
            if len(actions) % _CHECK_EVERY == 0 and stopped():
                raise Stopped
            action = self._policy.act(frames[-1])
            frame, reward, terminated, truncated, info = self._env.step(action)
            frames.append(np.array(frame))  # a copy: the environment may write into its frame again
            actions.append(self._layout.pack(action))
            rewards.append(reward)
        done = terminated or truncated
        return Episode(
            frames=np.stack(frames),
            actions=np.stack(actions),
            rewards=np.array(rewards, np.float32),
            terminated=terminated,
            truncated=not terminated,
            policy=self._policy.name,
            seed=env_seed,
            score=info.get("score") if done else None,
            success=info.get("success") if done else None,
        )

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def write_pending(folder: Path, number: int, episode: Episode) -> None:
    """Write an episode to ``<folder>/<number>``, completely or not at all."""
    place = folder / str(number)
    with storage_errors(f"write an episode of {len(episode)} steps to {folder}"), draft_folder(place) as draft:
        write_episode(draft, episode, number)
        move_into_place(draft, place)

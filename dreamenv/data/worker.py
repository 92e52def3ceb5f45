"""What one recording process does: make an environment and a policy, play episodes, write them down."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper

from dreamenv.action_layout import ActionLayout
from dreamenv.data.episode import Episode
from dreamenv.data.episode_files import write_episode
from dreamenv.data.policies import Policy
from dreamenv.data.spaces import space_to_json
from dreamenv.errors import ConfigError, StorageError
from dreamenv.storage import draft_folder, move_into_place, storage_errors

__all__ = ["Description", "Player", "Stopped", "episode_seed", "work", "write_pending"]

Description = dict[str, Any]
"""What a recording is of, as JSON: provenance, action_space, frame_shape, policy."""

Makers = tuple[Callable[[], gym.Env[Any, Any]], Callable[[], Policy]]

_CHECK_EVERY = 32  # steps between two looks whether to stop: 20 ms of ViZDoom
_ENVIRONMENT, _POLICY = 0, 1


class Stopped(Exception):  # noqa: N818  (no error)
    """The recording ends; the episode in progress is not needed."""


def episode_seed(seed: int, number: int, stream: int = _ENVIRONMENT) -> int:
    """Return the seed of episode ``number`` of a recording, in [0, 2**31).

    Stream 0 is for the environment, 1 for the policy: with one seed for both, chance in the two would be the same.
    """
    return int(np.random.SeedSequence((seed, number, stream)).generate_state(1)[0] >> 1)


class Player:
    """An environment and a policy that play episodes.

    Args:
        makers: make the environment and the policy.
        home: a folder to work in, for environments that write beside themselves; None stays where we are.
    """

    def __init__(self, makers: Makers, home: Path | None = None) -> None:
        make_env, make_policy = makers
        self._policy = make_policy()  # first, since its paths may be relative
        if home is not None:
            home.mkdir(parents=True, exist_ok=True)
            os.chdir(home)
        self._env = make_env()
        self._layout = ActionLayout(self._env.action_space)

    def describe(self) -> Description:
        """Say what is recorded.

        Raises:
            ConfigError: the environment does not say where its frames come from, or shows no frames.
        """
        try:
            provenance = self._env.get_wrapper_attr("provenance").to_json()
        except AttributeError:
            raise ConfigError(
                f"{self._env} has no attribute 'provenance'; only environments that say how their frames are made can "
                "be recorded. Give it one: a dreamenv.data.Provenance."
            ) from None
        space = self._env.observation_space
        if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
            raise ConfigError(f"only uint8 frames (h, w, c) can be recorded; {self._env} shows {space}.")
        return {
            "provenance": provenance,
            "action_space": space_to_json(self._env.action_space),
            "frame_shape": list(space.shape),
            "policy": self._policy.name,
        }

    def play(self, seed: int, number: int, limit: int | None, stopped: Callable[[], bool] = lambda: False) -> Episode:
        """Play episode ``number`` of a recording, of at most ``limit`` steps.

        Raises:
            Stopped: ``stopped()`` became true.
        """
        own_seed = episode_seed(seed, number)
        self._policy.reset(episode_seed(seed, number, _POLICY))
        frame, info = self._env.reset(seed=own_seed)
        frames = [np.array(frame)]
        actions: list[Any] = []
        rewards: list[Any] = []
        terminated = truncated = False
        while not (terminated or truncated or len(actions) == limit):
            if len(actions) % _CHECK_EVERY == 0 and stopped():
                raise Stopped
            action = self._policy.act(frames[-1])
            frame, reward, terminated, truncated, info = self._env.step(action)
            frames.append(np.array(frame))  # a copy: the environment may write into its frame again
            actions.append(self._layout.pack(action))
            rewards.append(reward)
        ended = terminated or truncated
        return Episode(
            frames=np.stack(frames),
            actions=np.stack(actions),
            rewards=np.array(rewards, np.float32),
            terminated=terminated,
            truncated=not terminated,
            policy=self._policy.name,
            seed=own_seed,
            score=info.get("score") if ended else None,
            success=info.get("success") if ended else None,
        )

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def write_pending(folder: Path, number: int, episode: Episode) -> None:
    """Write an episode to ``<folder>/<number>``, whole or not at all."""
    place = folder / str(number)
    with storage_errors(f"write an episode of {len(episode)} steps to {folder}"), draft_folder(place) as draft:
        write_episode(draft, episode, number)
        move_into_place(draft, place)


def work(connection: Connection, make_env: CloudpickleWrapper, make_policy: Any, home: Path, stop: Event) -> None:
    """Serve jobs until told to stop or until the recording process is gone: the main function of a worker process.

    Sends ("ready", description), then ("done", number) for each job (folder, seed, number, limit), or
    ("failed", kind, message) and ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the recording process, which ends the workers
    parent = multiprocessing.parent_process()

    def stopped() -> bool:
        return stop.is_set() or (parent is not None and not parent.is_alive())

    player: Player | None = None
    try:
        player = Player((make_env.fn, make_policy.fn), home)
        connection.send(("ready", player.describe()))
        while (job := connection.recv()) is not None:
            folder, seed, number, limit = job
            write_pending(folder, number, player.play(seed, number, limit, stopped))
            connection.send(("done", number))
    except (Stopped, EOFError, BrokenPipeError):
        pass
    except StorageError as error:
        with suppress(OSError):
            connection.send(("failed", "storage", error.args))
    except ConfigError as error:
        with suppress(OSError):
            connection.send(("failed", "config", error.args))
    except Exception:
        with suppress(OSError):
            connection.send(("failed", "error", (traceback.format_exc(),)))
    finally:
        if player is not None:
            with suppress(Exception):
                player.close()

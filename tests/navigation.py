"""The navigation tasks that tests run over, and pictures compared."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dreamenv.envs import find_task, make_real
from dreamenv.envs.crafter.tasks import CRAFTER_TASKS
from dreamenv.envs.families import family_of
from dreamenv.envs.minigrid.tasks import MINIGRID_TASKS
from dreamenv.envs.miniworld.tasks import MINIWORLD_TASKS
from dreamenv.envs.vizdoom.tasks import VIZDOOM_TASKS
from dreamenv.errors import WorkerError

TASKS = (*VIZDOOM_TASKS, *MINIGRID_TASKS, *MINIWORLD_TASKS, *CRAFTER_TASKS)


def here(*names: str) -> list[Any]:
    """Parameters for these tasks; those that cannot run here are skipped, and say what they lack."""
    parameters = []
    for name in names:
        missing = family_of(find_task(name)).missing_for(name)
        marks = [pytest.mark.skip(reason=f"{missing.what}; {missing.remedy}")] if missing else []
        parameters.append(pytest.param(name, marks=marks))
    return parameters


def make(name: str, **settings: Any) -> gym.Env[Any, Any]:
    """Make a task, with what it cannot be made without."""
    return make_real(name, **{**find_task(name).example_arguments, **settings})


def action(env: gym.Env[Any, Any], name: str) -> int:
    """The number of an action by its name."""
    return env.unwrapped.task.action_names.index(name)


def play_randomly(env: gym.Env[Any, Any], seed: int, steps: int = 25) -> NDArray[np.uint8]:
    """The frames of the beginning of an episode."""
    frames = [env.reset(seed=seed)[0]]
    actions = np.random.default_rng(seed).integers(env.action_space.n, size=steps)
    return np.stack([*frames, *(env.step(chosen)[0] for chosen in actions)])


def play_there(connection: Connection) -> None:
    """Send what a process sees in MiniWorld's maze, or how it was refused. Here, since a spawned process imports it."""
    env = make("miniworld_maze_s3")
    try:
        connection.send(("frames", play_randomly(env, 3)))
    except WorkerError as error:
        connection.send(("refused", str(error)))


def similarity(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The correlation of two grey pictures, in [-1, 1]."""
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum() + 1e-9))


def shift_to_the_right(before: NDArray[np.uint8], after: NDArray[np.uint8], reach: int = 24) -> int:
    """By how many pixels the content moved to the right; negative for the left."""
    old, new = before.mean(-1), after.mean(-1)
    width = old.shape[1]

    def fit(shift: int) -> float:
        kept = slice(max(0, -shift), width - max(0, shift))
        found = slice(max(0, shift), width - max(0, -shift))
        return similarity(old[:, kept], new[:, found])

    return max(range(-reach, reach + 1), key=fit)


def growth(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """By which factor the content grew around the middle, as it does for who walks towards it."""
    size = before.shape[0]

    def fit(factor: float) -> float:
        side = size / factor
        edge = (size - side) / 2
        box = (edge, edge, edge + side, edge + side)
        kind, filtering = Image.Transform.EXTENT, Image.Resampling.BILINEAR
        grown = np.asarray(Image.fromarray(before).transform((size, size), kind, box, filtering)).mean(-1)
        inner = slice(size // 8, -size // 8)
        return similarity(grown[inner, inner], after.mean(-1)[inner, inner])

    return max((0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3), key=fit)

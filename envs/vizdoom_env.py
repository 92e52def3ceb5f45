"""ViZDoom scenarios as gymnasium environments with one face: small RGB frames, a table of actions, frame skip.

Each game runs as its own engine process in a private working directory (two engines started in one directory disturb
each other). The engine works outside the GIL, so several environments can be stepped in threads.

Rendered at 4:3 and shrunk to ``size`` x ``size`` by area averaging. On the step that ends an episode the engine has no
frame any more, and the last one is repeated.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import vizdoom
from numpy.typing import NDArray
from PIL import Image

from dreamenv.envs.tasks import HEALTH_WORTH, TICS_PER_SECOND, VIZDOOM_TASKS, VizdoomTask
from dreamenv.errors import ActionError, ConfigError, ResetNeededError, UnknownNameError, WorkerError

if TYPE_CHECKING:
    from dreamenv.data.provenance import Provenance

__all__ = ["VizdoomEnv"]

_STARTING = threading.Lock()  # the working directory belongs to the whole process, so engines start one at a time
_MAX_SIZE = 480


class VizdoomEnv(gym.Env[NDArray[np.uint8], np.int64]):
    """One ViZDoom task.

    Observations are (size, size, 3) uint8 RGB. ``info`` has ``native_action`` (the buttons held, list of 0 or 1),
    ``score`` (see the task), ``success`` (score at least the task's ``solved``) and ``health`` (at most 100).

    Args:
        task: short name, see `dreamenv.envs.tasks.VIZDOOM_TASKS`, where each task's reward is described.
        size: height and width of the frames, in pixels, 8 to 480.
        frame_skip: tics per step, during which the action is held and rewards are summed.
        reward: one of the task's reward settings; None for its default.
        render_mode: "rgb_array" for the engine's unshrunk picture, "human" for the engine's own window.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 35}  # noqa: RUF012 - gymnasium's

    def __init__(
        self,
        task: str,
        *,
        size: int = 64,
        frame_skip: int = 4,
        reward: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        if task not in VIZDOOM_TASKS:
            raise UnknownNameError("ViZDoom task", task, VIZDOOM_TASKS)
        self.task: VizdoomTask = VIZDOOM_TASKS[task]
        self.reward = reward if reward is not None else self.task.rewards[0]
        if self.reward not in self.task.rewards:
            raise UnknownNameError(f"reward setting of {task}", self.reward, self.task.rewards)
        if not 8 <= size <= _MAX_SIZE:
            raise ConfigError(f"size must be from 8 to {_MAX_SIZE} pixels, not {size}.")
        if not 1 <= frame_skip <= self.task.max_tics:
            raise ConfigError(f"frame_skip must be from 1 to {self.task.max_tics} tics, not {frame_skip}.")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(
                f"render_mode must be one of {self.metadata['render_modes']} or None, not {render_mode!r}."
            )
        self.size, self.frame_skip, self.render_mode = size, frame_skip, render_mode
        self.metadata = {**self.metadata, "render_fps": TICS_PER_SECOND / frame_skip}
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(len(self.task.action_table))
        self._game: vizdoom.DoomGame | None = None
        self._screen = np.zeros((120, 160, 3), np.uint8)
        self._frame = np.zeros((size, size, 3), np.uint8)
        self._running, self._reached = False, False
        self._start_tic, self._tics, self._health = 0, 0, 0.0

    @cached_property
    def provenance(self) -> Provenance:
        """What a recording of this environment must say about it."""
        from dreamenv.data.provenance import Provenance  # here, so that playing needs none of the data libraries

        return Provenance(
            environment_id=self.task.id,
            environment_kwargs={"size": self.size, "frame_skip": self.frame_skip, "reward": self.reward},
            action_names=self.task.action_names,
            action_table=[list(buttons) for buttons in self.task.action_table],
            frame_skip=self.frame_skip,
            frame_size=self.size,
            resize="area",
            frame_rate=TICS_PER_SECOND / self.frame_skip,
            max_episode_steps=-(-self.task.max_tics // self.frame_skip),
            score=self.task.score,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode; the same seed gives the same one, and unseeded ones follow from the last seed."""
        super().reset(seed=seed, options=options)
        game = self._game = self._game or self._start_engine()
        episode_seed = int(self.np_random.integers(2**31))
        with _engine_errors():
            game.set_seed(episode_seed)
            game.new_episode()
            self._start_tic = game.get_episode_time()
        self._tics, self._reached, self._running = 0, False, True
        self._health = self._read_health()
        self._look()
        return self._frame.copy(), self._info(0)

    def step(self, action: np.int64 | int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Hold the action's buttons for ``frame_skip`` tics."""
        if not self._running or self._game is None:
            raise ResetNeededError("step was called before reset or after the episode's end; call reset().")
        index = self._check(action)
        buttons = list(self.task.action_table[index])
        game = self._game
        with _engine_errors():
            native = game.make_action(buttons, min(self.frame_skip, self.task.max_tics - self._tics))
            terminated = bool(game.is_episode_finished())
            self._tics = game.get_episode_time() - self._start_tic
        health, before = (0.0 if terminated else self._read_health()), self._health
        self._health = health
        self._reached = self._reached or (self.task.scores == "goal" and native > 0.5)
        reward = self._reward(native, before, health)
        truncated = not terminated and self._tics >= self.task.max_tics
        self._running = not (terminated or truncated)
        if not terminated:
            self._look()
        return self._frame.copy(), float(reward), terminated, truncated, self._info(index)

    def render(self) -> NDArray[np.uint8] | None:
        """Return the engine's picture, (height, width, 3) uint8 at 4:3; None where the engine shows its own window."""
        return self._screen.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Stop the engine and remove its working directory."""
        self._running = False
        if self._game is not None:
            self._game = None
            self._finalizer()

    def _reward(self, native: float, before: float, after: float) -> float:
        if self.reward == "medkit":
            return float(after > before)
        return native + (HEALTH_WORTH * (after - before) if self.reward == "health" else 0.0)

    def _check(self, action: np.int64 | int) -> int:
        try:
            index = int(action)
        except (TypeError, ValueError):
            index = -1
        if not 0 <= index < len(self.task.action_table) or index != action:
            known = ", ".join(f"{i} {name}" for i, name in enumerate(self.task.action_names))
            raise ActionError(f"action {action!r} is not in {self.action_space}: {known}.")
        return index

    def _info(self, index: int) -> dict[str, Any]:
        score = float(self._reached) if self.task.scores == "goal" else float(self._tics)
        return {
            "native_action": list(self.task.action_table[index]),
            "score": score,
            "success": score >= self.task.solved,
            "health": self._health,
        }

    def _look(self) -> None:
        state = self._game.get_state() if self._game is not None else None
        if state is not None and state.screen_buffer is not None:
            self._screen = np.ascontiguousarray(state.screen_buffer)
            small = Image.fromarray(self._screen).resize((self.size, self.size), Image.Resampling.BOX)
            self._frame = np.asarray(small)

    def _read_health(self) -> float:
        return float(self._game.get_game_variable(vizdoom.GameVariable.HEALTH)) if self._game is not None else 0.0

    def _start_engine(self) -> vizdoom.DoomGame:
        game = vizdoom.DoomGame()
        game.load_config(str(Path(vizdoom.scenarios_path) / f"{self.task.scenario}.cfg"))
        height = next(height for height in (120, 240, 480) if height >= self.size)
        game.set_screen_resolution(getattr(vizdoom.ScreenResolution, f"RES_{height * 4 // 3}X{height}"))
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_available_buttons([getattr(vizdoom.Button, name) for name in self.task.buttons])
        game.set_episode_timeout(0)  # we truncate ourselves: the engine shows no frame at its own time limit
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_window_visible(self.render_mode == "human")
        self.working_directory = tempfile.mkdtemp(prefix="dreamenv-vizdoom-")
        self._finalizer = weakref.finalize(self, _stop_engine, game, self.working_directory)
        with _STARTING, contextlib.chdir(self.working_directory), _engine_errors():
            game.init()
        return game


def _stop_engine(game: vizdoom.DoomGame, folder: str) -> None:
    game.close()
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    """Turn the death of the engine's process into a WorkerError."""
    try:
        yield
    except (
        vizdoom.ViZDoomErrorException,
        vizdoom.ViZDoomIsNotRunningException,
        vizdoom.ViZDoomUnexpectedExitException,
    ) as error:
        raise WorkerError(f"the ViZDoom engine stopped: {error}. Close this environment and make a new one.") from error

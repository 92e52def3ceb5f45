"""ViZDoom scenarios as gymnasium environments.

Each game runs as its own engine process in a private working directory (engines in one directory interfere with each
other), under a supervisor. The engine releases the GIL, so several environments can be stepped in threads. It renders
at 4:3, and has no frame for the step that terminates an episode.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import vizdoom
from numpy.typing import NDArray

from dreamenv.envs.base import RealEnv, SimStep
from dreamenv.envs.vizdoom.config import check_files, find_config, read_config
from dreamenv.envs.vizdoom.engine import use_supervisor
from dreamenv.envs.vizdoom.tasks import HEALTH_REWARD, VIZDOOM_TASKS, VizdoomTask
from dreamenv.errors import ConfigError, UnknownNameError, WorkerError

__all__ = ["VizdoomEnv"]

_LAST_TICS = 35  # at most, until a level ends whose goal was reached; usually one
_STARTING = threading.Lock()  # the working directory is that of the whole process, so engines start one at a time


class VizdoomEnv(RealEnv):
    """A ViZDoom task. ``info`` also has ``health`` (at most 100).

    Args:
        task: short name, see `dreamenv.envs.vizdoom.tasks.VIZDOOM_TASKS`, where each task's reward is described.
        config: of the task "vizdoom": the path of a ``.cfg`` file, or the name of one of ViZDoom's own scenarios.
        solved: of the task "vizdoom": the return from which an episode is a success; None for never.
        settings: see `RealEnv`; a native step is a tic of 1/35 s. ``render_mode="human"`` opens the engine's window.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 35}  # noqa: RUF012 - gymnasium's
    task: VizdoomTask
    label_objects = False
    """Whether the engine also tells which pixels show which object, for `find_objects`; set it before the first reset.
    It costs a little time."""

    def __init__(
        self, task: str, *, config: str | Path | None = None, solved: float | None = None, **settings: Any
    ) -> None:
        if task not in VIZDOOM_TASKS:
            raise UnknownNameError("ViZDoom task", task, VIZDOOM_TASKS)
        chosen = VIZDOOM_TASKS[task]
        self._config: dict[str, Any] = {}  # keyword arguments that make this task
        if "config" in chosen.example_arguments:
            if config is None:
                raise ConfigError(f"{task} needs a configuration file: config='path.cfg', or 'basic'.")
            chosen = read_config(config, solved)
            shipped = Path(chosen.scenario).parent == Path(vizdoom.scenarios_path)
            self._config = {"config": Path(chosen.scenario).stem if shipped else chosen.scenario}
            if solved is not None:
                self._config["solved"] = solved
        elif config is not None or solved is not None:
            raise ConfigError(f"{task} takes neither config nor solved; those belong to make_real('vizdoom', ...).")
        super().__init__(chosen, **settings)
        self._game: vizdoom.DoomGame | None = None
        self._goal_reached = False
        self._start_tic, self._health, self._return = 0, 0.0, 0.0

    def close(self) -> None:
        """Stop the engine and remove its working directory."""
        self._running = False
        if self._game is not None:
            self._game = None
            self._finalizer()

    def find_objects(self, name: str) -> list[NDArray[np.bool_]]:
        """Return which pixels of the native screen show each visible object of a name, such as "Medikit".

        Raises:
            ConfigError: the engine was not asked to tell them, see `label_objects`.
        """
        if not self.label_objects:
            raise ConfigError("find_objects needs label_objects = True, set before the first reset.")
        state = self._game.get_state() if self._game is not None else None
        if state is None or state.labels is None or state.labels_buffer is None:
            return []
        return [np.equal(state.labels_buffer, label.value) for label in state.labels if label.object_name == name]

    def _reset_sim(self, seed: int) -> SimStep:
        game = self._game = self._game or self._start_engine()
        with _engine_errors():
            game.set_seed(seed)
            game.new_episode()
            self._start_tic = game.get_episode_time()
        self._goal_reached, self._health, self._return = False, self._read_health(), 0.0
        return SimStep(screen=self._read_screen(), info={"health": self._health})

    def _step_sim(self, action: Any, native_steps: int) -> SimStep:
        game = self._game
        assert game is not None
        with _engine_errors():
            native = game.make_action(list(action), native_steps)
            if self.task.score_metric == "goal" and native > 0.5:
                self._goal_reached = True
                native += self._end_level(game, action)
            terminated = bool(game.is_episode_finished())
            tics = game.get_episode_time() - self._start_tic
        health, before = (0.0 if terminated else self._read_health()), self._health
        self._health = health
        self._return += native
        scores = {"goal": float(self._goal_reached), "tics": float(tics), "return": self._return}
        return SimStep(
            screen=None if terminated else self._read_screen(),
            reward=self._reward(native, before, health),
            terminated=terminated,
            native_steps=tics - self._elapsed,
            score=scores[self.task.score_metric],
            info={"health": health},
        )

    def _end_level(self, game: vizdoom.DoomGame, action: Any) -> float:
        """Advance to the end of a level whose goal was reached, and return the reward of these tics.

        The level's script gives the reward first and ends the level a tic later: one time in four in the next step.
        """
        reward = 0.0
        for _ in range(_LAST_TICS):
            if game.is_episode_finished():
                break
            reward += game.make_action(list(action), 1)
        return reward

    def _make_kwargs(self) -> dict[str, Any]:
        return {**super()._make_kwargs(), **self._config}

    def _reward(self, native: float, before: float, after: float) -> float:
        if self.reward == "medkit":
            return float(after > before)
        return native + (HEALTH_REWARD * (after - before) if self.reward == "health" else 0.0)

    def _read_screen(self) -> NDArray[np.uint8] | None:
        state = self._game.get_state() if self._game is not None else None
        return None if state is None else state.screen_buffer

    def _read_health(self) -> float:
        return float(self._game.get_game_variable(vizdoom.GameVariable.HEALTH)) if self._game is not None else 0.0

    def _start_engine(self) -> vizdoom.DoomGame:
        game = vizdoom.DoomGame()
        config = find_config(self.task.scenario)
        game.load_config(str(config))
        check_files(game, config)
        height = next(height for height in (120, 240, 480) if height >= max(self.height, self.width * 3 // 4))
        game.set_screen_resolution(getattr(vizdoom.ScreenResolution, f"RES_{height * 4 // 3}X{height}"))
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_available_buttons([getattr(vizdoom.Button, name) for name in self.task.buttons])
        game.set_episode_timeout(0)  # RealEnv truncates: the engine has no frame at its own time limit
        game.set_sound_enabled(False)  # OpenAL ends the process where there is no audio device
        game.set_audio_buffer_enabled(False)
        game.set_labels_buffer_enabled(self.label_objects)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_window_visible(self.render_mode == "human")
        with _STARTING:
            self.working_directory = tempfile.mkdtemp(prefix="dreamenv-vizdoom-")
            self._finalizer = weakref.finalize(self, _stop_engine, game, self.working_directory)
            use_supervisor(game, self.working_directory)
            with contextlib.chdir(self.working_directory), _engine_errors():
                game.init()
        return game


def _stop_engine(game: vizdoom.DoomGame, folder: str) -> None:
    game.close()
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    """Raise a WorkerError if the engine's process dies."""
    try:
        yield
    except (
        vizdoom.ViZDoomErrorException,
        vizdoom.ViZDoomIsNotRunningException,
        vizdoom.ViZDoomUnexpectedExitException,
    ) as error:
        raise WorkerError(f"the ViZDoom engine stopped: {error}. Close this environment and make a new one.") from error

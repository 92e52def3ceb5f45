"""Base classes of real environments: small RGB frames, a table of actions, frame skip, a time limit, a score.

A family of environments subclasses `RealEnv` and implements ``_reset_sim`` and ``_step_sim``, or subclasses
`FrameSkipEnv` and implements ``_reset_sim`` and ``_step_once``. Everything else, and all checks of arguments, is here:
all environments share one interface, and users switch tasks by id.

Native frames are shrunk to ``size`` by area averaging. Where a simulator has no frame for the last step of an episode,
the previous frame is repeated.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dreamenv.checks import check_whole
from dreamenv.envs.pictures import height_and_width, resize
from dreamenv.envs.task import RealTask
from dreamenv.errors import ActionError, ConfigError, ResetNeededError, UnknownNameError

if TYPE_CHECKING:
    from dreamenv.data.provenance import Provenance

__all__ = ["FrameSkipEnv", "RealEnv", "SimStep"]


@dataclass(frozen=True, kw_only=True)
class SimStep:
    """What a simulator returns after some native steps, or after a reset.

    Attributes:
        screen: (height, width, 3) uint8 RGB, top row first; None repeats the previous one.
        reward: summed over the native steps, in the chosen reward setting.
        terminated: whether the episode ended within the task.
        native_steps: how many native steps passed.
        score: the task's score so far.
        info: further entries of ``info``.
    """

    screen: NDArray[np.uint8] | None
    reward: float = 0.0
    terminated: bool = False
    native_steps: int = 0
    score: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict)


class RealEnv(gym.Env[NDArray[np.uint8], Any], ABC):
    """A task of a real environment.

    It can be copied and pickled; the copy needs a `reset`, since an engine's episode cannot be copied.

    Observations are (height, width, 3) uint8 RGB. ``info`` has ``native_action`` (what the simulator received),
    ``score`` (see the task), ``success`` (score at least the task's ``solved``), and what the family adds.

    Args:
        task: the task.
        size: height and width of the frames, in pixels: one number for square ones, or a pair, such as (360, 640); a
            height is from 8 to 480, a width from 8 to 640.
        frame_skip: native steps per agent step, during which the action is held and rewards are summed; None for the
            task's own.
        reward: one of the task's reward settings; None for its default.
        render_mode: "rgb_array" for the native frame, or another mode of the family.
        native_actions: take the simulator's own actions instead of an index into the action table.

    Raises:
        ConfigError, UnknownNameError: a setting is not valid.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - gymnasium's
    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Keep the arguments, of which a copy is made."""
        env = super().__new__(cls)
        env._arguments = args, settings
        return env

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what makes the environment and its random stream: a copy has an engine and episodes of its own."""
        kept = {"spec": self.spec, "_np_random": self.np_random, "_np_random_seed": self._np_random_seed}
        return _make_again, (type(self), *self._arguments), kept

    def __init__(
        self,
        task: RealTask,
        *,
        size: int | tuple[int, int] = 64,
        frame_skip: int | None = None,
        reward: str | None = None,
        render_mode: str | None = None,
        native_actions: bool = False,
    ) -> None:
        self.task = task
        self.reward = reward if reward is not None else task.rewards[0]
        if self.reward not in task.rewards:
            raise UnknownNameError(f"reward setting of {task.name}", self.reward, task.rewards)
        self.height, self.width = height_and_width(size)
        frame_skip = task.frame_skip if frame_skip is None else frame_skip
        frame_skip = check_whole("frame_skip", frame_skip, most=task.max_native_steps, also=", or None")
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise ConfigError(f"render_mode must be one of {modes} or None, not {render_mode!r}.")
        self.size = self.height if self.height == self.width else (self.height, self.width)
        self.frame_skip, self.render_mode, self.native_actions = frame_skip, render_mode, native_actions
        self.metadata = {**self.metadata, "render_fps": task.native_rate / frame_skip}
        self.observation_space = gym.spaces.Box(0, 255, (self.height, self.width, 3), np.uint8)
        self.action_space = (
            self.native_action_space() if native_actions else gym.spaces.Discrete(len(task.action_table))
        )
        self._screen: NDArray[np.uint8] = np.zeros((self.height, self.width, 3), np.uint8)
        self._frame = self._screen
        self._running = False
        self._elapsed = 0  # native steps of this episode

    # What a family implements

    def native_action_space(self) -> gym.Space[Any]:
        """Return the space of the simulator's own actions.

        Raises:
            ConfigError: the family does not accept native actions.
        """
        raise ConfigError(f"{self.task.name} takes indices of its action table only; leave native_actions out.")

    @abstractmethod
    def _reset_sim(self, seed: int) -> SimStep:
        """Start the episode of a seed in [0, 2**31)."""

    @abstractmethod
    def _step_sim(self, action: Any, native_steps: int) -> SimStep:
        """Repeat a native action for this many native steps, fewer if the episode terminates; sum the rewards."""

    # Gymnasium's interface

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode; the same seed gives the same one, and unseeded resets follow from the last seed."""
        super().reset(seed=seed, options=options)
        self._running = False
        step = self._reset_sim(int(self.np_random.integers(2**31)))
        self._running, self._elapsed = True, 0
        self._update_frame(step)
        return self._frame.copy(), self._info(step, self._to_native(0) if not self.native_actions else None)

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Repeat an action for ``frame_skip`` native steps."""
        if not self._running:
            raise ResetNeededError("step was called before reset or after the end of an episode; call reset().")
        native = self._to_native(action)
        self._running = False  # if the simulator fails, a reset is needed
        step = self._step_sim(native, min(self.frame_skip, self.task.max_native_steps - self._elapsed))
        self._elapsed += step.native_steps
        truncated = not step.terminated and self._elapsed >= self.task.max_native_steps
        self._running = not (step.terminated or truncated)
        self._update_frame(step)
        return self._frame.copy(), float(step.reward), step.terminated, truncated, self._info(step, native)

    def render(self) -> NDArray[np.uint8] | None:
        """Return the native frame, (height, width, 3) uint8; None where the simulator shows its own window."""
        return self._screen.copy() if self.render_mode == "rgb_array" else None

    @cached_property
    def provenance(self) -> Provenance:
        """What a recording of this environment says about it."""
        from dreamenv.data.provenance import Provenance  # here, so that playing needs none of the data libraries

        return Provenance(
            environment_id=self.task.id,
            environment_kwargs=self._make_kwargs(),
            action_names=() if self.native_actions else self.task.action_names,
            action_table=[] if self.native_actions else list(self.task.action_table),
            frame_skip=self.frame_skip,
            frame_size=self.size,
            resize="area",
            frame_rate=self.task.native_rate / self.frame_skip,
            max_episode_steps=-(-self.task.max_native_steps // self.frame_skip),
            score=self.task.score,
        )

    def _make_kwargs(self) -> dict[str, Any]:
        """Return the keyword arguments that make this environment; families add their own."""
        arguments: dict[str, Any] = {"size": self.size, "frame_skip": self.frame_skip, "reward": self.reward}
        return {**arguments, "native_actions": True} if self.native_actions else arguments

    def _to_native(self, action: Any) -> Any:
        """Turn an agent's action into the simulator's own."""
        if self.native_actions:
            if not self.action_space.contains(action):
                raise ActionError(f"action {action!r} is not in {self.action_space}.")
            return action
        try:
            index = int(action)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            index = -1
        if not 0 <= index < len(self.task.action_table) or index != action:
            known = ", ".join(f"{i} {name}" for i, name in enumerate(self.task.action_names))
            raise ActionError(f"action {action!r} is not in {self.action_space}: {known}.")
        return self.task.action_table[index]

    def _info(self, step: SimStep, native: Any) -> dict[str, Any]:
        native = list(native) if isinstance(native, tuple) else copy.deepcopy(native)  # callers may change theirs
        return {
            "native_action": native,
            "score": float(step.score),
            "success": bool(step.score >= self.task.solved),
            **step.info,
        }

    def _update_frame(self, step: SimStep) -> None:
        if step.screen is None:
            return
        self._screen = np.ascontiguousarray(step.screen)
        self._frame = resize(self._screen, self.height, self.width)


def _make_again(cls: type[RealEnv], args: tuple[Any, ...], settings: dict[str, Any]) -> RealEnv:
    return cls(*args, **settings)


class FrameSkipEnv(RealEnv):
    """A real environment whose simulator takes one native step at a time; repeats each action."""

    @abstractmethod
    def _step_once(self, action: Any) -> SimStep:
        """Take one native step."""

    def _step_sim(self, action: Any, native_steps: int) -> SimStep:
        step = self._step_once(action)
        reward, taken = step.reward, 1
        while taken < native_steps and not step.terminated:
            step = self._step_once(action)
            reward, taken = reward + step.reward, taken + 1
        return replace(step, reward=reward, native_steps=taken)

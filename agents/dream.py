"""Dreams for stable-baselines3, which does not take gymnasium's own vector environments.

::

    from stable_baselines3 import PPO
    from dreamenv.agents import DreamVecEnv

    PPO("MlpPolicy", DreamVecEnv(num_envs=64, observation="latent")).learn(100_000)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from dreamenv.agents.observations import FrameStack, ObservationConfig
from dreamenv.agents.rows import RowsVecEnv, Stepped
from dreamenv.checks import check_whole
from dreamenv.dream.vector_env import DreamVectorEnv
from dreamenv.errors import ConfigError, InputError, ResetNeededError, UnknownNameError
from dreamenv.world import World

__all__ = ["DreamVecEnv"]


class DreamVecEnv(RowsVecEnv):
    """A batch of dreams as a stable-baselines3 VecEnv.

    Args:
        world: a world, its folder or ``hf://`` name; None for the one that comes with dreamenv.
        num_envs: rows, at least 1.
        observation: "latent" or "frame" for what `DreamVectorEnv` gives (frames (h, w, c) uint8), or a configuration
            to stack, grey and shrink frames.
        **settings: further arguments of `DreamVectorEnv` (``config``, ``reward_fn``, ``device``, ...) and fields of
            `DreamConfig` (``horizon``, ...).
    """

    def __init__(
        self,
        world: World | str | Path | None = None,
        num_envs: int = 1,
        *,
        observation: ObservationConfig | Literal["latent", "frame"] = "frame",
        **settings: Any,
    ) -> None:
        num_envs = check_whole("num_envs", num_envs)
        taken = {"autoreset_mode", "output"} & set(settings)
        if taken:
            raise ConfigError(f"{taken.pop()} is fixed here: stable-baselines3 wants same-step autoreset and arrays.")
        kind: Any = observation.kind if isinstance(observation, ObservationConfig) else observation
        self.dreams = DreamVectorEnv(
            world, num_envs, observation=kind, autoreset_mode=AutoresetMode.SAME_STEP, **settings
        )
        space = self.dreams.single_observation_space
        self._stack: FrameStack | None = None
        if isinstance(observation, ObservationConfig) and kind == "frame":
            height, width, channels = space.shape or (0, 0, 0)
            try:
                self._stack = FrameStack(observation, num_envs, (height, width, channels))
            except BaseException:
                self.dreams.close()
                raise
            space = self._stack.space
        super().__init__(num_envs, space, self.dreams.single_action_space)

    def reset(self) -> NDArray[Any]:
        """Start a dream in every row. Rows that were never seeded go on with their streams.

        Each row's options, if they were set, may name its "start", see `DreamVectorEnv.reset`; they are used once.
        """
        self._check_open()
        options = _join(self._take_options())
        observations, infos = self.dreams.reset(seed=self._seeds, options=options)
        self._begin_counting()
        self._keep_reset_infos(self._everything, infos)
        return self._first(self._everything, observations)

    def reset_rows(
        self, rows: NDArray[np.int64], seeds: NDArray[np.int64], options: Sequence[dict[str, Any]] | None = None
    ) -> NDArray[Any]:
        """Start dreams in some rows; the seed fixes the start, unless options name it, and all that follows."""
        every: list[int | None] = [None] * self.num_envs
        asked: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        mask = np.zeros(self.num_envs, np.bool_)
        mask[rows] = True
        for place, row in enumerate(rows):
            every[row] = int(seeds[place])
            asked[row] = options[place] if options is not None else {}
        chosen = _join(asked) if mask.all() else {**_join(asked), "reset_mask": mask}
        observations, infos = self.dreams.reset(seed=every, options=chosen)
        self._keep_reset_infos(rows, infos)
        return self._first(rows, observations[rows])

    def step_rows(self, actions: NDArray[Any], active: NDArray[np.bool_] | None = None) -> Stepped:
        """Step every row, the inactive ones too: that costs a batch nothing."""
        del active
        observations, rewards, terminated, truncated, infos = self.dreams.step(self._read_actions(actions))
        done = terminated | truncated
        finals = observations.copy()
        for row in np.flatnonzero(done):
            finals[row] = infos["final_obs"][row]
        if self._stack is not None:
            finals = self._stack.push(finals)
        return Stepped(finals, rewards.astype(np.float32), terminated, truncated, self._row_infos(done, infos))

    def step_wait(self) -> VecEnvStepReturn:
        """Step all rows; rows that end have been reset already."""
        self._check_open()
        if not self._ready or self._actions is None:
            raise ResetNeededError("step was called before reset; call reset() first.")
        observations, rewards, terminated, truncated, infos = self.dreams.step(self._read_actions(self._actions))
        done = terminated | truncated
        rewards = rewards.astype(np.float32)
        told = self.count_episodes(rewards, terminated, truncated, self._row_infos(done, infos))
        ended = np.flatnonzero(done)
        self._keep_reset_infos(ended, infos)
        if self._stack is not None:
            firsts = observations[ended]
            last = observations
            if len(ended):
                last = observations.copy()
                for row in ended:
                    last[row] = infos["final_obs"][row]
            observations = self._stack.push(last)
            for row in ended:
                told[row]["terminal_observation"] = observations[row].copy()
            if len(ended):
                observations[ended] = self._stack.reset(ended, firsts)
        else:
            for row in ended:
                told[row]["terminal_observation"] = np.array(infos["final_obs"][row])
        return observations, rewards, done, told

    def close(self) -> None:
        """Free the dreams."""
        super().close()
        self.dreams.close()

    def get_images(self) -> list[NDArray[np.uint8] | None]:
        """Return the rows' pictures."""
        images = self.dreams.render()
        return [None] * self.num_envs if images is None else list(images)

    def _first(self, rows: NDArray[np.int64], observations: NDArray[Any]) -> NDArray[Any]:
        return observations.copy() if self._stack is None else self._stack.reset(rows, observations)

    def _row_infos(self, done: NDArray[np.bool_], infos: dict[str, Any]) -> list[dict[str, Any]]:
        """Return each row's infos of the step, of ended rows their final ones."""
        final = infos.get("final_info", {})
        names = [name for name in infos if not name.startswith(("_", "final_"))]
        columns = [(np.where(done, final[name], infos[name]) if final else infos[name]).tolist() for name in names]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def _keep_reset_infos(self, rows: NDArray[np.int64], infos: dict[str, Any]) -> None:
        for row in rows.tolist():
            self.reset_infos[row] = {
                name: value[row].item() for name, value in infos.items() if not name.startswith(("_", "final_"))
            }

    def _target(self, row: int) -> Any:
        del row
        return self.dreams

    def _is_wrapped(self, row: int, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        del row, wrapper_class
        return False


def _join(options: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Turn one dictionary of options per row into one of all rows.

    Raises:
        InputError, UnknownNameError: what is no dictionary, or an option that a row does not have.
    """
    for one in options:
        if not isinstance(one, Mapping):
            raise InputError(f"a row's options must be a dictionary, not {one!r}.")
        for name in one:
            if name != "start":
                raise UnknownNameError("reset option of a row", str(name), ["start"])
    return {"start": [one.get("start") for one in options]}

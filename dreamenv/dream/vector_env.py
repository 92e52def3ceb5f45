"""Many dreams of one world, stepped as a batch: the primary environment. `DreamEnv` is one row of it.

A dream is a pure function of its state and its actions, and so is this environment: everything a row's future depends
on is in `get_state`. Rows never influence each other.

A world that imagines several frames at once is acted in at every frame too, see `dreamenv.dream.chunking`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from dreamenv.checks import check_choice, check_flag, check_whole
from dreamenv.data.starts import Starts
from dreamenv.devices import find_device
from dreamenv.dream.actions import ActionReader
from dreamenv.dream.batch import DreamBatch, StepResult
from dreamenv.dream.config import DreamConfig, require
from dreamenv.dream.gaze import Gazing, first_gaze
from dreamenv.dream.hindsight import read_revision
from dreamenv.dream.infos import Infos, first_infos, keep_final, restart_infos, step_infos
from dreamenv.dream.latents import observation_space
from dreamenv.dream.loading import find_world, prepare_model
from dreamenv.dream.options import (
    MOST_ROWS,
    choose_pools,
    episode_pool,
    read_autoreset_mode,
    read_branches,
    read_options,
    read_seeds,
)
from dreamenv.dream.prompts import Prompting, encode_prompts, first_prompts
from dreamenv.dream.render import Renderer, check_scale
from dreamenv.dream.rewards import RewardFunction, compute_rewards, step_info_names
from dreamenv.dream.starting import StartStates
from dreamenv.dream.states import branch_state, check_world
from dreamenv.errors import ClosedError, ConfigError, ResetNeededError
from dreamenv.tensordicts import take_rows
from dreamenv.world import World
from dreamenv.world_model import State

__all__ = ["DreamVectorEnv"]

Rows = NDArray[np.int64]
Step = tuple[Any, Any, Any, Any, Infos]

_DEFAULT_HORIZON = 256  # steps, where the world does not know the real environment's time limit
_NO_ROWS: Rows = np.zeros(0, dtype=np.int64)


class DreamVectorEnv(Gazing, Prompting, VectorEnv[Any, Any, Any]):
    """``num_envs`` dreams of one world.

    Args:
        world: a `World`, or where to load one from (a path, ``hf://owner/name``); None for the world that ships with
            dreamenv.
        num_envs: number of dreams, b.
        config: how to dream.
        observation: "frame" (h, w, c) uint8, or "latent" (d,) float32: the model's embedding of its state, which needs
            no decoding and is much faster.
        autoreset_mode: NEXT_STEP (gymnasium's default), SAME_STEP or DISABLED.
        output: "numpy", or "torch" for tensors on ``device`` (observations, rewards, flags; infos stay on the host).
        device: where to dream; by default where the world is.
        starts: segments to start from instead of the world's own.
        reward_fn: gives rewards (b,) instead of the world, from the frames (b, h, w, c) uint8 that a step led to and
            the actions (b, *a) that led there, as numpy arrays; a Dict's actions are flat, see
            `dreamenv.action_layout`. Some imported worlds predict no rewards of their own.
        render_mode: "rgb_array" or "human".
        render_start: `render` shows the real frame the dream started with to the left of the dream.
        render_scale: pixels per pixel in `render`; by default 1, or what fits a window.
        **settings: fields of `DreamConfig` (``horizon=128``), which replace those of ``config``.

    Rewards are float64 as gymnasium's own vector environments have them (float32 as tensors). Infos, of `reset` and
    `step` alike: "start", which of the starts the row's dream began with; "termination_probability" of the step;
    "uncertainty" where the model estimates it; "imagined_reward", before the penalty, where there is one. They are 0
    where a dream begins.

    Raises:
        ConfigError, UnknownKeywordError: settings that cannot work, do not exist, or are not supported by this world.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as gymnasium declares it
        "render_modes": ["human", "rgb_array"],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        world: World | str | Path | None = None,
        num_envs: int = 1,
        *,
        config: DreamConfig | None = None,
        observation: Literal["frame", "latent"] = "frame",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        output: Literal["numpy", "torch"] = "numpy",
        device: str | torch.device | None = None,
        starts: Starts | None = None,
        reward_fn: RewardFunction | None = None,
        render_mode: str | None = None,
        render_start: bool = False,
        render_scale: int | None = None,
        **settings: Any,
    ) -> None:
        self.config = config = DreamConfig.resolve(config, settings, caller=DreamVectorEnv)
        num_envs = check_whole("num_envs", num_envs, most=MOST_ROWS)
        check_choice("observation", observation, ("frame", "latent"))
        check_choice("output", output, ("numpy", "torch"))
        if render_mode is not None:
            check_choice("render_mode", render_mode, self.metadata["render_modes"])
        render_scale = check_scale(render_scale)
        render_start = check_flag("render_start", render_start)
        require(reward_fn is None or callable(reward_fn), f"reward_fn must be a function, not {reward_fn!r}.")
        require(starts is None or isinstance(starts, Starts), f"starts must be Starts, not {starts!r}.")

        self.world = find_world(world, device)
        spec, provenance = self.world.spec, self.world.provenance
        self._device = find_device(device) if device is not None else self.world.device
        model = prepare_model(self.world, config, self._device)
        self.num_envs, self.render_mode, self.output = num_envs, render_mode, output
        self.horizon = config.horizon or (provenance.max_episode_steps if provenance else None) or _DEFAULT_HORIZON
        self.autoreset_mode = read_autoreset_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode, "render_fps": spec.frame_rate}
        self._latent = observation == "latent"
        self.single_action_space = copy.deepcopy(spec.action_space)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.single_observation_space = observation_space(self.world, latent=self._latent)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

        self._read = ActionReader(spec.action_space, num_envs, self._device)
        self._starts = StartStates(model, starts if starts is not None else self.world.starts, self._device)
        every = np.array([0, self._starts.segments])
        self._pool = episode_pool(self._starts) if config.episode_starts_only else every
        self._dreams = DreamBatch(
            model,
            self._starts,
            num_envs,
            device=self._device,
            horizon=self.horizon,
            temperatures=config.temperature_range,
            decode=not self._latent or render_mode is not None or reward_fn is not None,
            max_uncertainty=config.max_uncertainty,
            prompt=encode_prompts(model, [config.prompt], self._device),
        )
        self._renderer = Renderer(
            human=render_mode == "human", scale=render_scale, frame_height=spec.frame_shape[1], rate=spec.frame_rate
        )
        self._render_start, self._reward_fn = render_start, reward_fn
        self._penalty = np.float32(config.uncertainty_penalty)
        self._told = step_info_names(model, config, type(self.world.model).__name__)
        if reward_fn is None and not spec.predicts_rewards:
            warnings.warn(
                "this world predicts no rewards, so all are 0. Pass reward_fn=..., or teach it some: "
                "dreamenv.importers.learn_rewards.",
                stacklevel=2,
            )
        self._seeded = np.zeros(num_envs, dtype=np.bool_)
        self._ended: Rows = _NO_ROWS  # rows whose dream ended in the last step and has not been restarted

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled; a copy that was never seeded dreams the same dreams."""
        return {**vars(self), "_np_random": self.np_random}

    @property
    def seeded(self) -> bool:
        """Whether all rows have been seeded."""
        return bool(self._seeded.all())

    # gymnasium's interface

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start new dreams.

        Args:
            seed: one for all rows (row i gets seed + i) or one per row; None continues the rows' streams, which
                are seeded at random if they never were.
            options: "start": the number of one of the world's starts, or "episode" for the first frame of any real
                episode, one for all rows or one per row (None for a row's usual choice); "prompt": what to ask for, one
                string for all rows or one per row (None for the configuration's), see `prompt`; "reset_mask": (b,)
                bool, which rows to reset, the others go on; "gaze": where those look at first, as `look` takes it.

        Returns:
            The observations of all rows, and infos of those that were reset.

        Raises:
            SeedError, InputError, PromptError, UnknownNameError: seeds or options that make no sense; nothing changed.
            ClosedError: after `close`.
        """
        self._check_open()
        rows, start = read_options(options, self.num_envs)
        gaze = first_gaze(options, self._dreams.model, self.num_envs)
        if not self._dreams.started and len(rows) < self.num_envs:
            raise ResetNeededError("the first reset must be of all rows, without a reset_mask.")
        seeds = read_seeds(seed, self.num_envs)
        pools = choose_pools(start, rows, self.num_envs, self._starts, self._pool)
        asked = first_prompts(options, self.config.prompt, rows, self.num_envs)
        prompts = encode_prompts(self._dreams.model, asked, self._device)
        super().reset(seed=seeds[0] if isinstance(seed, Integral) else None)
        self._seed_rows(rows, seeds)
        self._dreams.begin(rows, pools, prompts, gaze)
        self._ended = np.setdiff1d(self._ended, rows, assume_unique=True)
        if self.render_mode == "human":
            self.render()
        return self._observe(), first_infos(self._dreams.segment(), self._mask(rows), self._told)

    def step(self, actions: Any) -> Step:
        """Dream one step in every row. Where an error is raised, also by ``reward_fn``, the dreams stay as they were.

        Args:
            actions: (b, *a), or for a Dict space a dictionary of batched entries. Those of rows that NEXT_STEP
                autoreset is about to restart have no effect.

        Raises:
            ActionError: not in the action space.
            ResetNeededError: before the first reset; with autoreset disabled, also after a row's end.
            ClosedError: after `close`.
        """
        self._check_open()
        if not self._dreams.started:
            raise ResetNeededError("reset() must be called before step().")
        restarting = self._ended
        if len(restarting) and self.autoreset_mode is AutoresetMode.DISABLED:
            raise ResetNeededError(f"the dreams of rows {restarting.tolist()} have ended; reset them before step().")
        result = self._advance(self._read(actions))
        rewards, info = self._reward(result)
        if len(restarting):  # NEXT_STEP
            self._dreams.begin(restarting, self._pool)
            rewards[restarting] = 0
            result.terminated[restarting] = result.truncated[restarting] = False
            restart_infos(info, self._dreams.segment(), restarting)
        self._ended = np.flatnonzero(result.terminated | result.truncated)
        observations = self._observe()
        if len(self._ended) and self.autoreset_mode is AutoresetMode.SAME_STEP:
            observations = self._restart_within_step(observations, info)
        if self.render_mode == "human":
            self.render()
        if self.output == "torch":
            flags = (torch.from_numpy(flag).to(self._device) for flag in (result.terminated, result.truncated))
            return observations, torch.from_numpy(rewards).to(self._device), *flags, info
        return observations, rewards.astype(np.float64), result.terminated, result.truncated, info

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return a picture (h, w, 3) per row, or show all of them in the window."""
        self._check_open()
        if self.render_mode is None:
            raise ConfigError("nothing can be rendered: make the environment with render_mode='rgb_array' or 'human'.")
        if self._dreams.frames is None:
            raise ResetNeededError("reset() must be called before render().")
        frames = self._dreams.frames.cpu().numpy()
        start = self._dreams.start_frames().cpu().numpy() if self._render_start else None
        return self._renderer(frames, start)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the window."""
        self._renderer.close()

    # What only dreams can do

    def get_state(self) -> State:
        """Return everything the rows' futures depend on: a TensorDict of batch size [b], to keep or to save.

        Rows may be taken, reordered and joined (``state[rows]``, ``torch.cat``), then handed to `set_state`. Under the
        same actions, restored dreams continue as they would have, to the last bit.
        """
        if not self._dreams.started:
            raise ResetNeededError("reset() must be called before get_state().")
        state = self._dreams.get_state()
        ended = torch.zeros(self.num_envs, dtype=torch.bool)
        ended[torch.from_numpy(self._ended)] = True
        state["ended"] = ended.to(self._device)
        state["world"] = torch.full((self.num_envs,), self.world.fingerprint, device=self._device)
        return state

    def set_state(self, state: State) -> Any:
        """Continue from a state, of this environment or another of the same world, or change nothing.

        Returns:
            The observations of all rows.

        Raises:
            StateError: of another world or number of rows, or one that no dream can be in.
            ClosedError: after `close`.
        """
        self._check_open()
        check_world(state, self.world.fingerprint)
        self._dreams.set_state(state)
        self._ended = np.flatnonzero(state["ended"].cpu().numpy())
        self._seeded[:] = True
        return self._observe()

    def revise(self, frames: Any, mask: Any) -> Any:
        """Let real frames of the last l steps revise what the dreams remember; what steps returned stays as it is.

        Returns the rows' observations: latents in hindsight, frames as they were.

        Args:
            frames: (b, l, h, w, c) uint8.
            mask: (b, l) bool, which of them are given.

        Raises:
            FrameError, InputError: of other shapes or types, or of steps not remembered.
            ConfigError: this world's model cannot; see `dreamenv.capabilities.SupportsRevise`.
        """
        self._check_open()
        if not self._dreams.started:
            raise ResetNeededError("reset() must be called before revise().")
        self._dreams.revise(*read_revision(self.world.spec, self.num_envs, frames, mask, self._device))
        return self._observe()

    def branch(self, rows: int | Sequence[int] | Rows, n: int | None = None, *, seed: int | None = None) -> State:
        """Return a state whose rows are copies of these rows, for `set_state` here or elsewhere.

        Args:
            rows: one row, or several.
            n: of one row, how many copies; by default as many as there are rows here.
            seed: gives every copy a random stream of its own, so that copies dream differently under the same actions;
                None leaves them identical.

        Raises:
            InputError: no such row.
        """
        wanted = read_branches(rows, n, self.num_envs)
        state = take_rows(self.get_state(), torch.from_numpy(wanted).to(self._device))
        return state if seed is None else branch_state(state, seed)

    # Pieces

    def _seed_rows(self, rows: Rows, seeds: list[int | None]) -> None:
        for row in rows:
            if seeds[row] is None and not self._seeded[row]:
                seeds[row] = int(self.np_random.integers(2**63))
        new = np.array([row for row in rows if seeds[row] is not None], dtype=np.int64)
        if len(new):
            self._dreams.streams.seed(new, np.array([seeds[row] for row in new], dtype=np.int64))
            self._seeded[new] = True

    def _observe(self) -> Any:
        """Return the rows' observations, in memory of their own."""
        if self._latent:
            observations = self._dreams.embed()
        else:
            assert self._dreams.frames is not None
            observations = self._dreams.frames
        if self.output == "torch":
            return observations.clone()  # made outside inference mode, so it may enter a computation with gradients
        array = observations.cpu().numpy()
        return array.copy() if self._device.type == "cpu" else array

    def _advance(self, actions: Tensor) -> StepResult:
        """Dream one step under actions (b, 1, *a), rewarded by the user's function, if there is one."""
        step, rewards = self._dreams.imagine(actions), None
        if self._reward_fn is not None:
            assert step.frames is not None
            rewards = compute_rewards(self._reward_fn, step.frames, actions[:, 0])
        result = self._dreams.advance(step)
        if rewards is not None:
            result.rewards = rewards
        return result

    def _reward(self, result: StepResult) -> tuple[NDArray[np.float32], Infos]:
        """Return the step's rewards (b,), less the penalty, and its infos."""
        values = {"termination_probability": result.termination}
        if result.uncertainty is not None and "uncertainty" in self._told:
            values["uncertainty"] = result.uncertainty
        rewards = result.rewards
        if "imagined_reward" in self._told:
            values["imagined_reward"] = rewards
            rewards = rewards - self._penalty * values["uncertainty"]
        return rewards, step_infos(self._dreams.segment(), values)

    def _restart_within_step(self, final: Any, info: Infos) -> Any:
        """Restart the ended rows, as SAME_STEP autoreset asks; return the rows' observations."""
        ended, self._ended = self._ended, _NO_ROWS
        keep_final(info, final, self._mask(ended))
        self._dreams.begin(ended, self._pool)
        restart_infos(info, self._dreams.segment(), ended)
        return self._observe()

    def _mask(self, rows: Rows) -> NDArray[np.bool_]:
        mask = np.zeros(self.num_envs, dtype=np.bool_)
        mask[rows] = True
        return mask

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError("this environment was closed; make a new one.")

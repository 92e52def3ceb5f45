"""PPO of stable-baselines3 in a dream, in a real environment, or in both at once.

`train_agent` leaves in its output folder: ``policy/`` (a `SavedPolicy`), ``checkpoints/``, ``tensorboard/``, and
``evaluations.json``, one entry per evaluation during training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from tqdm import tqdm

from dreamenv.agents.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from dreamenv.agents.config import AgentConfig
from dreamenv.agents.dream import DreamVecEnv
from dreamenv.agents.evaluation import evaluate
from dreamenv.agents.generators import isolated_generators
from dreamenv.agents.mixed import MixedVecEnv
from dreamenv.agents.networks import policy_class, policy_settings
from dreamenv.agents.policy_folder import clear_remains
from dreamenv.agents.real import RealVecEnv
from dreamenv.agents.results import Evaluation
from dreamenv.agents.rows import RowsVecEnv
from dreamenv.agents.saved_policy import SavedPolicy
from dreamenv.allocator import keep_freed_memory
from dreamenv.checks import check_flag, check_instance, check_path
from dreamenv.data.provenance import Provenance
from dreamenv.devices import find_device
from dreamenv.dream.config import DreamConfig
from dreamenv.dream.rewards import RewardFunction
from dreamenv.envs import EnvironmentMaker
from dreamenv.errors import CheckpointError, ConfigError
from dreamenv.locks import locked_run
from dreamenv.storage import read_json, write_json
from dreamenv.training.tensorboard_logger import TensorBoardLogger
from dreamenv.world import World

__all__ = ["make_training_env", "train_agent"]

_HORIZON = 128
"""Steps of the dreams that PPO learns in, unless its configuration says otherwise or real episodes are shorter."""


def train_agent(
    config: AgentConfig,
    *,
    out: str | Path,
    world: World | str | Path | None = None,
    real: EnvironmentMaker | None = None,
    evaluate_in: World | EnvironmentMaker | None = None,
    reward_fn: RewardFunction | None = None,
    resume: bool = True,
    progress: bool = True,
) -> SavedPolicy:
    """Train a policy with PPO.

    Args:
        config: all settings.
        out: folder of everything written.
        world: to dream in, and whose latents the policy reads, or where it is (see `World.load`); needed unless
            ``where="real"`` on frames.
        real: the real environment, as `make_real` takes it; needed for "real" and "mixed".
        evaluate_in: where to evaluate every ``config.eval_every`` steps; None for the dream, or the real environment
            without one.
        reward_fn: gives dreams' rewards instead of the world, see `DreamVectorEnv`; for worlds that predict none. It
            is no part of a checkpoint: give the same again to resume.
        resume: continue from the newest checkpoint in ``out``, if there is one.
        progress: show a progress bar.

    Returns:
        The trained policy, as it is saved in ``out/policy``.

    Raises:
        ConfigError: settings that cannot work together.
        FolderInUseError: another process trains in ``out``.
        CheckpointError: the checkpoint there was made with other settings, or in another world or real environment, or
            none there is whole.
        WorldMismatchError: the real environment is not the world's.
        StorageError: the disk refused; checkpoints already there are untouched.
    """
    check_instance("config", config, AgentConfig)
    out, resume = check_path("out", out), check_flag("resume", resume)
    device = find_device(config.device)
    world = World.load(world, config.device) if isinstance(world, str | Path) else world
    if world is not None:
        check_instance("world", world, World)
    keep_freed_memory()
    with locked_run(out), _own_randomness(config):
        rows = make_training_env(config, world=world, real=real, reward_fn=reward_fn)
        callback: _TrainingCallback | None = None
        try:
            env: VecEnv = rows
            if config.ppo.normalize_reward:
                env = VecNormalize(rows, norm_obs=False, norm_reward=True, gamma=config.ppo.gamma)
            algorithm = _make_algorithm(config, env, device)
            seconds, surroundings = 0.0, _surroundings(rows, world)
            found = latest_checkpoint(out / "checkpoints") if resume else None
            if found is not None:
                seconds = load_checkpoint(found, algorithm, config, surroundings)
            env.seed(int(np.random.SeedSequence([config.seed, algorithm.num_timesteps]).generate_state(1)[0] >> 1))
            target = evaluate_in if evaluate_in is not None else (world if config.where != "real" else real)
            callback = _TrainingCallback(config, out, rows, world, target, reward_fn, seconds, progress)
            remaining = config.total_steps - algorithm.num_timesteps
            finished = _finished_policy(out, config) if found is not None and remaining > 0 else None
            if finished is not None:  # only its last checkpoint is damaged; to train again would make another policy
                return finished
            if remaining > 0:
                with contextlib.closing(_TensorBoardWriter(out / "tensorboard")) as writer:
                    algorithm.set_logger(Logger(str(out / "tensorboard"), [writer]))
                    algorithm.learn(remaining, callback=callback, reset_num_timesteps=False)
                save_checkpoint(out / "checkpoints", algorithm, config, callback.seconds(), surroundings)
            policy = callback.policy(algorithm)
            clear_remains(out / "policy")
            policy.save(out / "policy")
            return policy
        finally:
            if callback is not None:
                callback.close()
            rows.close()


def _finished_policy(out: Path, config: AgentConfig) -> SavedPolicy | None:
    """Return the policy in a run's folder, if it is whole and was trained for all its steps with these settings."""
    with contextlib.suppress(CheckpointError):
        policy = SavedPolicy.load(out / "policy")
        if policy.config == config and policy.record.get("steps", 0) >= config.total_steps:
            return policy
    return None


def make_training_env(
    config: AgentConfig,
    *,
    world: World | None = None,
    real: EnvironmentMaker | None = None,
    reward_fn: RewardFunction | None = None,
) -> RowsVecEnv:
    """Make the environment that a configuration trains in; arguments are those of `train_agent`.

    Raises:
        ConfigError: a world or real environment is missing.
    """
    if config.where != "real" and world is None:
        raise ConfigError(f"where={config.where!r} needs a world to dream in.")
    if config.where != "dream" and real is None:
        raise ConfigError(f"where={config.where!r} needs a real environment, such as 'take_cover'.")
    real_rows = {"dream": 0, "real": config.num_envs, "mixed": config.real_envs}[config.where]
    parts: list[RowsVecEnv] = []
    try:
        if real_rows < config.num_envs:
            parts.append(
                DreamVecEnv(
                    world,
                    config.num_envs - real_rows,
                    observation=config.observation,
                    config=_with_horizon(config.dream, world),
                    reward_fn=reward_fn,
                    device=config.device,
                )
            )
        if real_rows and real is not None:
            parts.append(RealVecEnv(real, real_rows, observation=config.observation, world=world))
        return parts[0] if len(parts) == 1 else MixedVecEnv(parts)
    except BaseException:
        for part in parts:
            part.close()
        raise


def _surroundings(rows: RowsVecEnv, world: World | None) -> dict[str, Any]:
    """Return what tells a world and a real environment from others, as JSON values."""
    real = _real_provenance(rows)
    return {
        "world": world.content_hash() if world is not None else None,
        "real environment": real.to_json() if real is not None else None,
    }


def _real_provenance(rows: RowsVecEnv) -> Provenance | None:
    parts = getattr(rows, "parts", [rows])
    return next((part.provenance for part in parts if isinstance(part, RealVecEnv)), None)


def _with_horizon(dream: DreamConfig, world: World | None) -> DreamConfig:
    """Return the configuration with a horizon: by default short dreams, and none longer than real episodes."""
    limit = world.provenance.max_episode_steps if world is not None and world.provenance is not None else None
    return dataclasses.replace(dream, horizon=dream.horizon or min(_HORIZON, limit or _HORIZON))


def _make_algorithm(config: AgentConfig, env: VecEnv, device: torch.device) -> OnPolicyAlgorithm:
    kind: Any = RecurrentPPO if config.algorithm == "recurrent_ppo" else PPO
    ppo, rate = config.ppo, config.ppo.learning_rate
    algorithm: OnPolicyAlgorithm = kind(
        policy_class(config),
        env,
        learning_rate=(lambda left: rate * left) if ppo.anneal_lr else rate,
        n_steps=ppo.n_steps,
        batch_size=ppo.batch_size,
        n_epochs=ppo.n_epochs,
        gamma=ppo.gamma,
        gae_lambda=ppo.gae_lambda,
        clip_range=ppo.clip_range,
        ent_coef=ppo.ent_coef,
        vf_coef=ppo.vf_coef,
        max_grad_norm=ppo.max_grad_norm,
        policy_kwargs=policy_settings(config),
        seed=config.seed,
        device=device,
    )
    return algorithm


class _TensorBoardWriter(KVWriter):
    """Logs what stable-baselines3 records as the training of worlds does."""

    def __init__(self, folder: Path) -> None:
        self._logger = TensorBoardLogger(folder)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        numbers = {
            name: float(value) for name, value in key_values.items() if isinstance(value, int | float | np.number)
        }
        self._logger.scalars({k: v for k, v in numbers.items() if "tensorboard" not in (key_excluded[k] or ())}, step)

    def close(self) -> None:
        self._logger.close()


class _TrainingCallback(BaseCallback):
    """Shows progress, writes checkpoints and evaluates, between an update and the next rollout."""

    def __init__(
        self,
        config: AgentConfig,
        out: Path,
        rows: RowsVecEnv,
        world: World | None,
        target: World | EnvironmentMaker | None,
        reward_fn: RewardFunction | None,
        seconds: float,
        progress: bool,
    ) -> None:
        super().__init__()
        self.config, self.out, self.rows, self.world, self.target = config, out, rows, world, target
        self._reward_fn = reward_fn
        self._before, self._began = seconds, time.perf_counter()
        self._bar = tqdm(total=config.total_steps, desc=f"PPO, {config.where}", unit="step", disable=not progress)
        self._saved = self._evaluated = 0
        self._shown = 0

    def close(self) -> None:
        """End the progress bar's line."""
        self._bar.close()

    def seconds(self) -> float:
        """Return the time trained so far, earlier runs included."""
        return self._before + time.perf_counter() - self._began

    def policy(self, algorithm: OnPolicyAlgorithm) -> SavedPolicy:
        """Return the policy as it is now, sharing its network."""
        provenance = self.world.provenance if self.world is not None else None
        return SavedPolicy(
            config=self.config,
            network=algorithm.policy,
            observation_space=self.rows.observation_space,  # type: ignore[arg-type]
            action_space=self.rows.environment_actions,
            world_hash=f"{self.world.fingerprint:016x}" if self.world is not None else "",
            provenance=provenance or _real_provenance(self.rows),
            record={"steps": algorithm.num_timesteps, "seconds": round(self.seconds(), 1)},
        )

    def _on_training_start(self) -> None:
        self._bar.update(self.num_timesteps)
        self._shown = self._saved = self._evaluated = self.num_timesteps

    def _on_rollout_start(self) -> None:
        steps, config = self.model.num_timesteps, self.config
        if config.checkpoint_every and steps - self._saved >= config.checkpoint_every:
            surroundings = _surroundings(self.rows, self.world)
            save_checkpoint(self.out / "checkpoints", self._algorithm(), config, self.seconds(), surroundings)
            self._saved = steps
        if config.eval_every and steps - self._evaluated >= config.eval_every:
            self._evaluate()
            self._evaluated = steps

    def _on_step(self) -> bool:
        self._bar.update(self.num_timesteps - self._shown)
        self._shown = self.num_timesteps
        return True

    def _on_rollout_end(self) -> None:
        finished = self.model.ep_info_buffer
        if finished:
            self._bar.set_postfix({"return": f"{np.mean([info['r'] for info in finished]):.4g}"}, refresh=False)

    def _on_training_end(self) -> None:
        if self.config.eval_every:
            self._evaluate()
        self._bar.close()

    def _evaluate(self) -> None:
        if self.target is None:
            return
        result = evaluate(
            self.policy(self._algorithm()),
            self.target,
            episodes=self.config.eval_episodes,
            seed=_EVALUATION_SEED,
            world=self.world,
            reward_fn=self._reward_fn if isinstance(self.target, World) else None,
        )
        summary = result.summary()
        self.logger.record("eval/mean", summary.mean)
        self.logger.record("eval/iqm", summary.iqm)
        self.logger.record("eval/mean_return", result.return_summary().mean)
        self._append(result)

    def _append(self, result: Evaluation) -> None:
        path = self.out / "evaluations.json"
        remedy = "Delete it; it tells of evaluations and is not needed to resume."
        entries = read_json(path, CheckpointError, remedy, kind=list) if path.exists() else []
        entries = [entry for entry in entries if entry["steps"] < self.model.num_timesteps]
        entries.append({"steps": self.model.num_timesteps, **result.to_json()})
        write_json(path, entries, indent=None)

    def _algorithm(self) -> OnPolicyAlgorithm:
        model: Any = self.model
        algorithm: OnPolicyAlgorithm = model
        return algorithm


_EVALUATION_SEED = 1_000_000_000  # evaluations during training use other episodes than final ones, which count from 0


@contextlib.contextmanager
def _own_randomness(config: AgentConfig) -> Iterator[None]:
    """Keep the process's generators, from which stable-baselines3 samples, and torch's threads as they were."""
    threads = torch.get_num_threads()
    with isolated_generators(torch.device(config.device)):
        try:
            if config.num_threads is not None:
                torch.set_num_threads(config.num_threads)
            yield
        finally:
            torch.set_num_threads(threads)

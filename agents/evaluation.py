"""How good is a policy: fixed episodes, each counted once, in a dream or outside.

The episodes are a list of seeds, and every one of them is played to its end. (Counting the first n to finish among
parallel rows would favour short episodes.) An episode depends on its seed alone: the environment's, the filter's and
the policy's randomness follow from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dreamenv.agents.actions import PolicyActions
from dreamenv.agents.dream import DreamVecEnv, RewardFunction
from dreamenv.agents.observations import ObservationConfig
from dreamenv.agents.real import EnvironmentMaker, RealVecEnv
from dreamenv.agents.rows import RowsVecEnv
from dreamenv.agents.saved_policy import PolicyState, SavedPolicy
from dreamenv.dream.reconstruction import NEEDS_WORLD
from dreamenv.errors import ConfigError, SeedError
from dreamenv.metrics.statistics import Summary, mean_iqm_interval
from dreamenv.randomness import seed_keys
from dreamenv.world import World

__all__ = ["Actor", "Evaluation", "RandomActor", "evaluate", "play_episodes"]


class Actor(Protocol):
    """Something that acts in rows; `SavedPolicy` is one."""

    def start(self, seeds: NDArray[np.int64]) -> PolicyState:
        """Return the state of rows at their episodes' start."""
        ...

    def act(
        self, observations: NDArray[Any], state: PolicyState, *, deterministic: bool = False
    ) -> tuple[NDArray[Any], PolicyState]:
        """Choose one action per row."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came of it; lists have one value per episode, in the order of the seeds.

    Attributes:
        target: where: "dream" or the real environment's id.
        returns: undiscounted sums of rewards, in the environment's units.
        scores: the last ``info["score"]`` of each; None where the target tells none.
        successes: the last ``info["success"]`` of each; None likewise.
        lengths: agent steps.
        truncated: whether a time limit ended it.
        seeds: the episodes.
        deterministic: whether the most likely action was always taken.
        score_name: what the score is, with its unit.
    """

    target: str
    returns: list[float]
    scores: list[float] | None
    successes: list[bool] | None
    lengths: list[int]
    truncated: list[bool]
    seeds: list[int]
    deterministic: bool
    score_name: str = ""

    @property
    def episodes(self) -> int:
        """How many."""
        return len(self.returns)

    @property
    def values(self) -> list[float]:
        """The scores, or the returns where there are none."""
        return self.returns if self.scores is None else self.scores

    def summary(self) -> Summary:
        """Return mean, interquartile mean and 95% intervals of `values`."""
        return mean_iqm_interval(self.values, seed=0)

    def return_summary(self) -> Summary:
        """Return the same of the returns."""
        return mean_iqm_interval(self.returns, seed=0)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values: all episodes, and their summaries."""
        return {
            "target": self.target,
            "episodes": self.episodes,
            "score_name": self.score_name,
            "summary": self.summary().to_json(),
            "return_summary": self.return_summary().to_json(),
            "success_rate": float(np.mean(self.successes)) if self.successes is not None else None,
            "returns": self.returns,
            "scores": self.scores,
            "successes": self.successes,
            "lengths": self.lengths,
            "truncated": self.truncated,
            "seeds": self.seeds,
            "deterministic": self.deterministic,
        }

    def __str__(self) -> str:
        name = self.score_name or "return"
        return f"{self.target}: {name} {self.summary()}"


class RandomActor:
    """Acts uniformly at random; the floor of every table.

    Args:
        action_space: what the environment takes.
    """

    def __init__(self, action_space: gym.Space[Any]) -> None:
        self.action_space = PolicyActions(action_space).space

    def start(self, seeds: NDArray[np.int64]) -> PolicyState:
        """Return the rows' random streams."""
        seed = torch.as_tensor(seeds, dtype=torch.int64)
        return PolicyState({"rng_key": seed_keys(seed), "rng_counter": torch.zeros_like(seed)}, batch_size=[len(seeds)])

    def act(
        self, observations: NDArray[Any], state: PolicyState, *, deterministic: bool = False
    ) -> tuple[NDArray[Any], PolicyState]:
        """Draw from the space that policies act in, whatever is seen."""
        del observations, deterministic
        following = state.clone(recurse=False)
        following["rng_counter"] = state["rng_counter"] + 1
        actions = []
        for key, counter in zip(state["rng_key"].tolist(), state["rng_counter"].tolist(), strict=True):
            self.action_space.seed((key ^ counter * 0x9E3779B97F4A7C15) & 0x7FFFFFFF)
            actions.append(self.action_space.sample())
        return np.stack(actions), following


def evaluate(
    policy: Actor,
    target: World | EnvironmentMaker,
    *,
    episodes: int = 100,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    num_envs: int | None = None,
    world: World | None = None,
    deterministic: bool = False,
    horizon: int | None = None,
    temperature: float = 1.0,
    episode_starts_only: bool = True,
    reward_fn: RewardFunction | None = None,
    progress: bool = False,
) -> Evaluation:
    """Play episodes with a policy and sum up.

    Args:
        policy: a `SavedPolicy`, or another `Actor` (which then sees frames).
        target: a world to dream in, or a real environment (name, id or maker).
        episodes: how many; their seeds are ``seed, seed + 1, ...``.
        seed: of the first episode.
        seeds: the episodes' seeds themselves; overrides ``episodes`` and ``seed``.
        num_envs: rows played at once; None for 16 dreams or 8 real ones. It does not change the result.
        world: whose filter makes a real environment's latents; needed where the policy reads latents.
        deterministic: always take the most likely action.
        horizon: longest dream in agent steps; None for the world's limit.
        temperature: of the dream's sampling.
        episode_starts_only: dreams begin where recorded episodes began, as real ones do.
        reward_fn: gives a dream's rewards instead of the world, see `DreamVectorEnv`.
        progress: show a progress bar.

    Raises:
        WorldMismatchError: the real environment is not the one that the policy, or its world, was learned from.
        SeedError: a negative or doubled seed.
        ConfigError: no episodes, or latents without a world.
    """
    chosen = list(range(seed, seed + episodes)) if seeds is None else [int(one) for one in seeds]
    if not chosen:
        raise ConfigError(f"episodes must be at least 1, not {episodes if seeds is None else 0}.")
    if min(chosen) < 0 or len(set(chosen)) < len(chosen):
        raise SeedError("seeds must be at least 0 and all different, so that no episode is counted twice.")
    saved = policy if isinstance(policy, SavedPolicy) else None
    observation = saved.config.observation if saved is not None else ObservationConfig(kind="frame", stack=1)
    rows = min(num_envs or (16 if isinstance(target, World) else 8), len(chosen))
    env: RowsVecEnv
    if isinstance(target, World):
        if saved is not None:
            _check_world(saved, target)
            if saved.provenance is not None and target.provenance is not None:
                saved.provenance.check_matches(target.provenance)
        env = DreamVecEnv(
            target,
            rows,
            observation=observation,
            horizon=horizon,
            temperature=temperature,
            episode_starts_only=episode_starts_only,
            reward_fn=reward_fn,
        )
        name, score_name = "dream", ""
    else:
        if saved is not None:
            _check_world(saved, world)
        env = RealVecEnv(target, rows, observation=observation, world=world)
        name = str(target) if isinstance(target, str) else "real"
        score_name = ""
        if env.provenance is not None:
            name, score_name = env.provenance.environment_id, env.provenance.score
            if saved is not None and saved.provenance is not None:
                saved.provenance.check_matches(env.provenance)
    try:
        if saved is not None and env.observation_space != saved.observation_space:
            raise ConfigError(f"the policy sees {saved.observation_space}, the target shows {env.observation_space}.")
        return play_episodes(
            policy, env, chosen, deterministic=deterministic, progress=progress, target=name, score_name=score_name
        )
    finally:
        env.close()


def play_episodes(
    policy: Actor,
    env: RowsVecEnv,
    seeds: Sequence[int],
    *,
    deterministic: bool = False,
    progress: bool = False,
    target: str = "",
    score_name: str = "",
) -> Evaluation:
    """Play one episode per seed in the rows of an environment; a row that is done takes the next seed.

    Args:
        policy: who acts.
        env: where; its own autoreset is not used.
        seeds: of the episodes.
        deterministic: always take the most likely action.
        progress: show a progress bar.
        target, score_name: as in `Evaluation`.
    """
    ended: dict[int, dict[str, Any]] = {}  # seed -> what came of it
    waiting = list(seeds)[::-1]
    rows = np.arange(min(env.num_envs, len(seeds)))
    current = np.array([waiting.pop() for _ in rows], np.int64)
    playing = np.zeros(env.num_envs, np.bool_)
    playing[rows] = True
    row_seed = np.zeros(env.num_envs, np.int64)
    row_seed[rows] = current
    # Rows beyond the number of episodes never play, but need an observation and a state to keep the batch whole.
    observations = env.reset_rows(np.arange(env.num_envs), row_seed)
    state = policy.start(row_seed)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
    with tqdm(total=len(seeds), desc="evaluate", unit="episode", disable=not progress) as bar:
        while playing.any():
            actions, state = policy.act(observations, state, deterministic=deterministic)
            stepped = env.step_rows(actions, playing)
            observations = stepped.observations
            returns += np.where(playing, stepped.rewards, 0.0)
            lengths += playing
            done = np.flatnonzero(playing & (stepped.terminated | stepped.truncated))
            for row in done.tolist():
                ended[int(row_seed[row])] = {
                    "return": float(returns[row]),
                    "length": int(lengths[row]),
                    "truncated": bool(stepped.truncated[row] and not stepped.terminated[row]),
                    "score": stepped.infos[row].get("score"),
                    "success": stepped.infos[row].get("success"),
                }
            bar.update(len(done))
            returns[done], lengths[done], playing[done] = 0.0, 0, False
            again = done[: len(waiting)]
            if len(again):
                row_seed[again] = [waiting.pop() for _ in again]
                observations[again] = env.reset_rows(again, row_seed[again])
                state = state.clone()
                state[again] = policy.start(row_seed[again])
                playing[again] = True
    results = [ended[int(seed)] for seed in seeds]
    scored = all(result["score"] is not None for result in results)
    judged = all(result["success"] is not None for result in results)
    return Evaluation(
        target=target,
        returns=[result["return"] for result in results],
        scores=[float(result["score"]) for result in results] if scored else None,
        successes=[bool(result["success"]) for result in results] if judged else None,
        lengths=[result["length"] for result in results],
        truncated=[result["truncated"] for result in results],
        seeds=[int(seed) for seed in seeds],
        deterministic=deterministic,
        score_name=score_name if scored else "",
    )


def _check_world(policy: SavedPolicy, world: World | None) -> None:
    """Refuse latents of a world that the policy was not trained on."""
    observation = policy.config.observation
    if observation.kind != "latent" and not observation.reconstructed:
        return
    if world is None:
        what = "latents: give the world whose filter makes them" if observation.kind == "latent" else NEEDS_WORLD
        raise ConfigError(f"this policy reads {what}, world=World.load(...).")
    if policy.world_hash and policy.world_hash != f"{world.fingerprint:016x}":
        raise ConfigError(
            f"this policy sees through another world ({policy.world_hash}, not {world.fingerprint:016x}); "
            "give the world it was trained on."
        )

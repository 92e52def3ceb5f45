"""The whole loop of one task in one folder: record, train a world, train agents in the dream, evaluate in both.

Every step writes its result to disk and is skipped when the same was done before, so an interrupted run resumes. A
measurement is looked up by all it depends on; a folder with another recording, world or agent is refused::

    recording/  recording of all rounds    world-1/, world-2/  a world per round    agents/<name>-<seed>/
    measurements/<name>-<where>-<digest>.json    recorded-1.json, .../made.json  what each was made from
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym

from dreamenv.agents import AgentConfig, CollectionPolicy, SavedPolicy, evaluate, train_agent
from dreamenv.agents.actors import Actor, RandomActor
from dreamenv.benchmarks.common import cached, claim, read_result
from dreamenv.benchmarks.recipes import Recipe
from dreamenv.data import (
    EpisodeDataset,
    EpsilonPolicy,
    ExplorerPolicy,
    MixturePolicy,
    Policy,
    StickyRandomPolicy,
    collect,
)
from dreamenv.envs import make_real
from dreamenv.envs.minetest.explorers import explorer
from dreamenv.errors import CheckpointDamagedError, ConfigError, WorldDamagedError
from dreamenv.parts import part_to_json
from dreamenv.training import TrainConfig, train
from dreamenv.world import World

__all__ = ["FIRST_EVALUATION_SEED", "Loop"]

FIRST_EVALUATION_SEED = 2_000_000  # episodes that were never used to choose settings
_DREAM_EPISODES_AT_ONCE = 50
_STARTS = 768  # segments that dreams start from; a quarter are starts of episodes


class Loop:
    """One task's loop.

    Args:
        recipe: of the task.
        folder: where everything is kept.
        workers: processes that record.
        threads: of torch; None leaves its setting.
        effort: share of the recipe's training steps of worlds and agents.
        seed: of the agent that records the second round.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        workers: int = 2,
        threads: int | None = None,
        effort: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.recipe, self.folder, self.workers, self.threads = recipe, folder, workers, threads
        self.effort, self.seed = effort, seed
        self.make_env: Callable[[], gym.Env[Any, Any]] = partial(
            make_real, recipe.task, reward=recipe.reward, frame_skip=recipe.frame_skip
        )

    @property
    def rounds(self) -> int:
        """How often the recipe records."""
        return len(self.recipe.rounds)

    def record(self, number: int = 1) -> EpisodeDataset:
        """Record the rounds up to this one: the first at random, later ones with the policy of the round before.

        Raises:
            ConfigError: the folder has a recording that was made in another way.
        """
        recipe, steps = self.recipe, 0
        for index, one in enumerate(recipe.rounds[:number]):
            steps += one.frames
            policy: Callable[[], Any] = partial(_first_recorder, recipe)
            recorder: dict[str, Any] = {name: getattr(recipe, name) for name in ("recorder", "epsilon", "stickiness")}
            if index > 0:
                agent = self._agent_folder(f"round-{index}", self.seed) / "policy"
                policy = partial(CollectionPolicy, agent, self._world_folder(index))
                recorder = {"policy": SavedPolicy.load(agent).content_hash()}
            claim(self.folder / f"recorded-{index + 1}.json", {**self._task(), "frames": one.frames, **recorder})
            dataset = collect(
                self.make_env, policy, self.folder / "recording", steps=steps, num_workers=self.workers, seed=0,
                progress=True,
            )  # fmt: skip
        return dataset

    def world(self, number: int = 1) -> World:
        """Train the world of a round on everything recorded so far, or find it trained.

        Raises:
            ConfigError: the folder has a world that was trained in another way.
        """
        finished, backbone = self._world_folder(number), self.recipe.backbone
        steps = {"joint": backbone.training.joint.steps, "dynamics": backbone.training.dynamics.steps}
        steps |= self.recipe.rounds[number - 1].steps
        config = TrainConfig(
            num_threads=self.threads,
            steps={name: max(1, int(self.effort * n)) for name, n in steps.items()},
            starts=_STARTS,
            starts_before_reward=self.recipe.starts_before_reward,
        )
        initial = self.world(number - 1) if number > 1 else None
        recording = self.record(number)
        key = {
            "train": config.resume_key(),
            "backbone": part_to_json(backbone),
            "initial": initial.content_hash() if initial is not None else None,
            **{f"recorded-{n + 1}": read_result(self.folder / f"recorded-{n + 1}.json") for n in range(number)},
        }
        claim(finished.parent / "made.json", key)
        if (finished / "world.json").exists():
            with contextlib.suppress(WorldDamagedError):
                return World.load(finished)
        return train(config, backbone, recording, finished.parent, initial=initial)

    def last_world(self) -> World:
        """Run all rounds, including the agents that record; return the last round's world."""
        world = self.world(1)
        for number in range(2, self.rounds + 1):
            self.agent(f"round-{number - 1}", self.recipe.recording_agent, world, self.seed)
            world = self.world(number)
        return world

    def agent(self, name: str, config: AgentConfig, world: World | None, seed: int) -> SavedPolicy:
        """Train an agent with a seed, or find it trained.

        Raises:
            ConfigError: the folder has an agent that was trained in another way.
        """
        folder = self._agent_folder(name, seed)
        config = dataclasses.replace(config, seed=seed, num_threads=self.threads)
        settings = {name: value for name, value in config.to_json().items() if name != "num_threads"}
        key = {**self._task(), "config": settings, "world": world.content_hash() if world is not None else None}
        claim(folder / "made.json", key)
        if (folder / "policy" / "policy.json").exists():
            with contextlib.suppress(CheckpointDamagedError):
                return SavedPolicy.load(folder / "policy")
        return train_agent(config, out=folder, world=world, real=self.make_env)

    def measure(
        self,
        name: str,
        policy: Actor | None,
        *,
        dream: World | None = None,
        world: World | None = None,
        sampled: bool = False,
    ) -> dict[str, Any]:
        """Play the evaluation episodes in a dream or in the real environment, and save the result.

        Args:
            name: of the measurement.
            policy: who acts; None acts at random.
            dream: where to dream; None plays in the real environment.
            world: whose encoder makes the real environment's latents.
            sampled: sample the policy's actions, as in training, instead of acting greedily.
        """
        place = ("dream" if dream else "real") + ("-sampled" if sampled else "")
        key = {
            **self._task(),
            "episodes": self.recipe.episodes,
            "seed": FIRST_EVALUATION_SEED,
            "policy": "random" if policy is None else _hash_of(policy),
            "dream": dream.content_hash() if dream is not None else None,
            "world": world.content_hash() if world is not None else None,
            "sampled": sampled,
        }
        return cached(
            self.folder / "measurements",
            f"{name}-{place}",
            key,
            lambda: self._play(policy, dream=dream, world=world, sampled=sampled),
        )

    def _play(self, policy: Actor | None, *, dream: World | None, world: World | None, sampled: bool) -> dict[str, Any]:
        if policy is None:
            env = self.make_env()
            policy = RandomActor(env.action_space)
            env.close()
        evaluation = evaluate(
            policy, dream or self.make_env, episodes=self.recipe.episodes, seed=FIRST_EVALUATION_SEED, world=world,
            progress=True, deterministic=not sampled, num_envs=_DREAM_EPISODES_AT_ONCE if dream else None,
        )  # fmt: skip
        result = evaluation.to_json()
        if dream is not None and dream.provenance is not None and "tics" in dream.provenance.score:
            # A dream has no score; where the score is time survived, its length is the score.
            result["scores"] = [float(length * dream.provenance.frame_skip) for length in evaluation.lengths]
        return result

    def _task(self) -> dict[str, Any]:
        recipe = self.recipe
        return {"task": recipe.task, "reward": recipe.reward, "frame_skip": recipe.frame_skip}

    def _world_folder(self, number: int) -> Path:
        return self.folder / f"world-{number}" / "world"

    def _agent_folder(self, name: str, seed: int) -> Path:
        return self.folder / "agents" / f"{name}-{seed}"


def _hash_of(policy: Actor) -> str:
    if not isinstance(policy, SavedPolicy):
        raise ConfigError(f"only saved policies are measured, not {type(policy).__name__}.")
    return policy.content_hash()


def _first_recorder(recipe: Recipe) -> Policy:
    env = make_real(recipe.task)
    try:
        space, names = env.action_space, env.get_wrapper_attr("provenance").action_names
    finally:
        env.close()
    if recipe.recorder == "sticky":
        return StickyRandomPolicy(space, recipe.stickiness)
    policy: Policy = ExplorerPolicy(names)
    if recipe.recorder == "half scripted":
        policy = MixturePolicy([(1, policy), (1, explorer(recipe.task))])
    return EpsilonPolicy(policy, recipe.epsilon, space)

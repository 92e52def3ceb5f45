"""Settings of each task's loop: how much to record, which world, which agents; tuned by hand.

Frames are agent steps (four tics of the engine each). ``python -m dreamenv.benchmarks.demo`` and
``python -m dreamenv.benchmarks.sim_to_real`` both follow these recipes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dreamenv.agents import AgentConfig, ObservationConfig, PPOConfig
from dreamenv.backbones.rssm import RSSMConfig
from dreamenv.dream import DreamConfig
from dreamenv.errors import UnknownNameError
from dreamenv.heads.reward_termination import RewardTerminationHeadConfig

__all__ = ["RECIPES", "Recipe", "Round", "recipe_for"]

GREY_FRAMES = ObservationConfig(kind="frame", stack=4, grey=True)  # colour adds a third to the cost and no score

# The goal's reward comes with termination, and a dream must not terminate by chance: the temperature stays at 1.
GOAL_WORLD = RSSMConfig(head=RewardTerminationHeadConfig(terminal_reward=True))
GOAL_DREAM = DreamConfig(horizon=256, temperature=1.0)

# A temperature above 1 makes dreams harder to exploit (Ha and Schmidhuber 2018 found 1.15 best); a range is robust.
DREAM = DreamConfig(horizon=128, temperature=(1.0, 1.6))
LONG_DREAM = dataclasses.replace(DREAM, horizon=256)

LATENT_AGENT = AgentConfig(observation=ObservationConfig(kind="latent"), total_steps=500_000, dream=DREAM)
# Convolutions learn from scratch here: a third of this rate takes more than twice the steps.
FRAME_AGENT = AgentConfig(
    observation=dataclasses.replace(GREY_FRAMES, reconstructed=True), total_steps=500_000,
    ppo=PPOConfig(n_epochs=3, learning_rate=1e-3, anneal_lr=True), dream=LONG_DREAM,
)  # fmt: skip
REAL_AGENT = AgentConfig(
    where="real", observation=GREY_FRAMES, num_envs=8, ppo=PPOConfig(n_steps=128, batch_size=256, n_epochs=3),
    total_steps=50_000,
)  # fmt: skip
FOUR_REAL_ENVS = dataclasses.replace(REAL_AGENT, num_envs=4, ppo=dataclasses.replace(REAL_AGENT.ppo, n_steps=256))


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of recording and training; later rounds continue training the previous world.

    Attributes:
        frames: real agent steps recorded, in the first round with the recipe's recorder, later with the policy
            trained in the dream of the previous world.
        steps: optimiser steps by stage; empty for the backbone's own.
    """

    frames: int = 50_000
    steps: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One task's loop.

    Attributes:
        task: short name of the real environment.
        reward: the reward the world learns and PPO is trained on; scores are always the task's own.
        frame_skip: native steps per agent step; None takes the task's own.
        rounds: of recording and training a world.
        recorder: who acts in the first round: "sticky" random actions, an "explorer" that walks without
            seeing, or "half scripted": in every other episode the task's own explorer, which looks for the goal.
        epsilon: share of uniformly random actions among the explorers', which otherwise never stand still: no-op would
            be out of distribution.
        stickiness: probability of repeating the last random action.
        backbone: the world.
        starts_before_reward: share of the world's starts that lie shortly before a reward.
        recording_agent: PPO in the dream of one round, which records the next round.
        latent_agent, frame_agent: PPO in the dream, on latents and on frames.
        real_agent: PPO in reality, on frames, for as many steps as were recorded in all.
        episodes: real episodes per evaluation.
    """

    task: str
    reward: str
    frame_skip: int | None = None
    rounds: tuple[Round, ...] = (Round(),)
    recorder: Literal["sticky", "explorer", "half scripted"] = "sticky"
    epsilon: float = 0.2
    stickiness: float = 0.75
    backbone: RSSMConfig = field(default_factory=RSSMConfig)
    starts_before_reward: float = 0.0
    recording_agent: AgentConfig = LATENT_AGENT
    latent_agent: AgentConfig = LATENT_AGENT
    frame_agent: AgentConfig = FRAME_AGENT
    real_agent: AgentConfig = REAL_AGENT
    episodes: int = 100

    @property
    def frames(self) -> int:
        """Real agent steps recorded in all rounds."""
        return sum(one.frames for one in self.rounds)

    def in_rounds(self, count: int) -> Recipe:
        """Return the recipe with the same total frames in ``count`` rounds."""
        if count == len(self.rounds):
            return self
        first = self.frames - (count - 1) * (self.frames // count)
        later = Round(frames=self.frames // count, steps={"joint": 600, "dynamics": 600})
        return dataclasses.replace(self, rounds=(Round(frames=first), *[later] * (count - 1)))


RECIPES: dict[str, Recipe] = {
    # Random play never survives until there are many monsters; the first policy does.
    "take_cover": Recipe(
        task="take_cover",
        reward="health",
        rounds=(
            Round(frames=25_000, steps={"joint": 1000, "dynamics": 700}),
            Round(frames=25_000, steps={"joint": 1200, "dynamics": 1000}),
        ),
        latent_agent=dataclasses.replace(LATENT_AGENT, ppo=PPOConfig(anneal_lr=True), dream=LONG_DREAM),
    ),
    # The native reward is the same at every step but the last; a medkit is visible and can be walked to.
    "health_gathering": Recipe(task="health_gathering", reward="medkit"),
    # Random steps stay in the first room; an explorer finds the goal in one episode of seven, 15 times in all: enough
    # to learn to find it twice as often, and to record that. Rooms that differ only in their walls take long to learn.
    # A quarter of the dreams start shortly before the vest: few would reach it otherwise.
    "my_way_home": Recipe(
        rounds=(
            Round(steps={"joint": 4000, "dynamics": 3000}),
            Round(frames=100_000, steps={"joint": 1500, "dynamics": 2000}),
        ),
        recording_agent=dataclasses.replace(LATENT_AGENT, dream=GOAL_DREAM),
        task="my_way_home",
        reward="native",
        recorder="explorer",
        backbone=GOAL_WORLD,
        starts_before_reward=0.25,
        latent_agent=dataclasses.replace(LATENT_AGENT, dream=GOAL_DREAM),
        frame_agent=dataclasses.replace(FRAME_AGENT, dream=GOAL_DREAM),
    ),
    "miniworld_one_room": Recipe(
        task="miniworld_one_room",
        reward="native",
        recorder="explorer",
        backbone=GOAL_WORLD,
        latent_agent=dataclasses.replace(LATENT_AGENT, dream=GOAL_DREAM),
        frame_agent=dataclasses.replace(FRAME_AGENT, dream=GOAL_DREAM),
    ),
    # A blind walk reaches the beacon in only one episode of ten: too few terminations to learn from.
    "minetest_navigate": Recipe(
        rounds=(Round(frames=40_000, steps={"joint": 1500, "dynamics": 1000}),),
        task="minetest_navigate",
        frame_skip=2,
        reward="arrival",
        recorder="half scripted",
        backbone=GOAL_WORLD,
        latent_agent=dataclasses.replace(LATENT_AGENT, dream=GOAL_DREAM),
        frame_agent=dataclasses.replace(FRAME_AGENT, dream=GOAL_DREAM),
        real_agent=FOUR_REAL_ENVS,
    ),
    # Progress is rewarded at every step; a dream that does not know where the beacon is would reward it forever.
    "minetest_maze": Recipe(
        rounds=(Round(frames=30_000),),
        task="minetest_maze",
        reward="arrival",
        recorder="explorer",
        backbone=GOAL_WORLD,
        latent_agent=dataclasses.replace(LATENT_AGENT, dream=GOAL_DREAM),
        frame_agent=dataclasses.replace(FRAME_AGENT, dream=GOAL_DREAM),
        real_agent=FOUR_REAL_ENVS,
    ),
    # Achievements are rare in random play; what a policy can learn in a dream is what was seen.
    "crafter": Recipe(
        rounds=(Round(frames=100_000),),
        task="crafter",
        reward="native",
        stickiness=0.6,
        latent_agent=dataclasses.replace(LATENT_AGENT, dream=LONG_DREAM),
    ),
}


def recipe_for(task: str) -> Recipe:
    """Return the recipe of a task.

    Raises:
        UnknownNameError: there is none; near names are suggested.
    """
    if task not in RECIPES:
        raise UnknownNameError("recipe for task", task, RECIPES)
    return RECIPES[task]

"""What each task's loop uses: how much to record, which world, which agents. Found by trial; every number is a setting.

Frames are agent steps (four tics of the engine each). ``python -m dreamenv.benchmarks.demo`` and
``python -m dreamenv.benchmarks.sim_to_real`` both follow these recipes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dreamenv.agents import AgentConfig, ObservationConfig
from dreamenv.backbones.rssm import RSSMConfig
from dreamenv.errors import UnknownNameError

__all__ = ["RECIPES", "Recipe", "Round", "TaskName", "recipe_for"]

TaskName = Literal[
    "take_cover", "health_gathering", "my_way_home", "miniworld_one_room", "minetest_navigate", "minetest_maze"
]

GREY_FRAMES = ObservationConfig(kind="frame", stack=4, grey=True)  # colour adds a third to the cost and no score

# A goal's reward comes with the ending, and a dream must not jump to it: no warmer than reality.
GOAL_WORLD = RSSMConfig(terminal_reward=True)
GOAL_DREAM: dict[str, Any] = {"horizon": 256, "temperature": 1.0}

# Dreams warmer than reality are harder to exploit (Ha and Schmidhuber 2018 found 1.15 best); a range saves choosing.
TEMPERATURE = (1.0, 1.6)

LATENT_AGENT = AgentConfig(observation=ObservationConfig(kind="latent"), total_steps=500_000, temperature=TEMPERATURE)
# Convolutions learn from scratch here: a third of this rate takes more than twice the steps.
FRAME_AGENT = AgentConfig(
    observation=dataclasses.replace(GREY_FRAMES, reconstructed=True), total_steps=500_000, epochs=3, learning_rate=1e-3,
    anneal=True, horizon=256, temperature=TEMPERATURE,
)  # fmt: skip
REAL_AGENT = AgentConfig(
    where="real", observation=GREY_FRAMES, num_envs=8, rollout_steps=128, batch_size=256, epochs=3, total_steps=50_000
)


@dataclass(frozen=True, kw_only=True)
class Round:
    """One time of recording and training a world; later rounds go on from the world before.

    Attributes:
        frames: real agent steps recorded, in the first round with the recipe's recorder, later with the policy that
            learned in the dream of the world before.
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
        recorder: who acts in the first round: "sticky" random actions, a blind "explorer" that walks on, or "half
            scripted": in every other episode the task's own explorer, who looks for the goal.
        epsilon: share of uniformly random actions among the explorers', who else never stand still, so that a policy
            could look for its fortune in what the world never saw.
        stickiness: probability of repeating the last random action.
        backbone: the world.
        starts_before_reward: share of the world's starts that lie shortly before a reward.
        recording_agent: PPO in the dream of one round, which records the next.
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
        """Return the recipe with as many frames in so many rounds, those of the recipe where it has as many."""
        if count == len(self.rounds):
            return self
        first = self.frames - (count - 1) * (self.frames // count)
        later = Round(frames=self.frames // count, steps={"joint": 600, "dynamics": 600})
        return dataclasses.replace(self, rounds=(Round(frames=first), *[later] * (count - 1)))


RECIPES: dict[str, Recipe] = {
    # Random play never lives to see many monsters at once; the first policy does.
    "take_cover": Recipe(
        task="take_cover",
        reward="health",
        rounds=(
            Round(frames=25_000, steps={"joint": 1000, "dynamics": 700}),
            Round(frames=25_000, steps={"joint": 1200, "dynamics": 1000}),
        ),
        latent_agent=dataclasses.replace(LATENT_AGENT, anneal=True, horizon=256),
    ),
    # The native reward is the same at every step but the last; a medkit is something to see and to walk to.
    "health_gathering": Recipe(task="health_gathering", reward="medkit"),
    # Random steps stay in the first room; whoever walks on finds the goal in one episode of seven, 15 times in all:
    # enough to learn to find it twice as often, and to record that. Rooms that differ in their walls only take long to
    # draw. A quarter of the dreams begin shortly before the vest: few would come to it else.
    "my_way_home": Recipe(
        rounds=(
            Round(steps={"joint": 4000, "dynamics": 3000}),
            Round(frames=100_000, steps={"joint": 1500, "dynamics": 2000}),
        ),
        recording_agent=dataclasses.replace(LATENT_AGENT, **GOAL_DREAM),
        task="my_way_home",
        reward="native",
        recorder="explorer",
        backbone=GOAL_WORLD,
        starts_before_reward=0.25,
        latent_agent=dataclasses.replace(LATENT_AGENT, **GOAL_DREAM),
        frame_agent=dataclasses.replace(FRAME_AGENT, **GOAL_DREAM),
    ),
    "miniworld_one_room": Recipe(
        task="miniworld_one_room",
        reward="native",
        recorder="explorer",
        backbone=GOAL_WORLD,
        latent_agent=dataclasses.replace(LATENT_AGENT, **GOAL_DREAM),
        frame_agent=dataclasses.replace(FRAME_AGENT, **GOAL_DREAM),
    ),
    # A walk that is blind meets the beacon in one episode of ten only: too few endings to learn from.
    "minetest_navigate": Recipe(
        rounds=(Round(frames=40_000, steps={"joint": 1500, "dynamics": 1000}),),
        task="minetest_navigate",
        frame_skip=2,
        reward="arrival",
        recorder="half scripted",
        backbone=GOAL_WORLD,
        latent_agent=dataclasses.replace(LATENT_AGENT, **GOAL_DREAM),
        frame_agent=dataclasses.replace(FRAME_AGENT, **GOAL_DREAM),
        real_agent=dataclasses.replace(REAL_AGENT, num_envs=4, rollout_steps=256),
    ),
    # Progress pays at every step; a dream that does not know where the beacon is would pay it without end.
    "minetest_maze": Recipe(
        rounds=(Round(frames=30_000),),
        task="minetest_maze",
        reward="arrival",
        recorder="explorer",
        backbone=GOAL_WORLD,
        latent_agent=dataclasses.replace(LATENT_AGENT, **GOAL_DREAM),
        frame_agent=dataclasses.replace(FRAME_AGENT, **GOAL_DREAM),
        real_agent=dataclasses.replace(REAL_AGENT, num_envs=4, rollout_steps=256),
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

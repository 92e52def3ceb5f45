"""The real return of one policy whose camera loses frames, with and without looking back.

    python -m dreamenv.benchmarks.lost_frames

Takes the world that ``python -m dreamenv.benchmarks.postdiction --task take_cover`` trained, trains PPO in its dream on
latents, and lets the policy play the real game greedily, the same episodes each time, while a share of the frames is
lost for good, or comes late. What the policy acts on: the last frame that came, taken as new (*as new*); imagination
across the gap (*filter*); imagination, and hindsight as soon as a frame comes (*revised*).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import tyro

from dreamenv.agents import AgentConfig, PPOConfig, RandomActor, evaluate, train_agent
from dreamenv.benchmarks.common import cached, envelope, print_table, write_json
from dreamenv.benchmarks.postdiction import TASKS
from dreamenv.dream import DreamConfig
from dreamenv.envs import LossyFrames
from dreamenv.metrics.statistics import mean_iqm_interval
from dreamenv.world import World

__all__ = ["Losses", "LostFrames", "Untold", "main", "regained", "show"]

WAYS = ("as new", "filter", "revised")


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What is lost; see `LossyFrames`.

    Attributes:
        loss: share of the frames.
        longest: steps of a run.
        delay: steps until they come after all; 0 for never.
    """

    loss: float
    longest: int = 1
    delay: int = 0

    def __str__(self) -> str:
        runs = f", runs of 1 to {self.longest}" if self.longest > 1 else ""
        return f"{self.loss:.0%} {f'{self.delay} steps late' if self.delay else 'lost'}{runs}"


LOSSES = (
    Losses(loss=0.2), Losses(loss=0.4), Losses(loss=0.4, longest=6), Losses(loss=0.4, longest=6, delay=2),
)  # fmt: skip


class Untold(gym.Wrapper[Any, Any, Any, Any]):
    """Hides how old the frames are, so that all are taken as new."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act, and say nothing of the frame's age."""
        *outcome, info = self.env.step(action)
        return *outcome, {key: value for key, value in info.items() if key != "frame_age"}


@dataclass(frozen=True, kw_only=True)
class LostFrames:
    """Play with frames lost.

    Attributes:
        task: one of `dreamenv.benchmarks.postdiction`.
        out: folder of that benchmark; safe to interrupt, rerun the same command to resume.
        seeds: policies that are trained.
        steps: of PPO in the dream, for each.
        episodes: per policy and row of the table.
        json: file to write the results to; nothing is written without it.
    """

    task: str = "take_cover"
    out: Path | None = None
    seeds: int = 1
    steps: int = 150_000
    episodes: int = 60
    json: Path | None = None


def main(arguments: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Play from the command line."""
    settings = tyro.cli(LostFrames, args=arguments, description=__doc__)
    task, out = TASKS[settings.task], settings.out or Path("runs/postdiction") / settings.task
    world = World.load(out / "world-0")
    returns: dict[str, list[float]] = {}
    for seed in range(settings.seeds):
        agent = AgentConfig(
            total_steps=settings.steps, num_envs=32, seed=seed, ppo=PPOConfig(anneal_lr=True),
            dream=DreamConfig(horizon=256, temperature=(1.0, 1.6)),
        )  # fmt: skip
        policy = train_agent(agent, out=out / f"policy-{seed}", world=world)

        def play(name: str, actor: Any, losses: Losses | None, way: str, seed: int = seed) -> None:
            maker = task.make if losses is None else partial(_lossy, settings.task, losses, way == "as new")
            key = {"name": name, "way": way, "episodes": settings.episodes, "seed": seed, "steps": settings.steps}
            found = cached(out / "returns", "return", key, lambda: {"returns": evaluate(
                actor, maker, episodes=settings.episodes, world=world, revise=way == "revised", deterministic=True
            ).values})  # fmt: skip
            returns.setdefault(f"{name}, {way}", []).extend(found["returns"])

        if seed == 0:
            play("random actions", RandomActor(task.make().action_space), None, "")
        play("nothing lost", policy, None, "filter")
        for losses in LOSSES:
            for way in WAYS:
                play(str(losses), policy, losses, way)
    show(returns)
    if settings.json is not None:
        print(f"wrote {write_json(settings.json, envelope('lost_frames', returns, vars(settings)))}", file=sys.stderr)
    return returns


def _lossy(task: str, losses: Losses, untold: bool) -> gym.Env[Any, Any]:
    env: gym.Env[Any, Any] = LossyFrames(TASKS[task].make(), **dataclasses.asdict(losses))
    return Untold(env) if untold else env


def regained(best: float, without: float, revised: float) -> float | None:
    """Return the share of the lost return that revision regains; None where nothing was lost."""
    return (revised - without) / (best - without) if best > without else None


def show(returns: dict[str, list[float]]) -> None:
    """Print mean returns with 95% intervals over episodes."""

    def cell(name: str) -> str:
        summary = mean_iqm_interval(returns[name])
        return "{:.0f} [{:.0f}, {:.0f}]".format(summary.mean, *summary.mean_interval)

    best = mean_iqm_interval(returns["nothing lost, filter"])
    rows: list[tuple[Any, ...]] = []
    for losses in map(str, LOSSES):
        found = [mean_iqm_interval(returns[f"{losses}, {way}"]) for way in WAYS]
        told = []
        for without in found[:2]:
            lost = without.mean_interval[1] < best.mean_interval[0]  # beyond chance
            share = regained(best.mean, without.mean, found[-1].mean) if lost else None
            told.append("nothing lost" if share is None else f"{share:.0%}")
        rows.append((losses, *(cell(f"{losses}, {way}") for way in WAYS), *told))
    print(f"random actions {cell('random actions, ')}; nothing lost {cell('nothing lost, filter')}")
    print_table(("frames", *WAYS, "regained of as new", "regained of filter"), rows)


if __name__ == "__main__":
    main()

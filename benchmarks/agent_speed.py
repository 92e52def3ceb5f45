"""Measure the speed of recording and of PPO.

    python -m dreamenv.benchmarks.agent_speed --world runs/take_cover/world --out agent_speed.json

Agent steps per second: of recording a real environment with one process and with two, and of PPO (rollouts and updates
together) in the dream on latents, in the dream on frames, and in a real environment on frames, timed in turn.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

from dreamenv.agents import AgentConfig, train_agent
from dreamenv.benchmarks.common import envelope, interleaved, peak_memory_mib, print_table, write_json
from dreamenv.benchmarks.recipes import recipe_for
from dreamenv.data import RandomPolicy, collect
from dreamenv.envs import make_real
from dreamenv.world import World

__all__ = ["AgentSpeed", "main", "measure"]


@dataclass(frozen=True, kw_only=True)
class AgentSpeed:
    """What to measure.

    Attributes:
        task: the real environment.
        world: a folder, hf://owner/name, or the name of a shipped world; empty for the default world.
        steps: agent steps per round of each candidate, rounded up to whole rollouts.
        rounds: how often each figure is taken; they are taken in turn.
        threads: of torch; None leaves its setting.
        out: JSON file to write; nothing is written without it.
    """

    task: str = "take_cover"
    world: str = ""
    steps: int = 8_192
    rounds: int = 3
    threads: int | None = None
    out: Path | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    settings = tyro.cli(AgentSpeed, args=arguments, description=__doc__)
    results = measure(settings)
    rows = [(name, timing["rate"], timing["low"], timing["high"]) for name, timing in results["timings"].items()]
    print_table(("what", "steps/s", "95% low", "high"), rows)
    if settings.out:
        print(f"wrote {write_json(settings.out, envelope('agent_speed', results, vars(settings)))}")


def measure(settings: AgentSpeed) -> dict[str, Any]:
    """Return ``timings`` and ``ratios`` (see `interleaved`), and ``peak_memory_mib``."""
    recipe = recipe_for(settings.task)
    world = World.load(settings.world) if settings.world else World.default()
    make_env = partial(make_real, settings.task, reward=recipe.reward)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    with tempfile.TemporaryDirectory() as scratch:
        count = iter(range(10**6))

        def fresh() -> Path:
            return Path(scratch) / str(next(count))

        def record(workers: int) -> float:
            env = make_env()
            policy = partial(RandomPolicy, env.action_space)
            env.close()
            data = collect(make_env, policy, fresh(), steps=settings.steps, num_workers=workers, progress=False)
            return float(data.total_steps)

        def learn(config: AgentConfig) -> float:
            rollout = config.num_envs * config.ppo.n_steps
            steps = -(-settings.steps // rollout) * rollout
            plan = dataclasses.replace(config, total_steps=steps, checkpoint_every=0)
            train_agent(plan, out=fresh(), world=world, real=make_env, progress=False)
            return float(steps)

        candidates: dict[str, Callable[[], float]] = {
            "recording, 1 process": partial(record, 1),
            "recording, 2 processes": partial(record, 2),
            "PPO in the dream, latents": partial(learn, recipe.latent_agent),
            "PPO in the dream, frames": partial(learn, recipe.frame_agent),
            "PPO in reality, frames": partial(learn, recipe.real_agent),
        }
        try:
            comparison = interleaved(candidates, rounds=settings.rounds)
        finally:
            torch.set_num_threads(threads)
    return {**comparison.to_json(), "peak_memory_mib": peak_memory_mib()}


if __name__ == "__main__":
    main()

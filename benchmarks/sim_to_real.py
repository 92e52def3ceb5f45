"""Compare policies trained in the dream and in the real environment: record, train and evaluate.

    python -m dreamenv.benchmarks.sim_to_real --task take_cover

Arms: random; PPO in reality on as many frames as were recorded, and on ten times as many; PPO in the dream on latents
and on frames. Every arm is trained with several seeds and plays the same real episodes, acting greedily
(deterministic), and once more sampling; dream arms also play as many dreams that start where recorded episodes did. A
video of reality and dream side by side is written next to the results. Safe to interrupt: rerun the same command to
resume.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from dreamenv.agents import AgentConfig
from dreamenv.agents.actors import Actor
from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.benchmarks.loop import Loop
from dreamenv.benchmarks.recipes import recipe_for
from dreamenv.benchmarks.showing import write_side_by_side
from dreamenv.benchmarks.task_names import TaskName
from dreamenv.metrics.statistics import mean_iqm_interval
from dreamenv.training import TrainConfig
from dreamenv.world import World

__all__ = ["SimToReal", "main", "run"]

ARMS = ("random", "dream_latents", "real", "dream_frames", "real_x10")

_NAMES = {
    "random": "random",
    "real": "PPO in reality, as many frames",
    "real_x10": "PPO in reality, 10 times as many",
    "dream_latents": "PPO in the dream, latents",
    "dream_frames": "PPO in the dream, frames",
}


@dataclass(frozen=True, kw_only=True)
class SimToReal:
    """The benchmark's settings.

    Attributes:
        task: which real environment.
        world: a world to train policies in, by its folder or its name in the package; None records and trains one.
        out: folder of everything; None takes runs/sim_to_real/<task>.
        seeds: policy seeds per arm.
        episodes: real episodes per policy.
        arms: which rows of the table.
        sampled: measure sampled actions too.
        workers: recording processes.
        threads: of torch; None leaves its setting.
        temperature: of the dreams that policies are trained in, fixed; None takes the recipe's. Those for `rssm` go
            above 1, which makes dreams harder to exploit; the many places of a `grid_rssm` do not bear that.
        steps: of PPO in the dream; None takes the recipe's.
    """

    task: TaskName = "take_cover"
    world: str | None = None
    out: Path | None = None
    seeds: Annotated[int, tyro.conf.arg(help="policy seeds per arm")] = 3
    episodes: int = 100
    arms: tuple[str, ...] = ARMS
    sampled: bool = True
    workers: int = 2
    threads: int | None = None
    temperature: float | None = None
    steps: int | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    config = tyro.cli(SimToReal, args=arguments, description=__doc__)
    path = run(config)
    print(f"\nwrote {path}")


def run(config: SimToReal) -> Path:
    """Run all arms; return the path of the results."""
    recipe = dataclasses.replace(recipe_for(config.task), episodes=config.episodes)
    folder = config.out or Path("runs/sim_to_real") / config.task
    loop = Loop(recipe, folder, workers=config.workers, threads=config.threads)
    frames = recipe.frames
    plans: dict[str, AgentConfig | None] = {
        "random": None,
        "real": dataclasses.replace(recipe.real_agent, total_steps=frames),
        "real_x10": dataclasses.replace(recipe.real_agent, total_steps=10 * frames),
        "dream_latents": _in_dreams(recipe.latent_agent, config),
        "dream_frames": _in_dreams(recipe.frame_agent, config),
    }
    results: dict[str, Any] = {}
    given = World.load(config.world) if config.world is not None else None
    world: World | None = None
    facts: dict[str, Any] = {"frames": frames} if given is None else {}
    for arm in config.arms:
        plan = plans[arm]
        # Arms trained in reality alone need neither recording nor world, so they can run in parallel with the others.
        in_dream = plan is None or plan.where == "dream"
        place = (given or loop.last_world()) if in_dream else None
        world = place or world
        results[arm] = _measure_arm(loop, arm, plan, place, config)
        if place is not None:
            facts |= {"score": place.provenance.score if place.provenance else "", "world": place.content_hash()}
            if given is None:
                facts["recorded_episodes"] = len(loop.record(loop.rounds))
        _print(results)
    if world is not None and given is None:
        write_side_by_side(folder, world, loop.record(loop.rounds).split(TrainConfig().holdout, TrainConfig().seed)[1])
    settings = {**dataclasses.asdict(config), "recipe": dataclasses.asdict(recipe)}
    results_path = folder / "sim_to_real.json"
    return write_json(results_path, envelope("sim_to_real", {"facts": facts, "arms": results}, settings))


def _in_dreams(agent: AgentConfig, config: SimToReal) -> AgentConfig:
    """Return the recipe's agent with the dreams and steps that were asked for."""
    if config.temperature is not None:
        agent = dataclasses.replace(agent, dream=dataclasses.replace(agent.dream, temperature=config.temperature))
    return agent if config.steps is None else dataclasses.replace(agent, total_steps=config.steps)


def _measure_arm(
    loop: Loop, arm: str, plan: AgentConfig | None, world: World | None, config: SimToReal
) -> dict[str, Any]:
    """Train an arm's policies and measure them in the real environment, and in the dream that they were trained in."""
    real, sampled, dreamt = [], [], []
    for seed in range(config.seeds if plan else 1):
        policy: Actor | None = loop.agent(arm, plan, world, seed) if plan else None
        real.append(loop.measure(f"{arm}-{seed}", policy, world=world))
        if plan is not None and config.sampled:
            sampled.append(loop.measure(f"{arm}-{seed}", policy, world=world, sampled=True))
        if world is not None:
            dreamt.append(loop.measure(f"{arm}-{seed}", policy, dream=world))
    measured = {"real": real, "real_sampled": sampled, "dream": dreamt}
    return {place: _summary(results) if results else None for place, results in measured.items()}


def _summary(measurements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarise all episodes of all seeds; ``by_seed`` are the means."""
    values = [measured["scores"] or measured["returns"] for measured in measurements]
    pooled = mean_iqm_interval(np.concatenate([np.asarray(one, np.float64) for one in values]))
    return {**pooled.to_json(), "by_seed": [float(np.mean(one)) for one in values], "seeds": len(values)}


def _print(results: dict[str, Any]) -> None:
    rows = []
    for arm, result in results.items():
        real = result["real"]
        low, high = real["mean_interval"]
        by_seed = ", ".join(f"{mean:.4g}" for mean in real["by_seed"])
        others = (
            f"{summary['mean']:.4g}" if (summary := result[place]) else "-" for place in ("real_sampled", "dream")
        )
        rows.append(
            (_NAMES[arm], f"{real['mean']:.4g}", f"{low:.4g} to {high:.4g}", f"{real['iqm']:.4g}", by_seed, *others,
             str(real["count"]))
        )  # fmt: skip
    print()
    header = ("arm", "real mean", "95% interval", "IQM", "by seed", "actions sampled", "in the dream", "episodes")
    print_table(header, rows)


if __name__ == "__main__":
    main()

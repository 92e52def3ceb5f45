"""Run the whole loop in a quarter of an hour on two cores, and write a report.

    dreamenv demo --task take_cover

Records a real environment, trains a world, trains PPO in the dream alone, evaluates it in the real environment, and
compares with PPO trained in the real environment on as many frames. Killed and run again, it resumes where it stopped.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from dreamenv.benchmarks.progress import Stages
from dreamenv.benchmarks.task_names import TaskName
from dreamenv.errors import ConfigError
from dreamenv.extras import require

__all__ = ["DemoConfig", "main", "run", "show"]

_SECONDS = {"record": 20, "world": 520, "agent": 140, "rival": 60, "evaluate": 130, "report": 10}
"""Of take_cover's steps at full effort on two cores; other tasks and machines take up to a few times as long."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The demo's settings.

    Attributes:
        task: which real environment.
        out: folder of everything; None takes runs/demo/<task>.
        rounds: 2 records again with the trained policy, and retrains world and policy on everything.
        seed: of the policies.
        workers: processes that record.
        threads: of torch; None leaves its setting.
        effort: share of the recipe's training steps; the default fits two cores and a quarter of an hour.
        open: show the report in a browser, if there is a display.

    Raises:
        ConfigError: an effort that is not positive.
    """

    task: TaskName = "take_cover"
    out: Path | None = None
    rounds: Literal[1, 2] = 1
    seed: int = 0
    workers: int = 2
    threads: int | None = None
    effort: float = 0.75
    open: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.effort < float("inf"):
            raise ConfigError(f"effort must be positive, not {self.effort}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo from the command line."""
    show(tyro.cli(DemoConfig, args=arguments, description=__doc__))


def show(config: DemoConfig) -> None:
    """Run the demo, say where its report is, and open it."""
    report = run(config).resolve()
    print(f"\nreport: {report}")
    if config.open and (os.environ.get("DISPLAY") or sys.platform in ("darwin", "win32")):
        webbrowser.open(report.as_uri())


def run(config: DemoConfig) -> Path:
    """Run the loop; return the path of the report.

    Raises:
        MissingDependencyError: there is no matplotlib for the report; raised before anything is recorded.
    """
    require("matplotlib", extra="report")

    from dreamenv.benchmarks.common import envelope, peak_memory_mib, write_json
    from dreamenv.benchmarks.demo_page import Scores, make_page, make_videos, verdict
    from dreamenv.benchmarks.fidelity import what_agents_need
    from dreamenv.benchmarks.loop import Loop
    from dreamenv.benchmarks.recipes import recipe_for
    from dreamenv.benchmarks.report import write_page
    from dreamenv.metrics.fidelity import fidelity
    from dreamenv.metrics.inverse_dynamics import InverseDynamicsConfig
    from dreamenv.training import TrainConfig

    recipe = recipe_for(config.task).in_rounds(config.rounds)
    folder = config.out or Path("runs/demo") / config.task
    loop = Loop(recipe, folder, workers=config.workers, threads=config.threads, effort=config.effort, seed=config.seed)
    stages = Stages(folder / "seconds.json", _estimates(config))

    for number in range(1, config.rounds + 1):
        with stages.stage(f"record {number}"):
            dataset = loop.record(number)
        with stages.stage(f"train world {number}"):
            world = loop.world(number)
        with stages.stage(f"train agent {number}"):
            plan = dataclasses.replace(
                recipe.latent_agent, total_steps=int(config.effort * recipe.latent_agent.total_steps)
            )
            policy = loop.agent(f"round-{number}", plan, world, config.seed)
    with stages.stage("train in the real environment"):
        rival_plan = dataclasses.replace(recipe.real_agent, total_steps=dataset.total_steps)
        rival = loop.agent("real", rival_plan, None, config.seed)
    with stages.stage("evaluate"):
        name = f"dream-{config.rounds}"
        scores = Scores(
            name=world.provenance.score if world.provenance else "return",
            frames=dataset.total_steps,
            random=_summary(loop.measure("random", None)),
            rival=max(
                _summary(loop.measure("rival", rival)), _summary(loop.measure("rival", rival, sampled=True)),
                key=lambda one: one.mean,  # a policy that has learned little does better when it is sampled from
            ),
            dreamer=_summary(loop.measure(name, policy, world=world)),
            in_dream=_summary(loop.measure(name, policy, dream=world)),
        )  # fmt: skip
        training, held_out = dataset.split(TrainConfig().holdout, TrainConfig().seed)
        likeness = fidelity(world, held_out)
        # A third of the benchmark's training: half a minute, and enough to tell actions apart.
        likeness |= what_agents_need(
            world, held_out, training, windows=128, inverse=InverseDynamicsConfig(steps=700), cache=folder / "measures"
        )
    settings = dataclasses.asdict(config)
    with stages.stage("report"):
        videos = make_videos(loop, world, policy, held_out, folder / "videos")
        page = make_page(recipe, dataset, scores, likeness, stages.seconds, folder, videos, settings)
        report = write_page(folder / "report.html", page)
    measured = {place: getattr(scores, place).to_json() for place in ("random", "rival", "dreamer", "in_dream")}
    results: dict[str, Any] = {
        "measured": measured,
        "fidelity": likeness,
        "seconds": stages.seconds,
        "peak_memory_mib": peak_memory_mib(),
        "recorded_frames": dataset.total_steps,
    }
    write_json(folder / "demo.json", envelope("demo", results, settings))
    print(f"\n{verdict(scores)}")
    print("This world had minutes of training; those in the package had about an hour each: dreamenv worlds")
    return report


def _estimates(config: DemoConfig) -> dict[str, float]:
    """Return each stage's name and its likely seconds on two cores."""
    stages: dict[str, float] = {}
    for number in range(1, config.rounds + 1):
        stages[f"record {number}"] = _SECONDS["record"] / config.rounds
        stages[f"train world {number}"] = config.effort * _SECONDS["world"]
        stages[f"train agent {number}"] = config.effort * _SECONDS["agent"]
    return stages | {
        "train in the real environment": _SECONDS["rival"],
        "evaluate": _SECONDS["evaluate"],
        "report": _SECONDS["report"],
    }


def _summary(measurement: dict[str, Any]) -> Any:
    from dreamenv.metrics.statistics import mean_iqm_interval

    return mean_iqm_interval(measurement["scores"] or measurement["returns"])


if __name__ == "__main__":
    main()

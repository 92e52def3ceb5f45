"""The whole loop in a quarter of an hour on two cores, with a report to look at.

    python -m dreamenv.benchmarks.demo --task take_cover

Records a real environment, trains a world, trains PPO in the dream alone, evaluates it outside, and compares with PPO
in reality on as many real frames. Killed and run again, it goes on where it stood.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from dreamenv.benchmarks.common import commit, envelope, machine, peak_memory_mib, read_result, write_json
from dreamenv.benchmarks.loop import FIRST_EVALUATION_SEED, Loop
from dreamenv.benchmarks.recipes import Recipe, TaskName, recipe_for
from dreamenv.benchmarks.report import Film, Page, Section, Strips, Table, picture_of, write_page
from dreamenv.benchmarks.showing import (
    CONTEXT,
    SHOWN_STEPS,
    draw_lines,
    dream_along,
    film_in_dream,
    film_outside,
    longest_episodes,
)
from dreamenv.data import EpisodeDataset
from dreamenv.extras import require
from dreamenv.metrics.fidelity import fidelity
from dreamenv.metrics.statistics import mean_iqm_interval
from dreamenv.training import TrainConfig
from dreamenv.training.films import beside, write_mp4
from dreamenv.world import World

__all__ = ["DemoConfig", "main", "run"]

_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The demo's settings.

    Attributes:
        task: which real environment.
        out: folder of everything; None takes runs/demo/<task>.
        rounds: 2 records once more with the trained policy, and trains world and policy again on everything.
        seed: of the policies.
        workers: processes that record.
        threads: of torch; None leaves its setting.
        effort: share of the recipe's training steps taken; the default fits two cores and a quarter of an hour.
        open: show the report in a browser, if there is a display.
    """

    task: TaskName = "take_cover"
    out: Path | None = None
    rounds: Literal[1, 2] = 1
    seed: int = 0
    workers: int = 2
    threads: int | None = None
    effort: float = 0.75
    open: bool = True


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the demo from the command line; ``prog`` is the command's name in its help."""
    config = tyro.cli(DemoConfig, args=arguments, prog=prog, description=__doc__)
    report = run(config)
    print(f"\nreport: {report}")
    if config.open and (os.environ.get("DISPLAY") or sys.platform in ("darwin", "win32")):
        webbrowser.open(report.resolve().as_uri())


def run(config: DemoConfig) -> Path:
    """Go round the loop; return the path of the report.

    Raises:
        MissingDependencyError: there is no matplotlib to draw the report with; said before anything is recorded.
    """
    require("matplotlib", extra="report")
    recipe = recipe_for(config.task).in_rounds(config.rounds)
    folder = config.out or Path("runs/demo") / config.task
    loop = Loop(recipe, folder, workers=config.workers, threads=config.threads, effort=config.effort, seed=config.seed)
    clock = _Clock(folder / "seconds.json")

    for number in range(1, config.rounds + 1):
        with clock.lap(f"record {number}"):
            dataset = loop.record(number)
        with clock.lap(f"train world {number}"):
            world = loop.world(number)
        with clock.lap(f"train agent {number}"):
            plan = dataclasses.replace(
                recipe.latent_agent, total_steps=int(config.effort * recipe.latent_agent.total_steps)
            )
            policy = loop.agent(f"round-{number}", plan, world, config.seed)
    with clock.lap("train in reality"):
        rival_plan = dataclasses.replace(recipe.real_agent, total_steps=dataset.total_steps)
        rival = loop.agent("real", rival_plan, None, config.seed)
    with clock.lap("evaluate"):
        measured = {
            "random, outside": loop.measure("random", None),
            "trained in the dream, in the dream": loop.measure(f"dream-{config.rounds}", policy, dream=world),
            "trained in the dream, outside": loop.measure(f"dream-{config.rounds}", policy, world=world),
            f"trained outside on as many frames ({dataset.total_steps:,}), outside": _better(
                loop.measure("rival", rival), loop.measure("rival", rival, sampled=True)
            ),
        }
        held_out = dataset.split(TrainConfig().holdout, TrainConfig().seed)[1]
        likeness = fidelity(world, held_out)
    with clock.lap("report"):
        films = _films(loop, world, policy, held_out, folder / "films")
        page = _page(recipe, world, dataset, measured, likeness, clock, folder, films)
        report = write_page(folder / "report.html", page)
    results: dict[str, Any] = {
        "measured": {name: _numbers(value) for name, value in measured.items()},
        "fidelity": likeness,
        "seconds": clock.laps,
        "peak_memory_mib": peak_memory_mib(),
        "recorded_frames": dataset.total_steps,
    }
    write_json(folder / "demo.json", envelope("demo", results, dataclasses.asdict(config)))
    for name, value in measured.items():
        print(f"{name:>70}: {mean_iqm_interval(value['scores'] or value['returns'])}")
    return report


class _Clock:
    """Seconds by step, kept on disk so that a resumed demo still tells what each step took."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.laps: dict[str, float] = read_result(path) if path.exists() else {}

    def lap(self, name: str) -> _Lap:
        return _Lap(self, name)


class _Lap:
    def __init__(self, clock: _Clock, name: str) -> None:
        self.clock, self.name = clock, name

    def __enter__(self) -> None:
        self.began = time.perf_counter()
        print(f"== {self.name}", flush=True)

    def __exit__(self, kind: object, *_: object) -> None:
        seconds = time.perf_counter() - self.began
        # A step that was only looked up again keeps the time it took when it was done.
        self.clock.laps[self.name] = max(seconds, self.clock.laps.get(self.name, 0.0))
        if kind is None:
            write_json(self.clock.path, self.clock.laps)


def _films(loop: Loop, world: World, policy: Any, held_out: EpisodeDataset, folder: Path) -> dict[str, Any]:
    """Make the films and the frames that the report shows."""
    rate = world.spec.frame_rate
    episodes = longest_episodes(held_out, _EXAMPLES, CONTEXT + SHOWN_STEPS[-1] + 2)
    pairs = [dream_along(world, episode, context=CONTEXT, steps=SHOWN_STEPS[-1]) for episode in episodes]
    films = [
        write_mp4(folder / f"beside-{i}.mp4", beside(real[None], dreamt[None]), rate, scale=3)
        for i, (real, dreamt) in enumerate(pairs)
    ]
    inside = film_in_dream(policy, world, steps=300, seed=1)
    outside = film_outside(policy, world, loop.make_env(), steps=300, seed=FIRST_EVALUATION_SEED)
    return {
        "pairs": pairs,
        "beside": films,
        "inside": write_mp4(folder / "policy-in-dream.mp4", inside, rate, scale=4),
        "outside": write_mp4(folder / "policy-outside.mp4", outside, rate, scale=4),
    }


def _page(
    recipe: Recipe,
    world: World,
    dataset: EpisodeDataset,
    measured: dict[str, Any],
    likeness: dict[str, Any],
    clock: _Clock,
    folder: Path,
    films: dict[str, Any],
) -> Page:
    score = world.provenance.score if world.provenance else "return"
    rows = []
    for name, value in measured.items():
        summary = mean_iqm_interval(value["scores"] or value["returns"])
        low, high = summary.mean_interval
        mean, interval, iqm = _number(summary.mean), f"{_number(low)} to {_number(high)}", _number(summary.iqm)
        rows.append((name, mean, interval, iqm, str(summary.count)))
    table = Table(header=("policy", f"mean ({score})", "95% interval", "IQM", "episodes"), rows=rows, emphasised=(2,))
    strips = [
        _strips(real, dreamt, f"Held-out episode {i + 1}: the world saw {CONTEXT} frames, then dreamed alone.")
        for i, (real, dreamt) in enumerate(films["pairs"])
    ]
    horizons = [int(h) for h in likeness["horizons"]]
    frames = likeness["horizons"]
    curves = [
        picture_of(
            draw_lines(
                [
                    (name, horizons, [frames[h][f"{prefix}{measure}"]["mean"] for h in frames])
                    for name, prefix in (("dream", ""), ("last frame again", "persistence_"))
                ],
                x="steps into the dream", y=label, log_x=True,
            ),
            f"{label} of dreamed against recorded frames, held-out episodes",
        )
        for measure, label in (("psnr", "PSNR (dB)"), ("ssim", "SSIM"))
    ]  # fmt: skip
    seconds = Table(header=("step", "seconds"), rows=[(name, f"{spent:.0f}") for name, spent in clock.laps.items()])
    facts = [
        ("real frames", f"{dataset.total_steps:,} in {len(dataset)} episodes"),
        ("time so far", f"{sum(clock.laps.values()) / 60:.1f} min"),
        ("peak memory", f"{peak_memory_mib() / 1024:.1f} GiB"),
        ("processor", str(machine()["processor"])),
        ("cores", str(machine()["cores"])),
        ("commit", (commit() or "unknown")[:10]),
        ("date", time.strftime("%Y-%m-%d")),
    ]
    return Page(
        title=f"{recipe.task}: trained in a dream, tested outside",
        lead="A world model was trained on recorded play. PPO learned inside the dream alone, and was then put into "
        "the real environment, which it had never acted in.",
        facts=facts,
        sections=[
            Section(title="Does it work outside?", text=f"Score: {score}.", parts=[table]),
            Section(
                title="The policy at work",
                text="Left in the dream it was trained in, right outside.",
                parts=[
                    Film(path=films["inside"], caption="In the dream."),
                    Film(path=films["outside"], caption="Outside."),
                ],
            ),
            Section(
                title="Reality and dream under the same actions",
                text="The same recorded actions drive both. What the world could not know drifts apart; what it must "
                "know should not.",
                parts=[*strips, *(Film(path=path, caption="Reality left, dream right.") for path in films["beside"])],
            ),
            Section(title="How long the dream stays true", parts=curves),
            Section(title="Learning curves", parts=_learning_curves(folder)),
            Section(title="Where the time went", parts=[seconds]),
        ],
    )


def _strips(real: Any, dreamt: Any, caption: str) -> Strips:
    steps = [step for step in SHOWN_STEPS if step <= len(real)]
    index = np.asarray(steps) - 1
    return Strips(steps=steps, rows=[("reality", real[index]), ("dream", dreamt[index])], caption=caption)


def _learning_curves(folder: Path) -> list[Any]:
    """Draw the losses of the worlds and the returns of the agents from their TensorBoard files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wanted = {
        "joint/reconstruction": "reconstruction loss",
        "dynamics/dynamics": "KL of the prior (nats)",
        "rollout/ep_rew_mean": "return per episode",
    }
    lines: dict[str, list[Any]] = {tag: [] for tag in wanted}
    for events in sorted(folder.glob("*/**/events.out.tfevents.*")):
        log = EventAccumulator(str(events), size_guidance={"scalars": 2000})
        log.Reload()
        name = events.relative_to(folder).parts
        for tag in log.Tags()["scalars"]:
            for ending in wanted:
                if tag.endswith(ending):
                    scalars = log.Scalars(tag)
                    label = name[1] if name[0] == "agents" else name[0]
                    if tag != ending and name[0] != "agents":
                        label += ", held out"
                    lines[ending].append((label, [s.step for s in scalars], [s.value for s in scalars]))
    return [
        picture_of(draw_lines(found, x="steps", y=wanted[tag]), wanted[tag][0].upper() + wanted[tag][1:] + ".")
        for tag, found in lines.items()
        if found
    ]


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _better(*measured: dict[str, Any]) -> dict[str, Any]:
    """Return the best: a policy that has learned little does better when it draws its actions."""
    return max(measured, key=lambda one: float(np.mean(one["scores"] or one["returns"])))


def _numbers(measurement: dict[str, Any]) -> dict[str, Any]:
    return mean_iqm_interval(measurement["scores"] or measurement["returns"]).to_json()


if __name__ == "__main__":
    main()

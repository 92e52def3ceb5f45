"""Run the whole loop in a quarter of an hour on two cores, and write a report.

    python -m dreamenv.benchmarks.demo --task take_cover

Records a real environment, trains a world, trains PPO in the dream alone, evaluates it in the real environment, and
compares with PPO trained there on as many frames. Safe to interrupt: rerun the same command to resume.
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
from dreamenv.benchmarks.report import Page, Section, Strips, Table, Video, picture_of, write_page
from dreamenv.benchmarks.showing import (
    CONTEXT,
    SHOWN_STEPS,
    draw_lines,
    dream_along,
    longest_episodes,
    video_of_dream,
    video_of_real_episode,
)
from dreamenv.data import EpisodeDataset
from dreamenv.extras import require
from dreamenv.metrics.fidelity import fidelity
from dreamenv.metrics.statistics import mean_iqm_interval
from dreamenv.training import TrainConfig
from dreamenv.training.video import side_by_side, write_mp4
from dreamenv.world import World

__all__ = ["DemoConfig", "main", "run"]

_EXAMPLES = 3


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
    """Run the loop; return the path of the report.

    Raises:
        MissingDependencyError: there is no matplotlib for the report; raised before anything is recorded.
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
        real_config = dataclasses.replace(recipe.real_agent, total_steps=dataset.total_steps)
        baseline = loop.agent("real", real_config, None, config.seed)
    with clock.lap("evaluate"):
        measured = {
            "random, in the real environment": loop.measure("random", None),
            "trained in the dream, in the dream": loop.measure(f"dream-{config.rounds}", policy, dream=world),
            "trained in the dream, in the real environment": loop.measure(
                f"dream-{config.rounds}", policy, world=world
            ),
            f"trained in the real environment on as many frames ({dataset.total_steps:,}), there": _better(
                loop.measure("real", baseline), loop.measure("real", baseline, sampled=True)
            ),
        }
        held_out = dataset.split(TrainConfig().holdout, TrainConfig().seed)[1]
        frame_fidelity = fidelity(world, held_out)
    with clock.lap("report"):
        videos = _videos(loop, world, policy, held_out, folder / "videos")
        page = _page(recipe, world, dataset, measured, frame_fidelity, clock, folder, videos)
        report = write_page(folder / "report.html", page)
    results: dict[str, Any] = {
        "measured": {name: _numbers(value) for name, value in measured.items()},
        "fidelity": frame_fidelity,
        "seconds": clock.laps,
        "peak_memory_mib": peak_memory_mib(),
        "recorded_frames": dataset.total_steps,
    }
    write_json(folder / "demo.json", envelope("demo", results, dataclasses.asdict(config)))
    for name, value in measured.items():
        print(f"{name:>70}: {mean_iqm_interval(value['scores'] or value['returns'])}")
    return report


class _Clock:
    """Seconds by step, kept on disk so that a resumed demo still reports the time of each step."""

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
        # A step whose result was only read keeps the time of its first run.
        self.clock.laps[self.name] = max(seconds, self.clock.laps.get(self.name, 0.0))
        if kind is None:
            write_json(self.clock.path, self.clock.laps)


def _videos(loop: Loop, world: World, policy: Any, held_out: EpisodeDataset, folder: Path) -> dict[str, Any]:
    """Make the videos and frames of the report."""
    rate = world.spec.frame_rate
    episodes = longest_episodes(held_out, _EXAMPLES, CONTEXT + SHOWN_STEPS[-1] + 2)
    pairs = [dream_along(world, episode, context=CONTEXT, steps=SHOWN_STEPS[-1]) for episode in episodes]
    comparisons = [
        write_mp4(folder / f"side-by-side-{i}.mp4", side_by_side(real[None], dreamt[None]), rate, scale=3)
        for i, (real, dreamt) in enumerate(pairs)
    ]
    in_dream = video_of_dream(policy, world, steps=300, seed=1)
    in_reality = video_of_real_episode(policy, world, loop.make_env(), steps=300, seed=FIRST_EVALUATION_SEED)
    return {
        "pairs": pairs,
        "comparisons": comparisons,
        "in_dream": write_mp4(folder / "policy-in-dream.mp4", in_dream, rate, scale=4),
        "in_reality": write_mp4(folder / "policy-in-reality.mp4", in_reality, rate, scale=4),
    }


def _page(
    recipe: Recipe,
    world: World,
    dataset: EpisodeDataset,
    measured: dict[str, Any],
    frame_fidelity: dict[str, Any],
    clock: _Clock,
    folder: Path,
    videos: dict[str, Any],
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
        _strips(real, dreamt, f"Held-out episode {i + 1}: {CONTEXT} observed frames, then the dream.")
        for i, (real, dreamt) in enumerate(videos["pairs"])
    ]
    horizons = [int(h) for h in frame_fidelity["horizons"]]
    frames = frame_fidelity["horizons"]
    curves = [
        picture_of(
            draw_lines(
                [
                    (name, horizons, [frames[h][f"{prefix}{measure}"]["mean"] for h in frames])
                    for name, prefix in (("dream", ""), ("persistence", "persistence_"))
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
        title=f"{recipe.task}: trained in a dream, tested in the real environment",
        lead="A world model was trained on recorded episodes. PPO was trained in the dream alone, and then evaluated "
        "in the real environment, which it had never acted in.",
        facts=facts,
        sections=[
            Section(title="Does it work in the real environment?", text=f"Score: {score}.", parts=[table]),
            Section(
                title="The policy in action",
                text="Left: in the dream it was trained in. Right: in the real environment.",
                parts=[
                    Video(path=videos["in_dream"], caption="In the dream."),
                    Video(path=videos["in_reality"], caption="In the real environment."),
                ],
            ),
            Section(
                title="Reality and dream under the same actions",
                text="Both follow the same recorded actions. What the context does not determine may differ; the rest "
                "should not.",
                parts=[
                    *strips,
                    *(Video(path=path, caption="Reality left, dream right.") for path in videos["comparisons"]),
                ],
            ),
            Section(title="Frame fidelity over the horizon", parts=curves),
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
            for suffix in wanted:
                if tag.endswith(suffix):
                    scalars = log.Scalars(tag)
                    label = name[1] if name[0] == "agents" else name[0]
                    if tag != suffix and name[0] != "agents":
                        label += ", held out"
                    lines[suffix].append((label, [s.step for s in scalars], [s.value for s in scalars]))
    return [
        picture_of(draw_lines(curves, x="steps", y=wanted[tag]), wanted[tag][0].upper() + wanted[tag][1:] + ".")
        for tag, curves in lines.items()
        if curves
    ]


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _better(*measured: dict[str, Any]) -> dict[str, Any]:
    """Return the best: a policy that has learned little scores better with sampled actions."""
    return max(measured, key=lambda one: float(np.mean(one["scores"] or one["returns"])))


def _numbers(measurement: dict[str, Any]) -> dict[str, Any]:
    return mean_iqm_interval(measurement["scores"] or measurement["returns"]).to_json()


if __name__ == "__main__":
    main()

"""Measure how a world adapts to a changed environment, and what it forgets.

    python -m dreamenv.benchmarks.adaptation --task minigrid_lava_gap

A world is trained on a recording of the task under sticky random actions. For each change
(`dreamenv.benchmarks.shifts`) it adapts to 1,000 frames of the changed task, with and without rehearsal, and is
measured on a test recording of it and on one of the old task, next to the world as it was (zero-shot). In some changes,
also to 100 and 5,000 frames, next to worlds trained from scratch on the same frames, and with other choices of what
learns and what is rehearsed. In some, PPO is trained in the dreams and plays the changed task. Safe to interrupt: rerun
the same command to resume.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from dreamenv.agents import AgentConfig, ObservationConfig, RandomActor, evaluate, train_agent
from dreamenv.agents.actors import Actor
from dreamenv.backbones.rssm import RSSMConfig, RSSMStage, RSSMTraining
from dreamenv.benchmarks.common import cached, envelope, print_table, write_json
from dreamenv.benchmarks.shifts import make_shifted, shifts_of
from dreamenv.data import EpisodeDataset, FrameStore, StickyRandomPolicy, collect
from dreamenv.dream import DreamConfig
from dreamenv.extras import require
from dreamenv.heads.reward_termination import RewardTerminationHeadConfig
from dreamenv.metrics.fidelity import calibration, dream_fidelity
from dreamenv.metrics.statistics import mean_iqm_interval
from dreamenv.training import AdaptConfig, TrainConfig, adapt, train
from dreamenv.world import World

__all__ = ["Adaptation", "draw", "main", "run"]

_HORIZONS = (1, 5, 10)
_CONTEXT = 8  # frames, in which it shows what has changed
_EVALUATION_SEED = 2_000_000

Update = Literal["low_rank", "heads", "all"]


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """The benchmark's settings.

    Attributes:
        task: which real environment; a small one, since a world is trained from scratch again and again.
        out: folder of everything; None takes runs/adaptation/<task>.
        size: height and width of the frames, in pixels; 28 is four for each cell of MiniGrid.
        frames: of the recordings that are adapted to; the middle one where not everything is compared.
        old_frames: of the recording of the task as it was.
        test_frames: of each recording that is measured on.
        budget: gradient steps of adapting.
        steps: gradient steps of each stage of the old world.
        scratch_steps: gradient steps of each stage of a world from scratch.
        update: what learns, where that is not what is compared.
        seeds: of worlds and their adapting; recordings are the same.
        shifts: which changes; empty takes all.
        compared: changes in which everything is compared.
        policies: changes in which policies are compared, at the middle number of frames.
        agent_steps: dreamt steps of each policy.
        episodes: real episodes that each policy plays.
        windows: dreamt in each measurement.
        calibration_steps: whose rewards and terminations are predicted in each.
        picture: draw the errors into this file.
    """

    task: str = "minigrid_lava_gap"
    out: Path | None = None
    size: int = 28
    frames: tuple[int, ...] = (100, 1000, 5000)
    old_frames: int = 10_000
    test_frames: int = 2000
    budget: int = 400
    steps: int = 500
    scratch_steps: int = 200
    update: Update = "all"
    seeds: int = 1
    shifts: tuple[str, ...] = ()
    compared: tuple[str, ...] = ("colours",)
    policies: tuple[str, ...] = ("colours",)
    agent_steps: int = 100_000
    episodes: int = 100
    windows: int = 32
    calibration_steps: int = 1000
    picture: Path | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    config = tyro.cli(Adaptation, args=arguments, description=__doc__)
    path = run(config)
    print(f"\nwrote {path}")


def run(config: Adaptation) -> Path:
    """Measure everything; return the path of the results."""
    bench = _Bench(config)
    shifts = config.shifts or shifts_of(config.task)
    results: dict[str, Any] = {"shifts": {}, "policies": {}}
    for shift in shifts:
        results["shifts"][shift] = [bench.shift(shift, seed) for seed in range(config.seeds)]
    for shift in config.policies:
        results["policies"][shift] = [bench.policies(shift, seed) for seed in range(config.seeds)]
    _print(results)
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in ("out", "picture")}
    if config.picture is not None:
        draw(results, config.picture)
    return write_json(bench.folder / "adaptation.json", envelope("adaptation", results, settings))


class _Bench:
    """Everything that is measured, each thing once."""

    def __init__(self, config: Adaptation) -> None:
        self.config = config
        self.folder = config.out or Path("runs/adaptation") / config.task
        self.middle = sorted(config.frames)[len(config.frames) // 2]

    def recording(self, shift: str | None, steps: int, seed: int) -> EpisodeDataset:
        """Record the task, changed or not."""
        make = make_shifted(self.config.task, shift, size=self.config.size)
        env = make()
        policy = partial(StickyRandomPolicy, env.action_space, 0.5)
        env.close()
        path = self.folder / "recordings" / f"{shift or 'old'}-{seed}-{steps}"
        return collect(make, policy, path, steps=steps, num_workers=0, seed=seed, progress=False)

    def test(self, shift: str | None) -> EpisodeDataset:
        """What is measured on, which nothing learns from."""
        return self.recording(shift, self.config.test_frames, 1)

    def old_world(self, seed: int) -> World:
        """The world that adapts."""
        recording = self.recording(None, self.config.old_frames, 0)
        return self._trained(recording, f"old-{seed}", self.config.steps, seed)

    def from_scratch(self, shift: str, frames: int, seed: int) -> World:
        """A world of the changed task alone."""
        name = f"{shift}-{frames}-scratch-{seed}"
        return self._trained(self.recording(shift, frames, 0), name, self.config.scratch_steps, seed)

    def _trained(self, recording: EpisodeDataset, name: str, steps: int, seed: int) -> World:
        config = TrainConfig(
            seed=seed, holdout=0.0, compile="off", eval_every=10**9, checkpoint_every=10**6, progress=False
        )
        return train(config, _backbone(steps), recording, self.folder / "worlds" / name)

    def adapted(self, shift: str, frames: int, seed: int, update: Update, replay: str) -> World:
        """The world that was adapted, or is found."""
        name = f"{shift}-{frames}-{update}-{replay}-{seed}"
        place = self.folder / "worlds" / name
        if (place / "world.json").exists():
            return World.load(place)
        old = self.recording(None, self.config.old_frames, 0)
        experience = {"dreams": "dreams", "recording": old, "none": None}[replay]
        config = AdaptConfig(update=update, seed=seed, progress=False)
        new, world = self.recording(shift, frames, 0), self.old_world(seed)
        adapted = adapt(world, new, self.config.budget, experience, config=config)  # type: ignore[arg-type]
        adapted.save(place)
        return adapted

    def shift(self, shift: str, seed: int) -> dict[str, Any]:
        """Measure one change: name of the arm -> what `_measure` found on the new and the old task."""
        config, middle = self.config, self.middle
        found = {"zero-shot": self.measured("zero-shot", self.old_world(seed), shift, seed)}

        def add(name: str, frames: int, update: Update, replay: str) -> None:
            found[name] = self.measured(name, self.adapted(shift, frames, seed, update, replay), shift, seed)

        add(f"adapted, {middle}", middle, config.update, "dreams")
        add(f"{config.update}, none", middle, config.update, "none")
        if shift not in config.compared:
            return found
        for frames in config.frames:
            add(f"adapted, {frames}", frames, config.update, "dreams")
            name = f"scratch, {frames}"
            found[name] = self.measured(name, self.from_scratch(shift, frames, seed), shift, seed)
        add(f"{config.update}, recording", middle, config.update, "recording")
        others: tuple[Update, ...] = ("low_rank", "heads", "all")
        for update in others:
            if update != config.update:
                add(f"{update}, dreams", middle, update, "dreams")
        return found

    def measured(self, name: str, world: World, shift: str, seed: int) -> dict[str, Any]:
        """Measure a world on the changed task and, unless it never knew it, on the old one."""
        result = {}
        for place, dataset in (("new", self.test(shift)), ("old", self.test(None))):
            size = self.config.windows, self.config.calibration_steps
            key = {"world": world.content_hash(), "data": dataset.content_hash(), "size": size}
            result[place] = cached(
                self.folder / "measured", f"{shift}-{name.replace(', ', '-')}-{seed}-{place}", key,
                partial(_measure, world, dataset, *size),
            )  # fmt: skip
        new, old = result["new"]["psnr"]["10"], result["old"]["psnr"]["10"]
        print(f"{shift} {name} (seed {seed}): PSNR at 10 steps {new:.2f} new, {old:.2f} old", flush=True)
        return result

    def policies(self, shift: str, seed: int) -> dict[str, Any]:
        """Play the changed task: at random, and by policies trained in dreams of each world."""
        frames = self.middle
        worlds = {
            "old world": self.old_world(seed),
            "adapted": self.adapted(shift, frames, seed, self.config.update, "dreams"),
        }
        make = make_shifted(self.config.task, shift, size=self.config.size)
        env = make()
        found = {"random": self.played("random", RandomActor(env.action_space), None, make, seed)}
        env.close()
        for name, world in worlds.items():
            out = self.folder / "agents" / f"{shift}-{name.replace(' ', '-')}-{seed}-{self.config.agent_steps}"
            policy = train_agent(_agent(self.config, seed), out=out, world=world)
            found[name] = self.played(f"{shift}-{name.replace(' ', '-')}", policy, world, make, seed)
        return found

    def played(self, name: str, policy: Actor, world: World | None, make: Any, seed: int) -> dict[str, Any]:
        """Play the real episodes: the returns' mean and 95% interval."""
        key = {"world": world.content_hash() if world else None, "episodes": self.config.episodes,
               "steps": self.config.agent_steps}  # fmt: skip

        def play() -> dict[str, Any]:
            done = evaluate(
                policy, make, episodes=self.config.episodes, seed=_EVALUATION_SEED, world=world, deterministic=False
            )
            return {"returns": done.to_json()["returns"]}

        result = cached(self.folder / "played", f"{name}-{seed}", key, play)
        summary = mean_iqm_interval(np.asarray(result["returns"], np.float64)).to_json()
        print(f"{name} (seed {seed}): return {summary['mean']:.3f}", flush=True)
        return summary


def _backbone(steps: int) -> RSSMConfig:
    """A small world whose goal pays with the end alone."""
    return RSSMConfig(
        deter=128, stoch=16, classes=16, hidden=128, channels=(16, 32, 48),
        head=RewardTerminationHeadConfig(hidden_size=64, terminal_reward=True),
        training=RSSMTraining(
            joint=RSSMStage(steps=steps, batch_size=16, sequence_length=12, learning_rate=1e-3),
            dynamics=RSSMStage(steps=steps, batch_size=24, sequence_length=24, learning_rate=1e-3),
        ),
    )  # fmt: skip


def _agent(config: Adaptation, seed: int) -> AgentConfig:
    return AgentConfig(
        observation=ObservationConfig(kind="latent"), total_steps=config.agent_steps, num_envs=32, seed=seed,
        dream=DreamConfig(horizon=96),
    )  # fmt: skip


def _measure(world: World, dataset: EpisodeDataset, windows: int, steps: int) -> dict[str, Any]:
    """Return PSNR by horizon with 95% intervals over windows, and how wrong rewards and terminations are."""
    store = FrameStore(dataset)
    report = dream_fidelity(world.model, store, horizons=_HORIZONS, windows=windows, context=_CONTEXT)
    known = calibration(world.model, store, steps=steps)
    psnr = {horizon: entry["psnr"] for horizon, entry in report["horizons"].items()}
    return {
        "psnr": {horizon: entry["mean"] for horizon, entry in psnr.items()},
        "psnr_interval": {horizon: [entry["low"], entry["high"]] for horizon, entry in psnr.items()},
        "termination_log_loss": known["termination"]["log_loss"],
        "termination_log_loss_base_rate": known["termination"]["log_loss_base_rate"],
        "reward_rmse": known["reward"]["root_mean_squared_error"],
    }


def _values(runs: Sequence[Mapping[str, Any]], arm: str, place: str, *path: str) -> list[float]:
    values = []
    for run_of_seed in runs:
        value = run_of_seed[arm][place]
        for key in path:
            value = value[key]
        values.append(float(value))
    return values


def _spread(values: Sequence[float], digits: int = 1) -> str:
    mean, half = float(np.mean(values)), (max(values) - min(values)) / 2
    return f"{mean:.{digits}f} ± {half:.{digits}f}" if len(values) > 1 else f"{mean:.{digits}f}"


def _interval(runs: Sequence[Mapping[str, Any]], arm: str, place: str) -> str:
    """Return PSNR at 10 steps: over seeds, or with one seed its interval over windows."""
    values = _values(runs, arm, place, "psnr", "10")
    low, high = runs[0][arm][place]["psnr_interval"]["10"]
    return _spread(values) if len(values) > 1 else f"{values[0]:.1f} [{low:.1f}, {high:.1f}]"


def _print(results: Mapping[str, Any]) -> None:
    header = ("arm", "PSNR at 1", "at 5", "at 10", "termination, nats", "reward RMSE", "old task: at 10", "change",
              "termination, nats")  # fmt: skip
    for shift, runs in results["shifts"].items():
        before, rows = float(np.mean(_values(runs, "zero-shot", "old", "psnr", "10"))), []
        for arm in runs[0]:
            change = float(np.mean(_values(runs, arm, "old", "psnr", "10"))) / before - 1
            near = [_spread(_values(runs, arm, "new", "psnr", horizon)) for horizon in ("1", "5")]
            ends = [_spread(_values(runs, arm, place, "termination_log_loss"), 3) for place in ("new", "old")]
            paid = _spread(_values(runs, arm, "new", "reward_rmse"), 3)
            new, old = _interval(runs, arm, "new"), _interval(runs, arm, "old")
            rows.append((arm, *near, new, ends[0], paid, old, f"{change:+.1%}", ends[1]))
        print(f"\n{shift}\n")
        print_table(header, rows)
    for shift, runs in results["policies"].items():
        rows = []
        for arm in runs[0]:
            low, high = runs[0][arm]["mean_interval"]
            by_seed = ", ".join(f"{one[arm]['mean']:.3f}" for one in runs)
            rows.append((arm, float(np.mean([one[arm]["mean"] for one in runs])), f"[{low:.3f}, {high:.3f}]", by_seed))
        print(f"\nreturns in the changed task ({shift})\n")
        print_table(("dreams of", "return", "95%, first seed", "by seed"), rows)


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draw the error on the changed task over the frames of it that were seen, a panel per change.

    Raises:
        MissingDependencyError: there is no matplotlib.
    """
    require("matplotlib", extra="report")
    from matplotlib import pyplot as plt

    shifts = {shift: runs for shift, runs in results["shifts"].items() if any("scratch" in arm for arm in runs[0])}
    figure, axes = plt.subplots(1, len(shifts), figsize=(6 * len(shifts), 4), layout="constrained", squeeze=False)
    for axis, (shift, runs) in zip(axes[0], shifts.items(), strict=True):
        for kind, colour in (("adapted", "tab:blue"), ("scratch", "tab:orange")):
            frames = sorted(int(arm.split(", ")[1]) for arm in runs[0] if arm.startswith(f"{kind}, "))
            values = np.array([_values(runs, f"{kind}, {count}", "new", "psnr", "10") for count in frames])
            axis.plot(
                frames, values.mean(axis=1), "o-", color=colour, label=kind if kind == "adapted" else "from scratch"
            )
            axis.fill_between(frames, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.2, linewidth=0)
            if kind == "adapted":
                kept = np.array([_values(runs, f"adapted, {count}", "old", "psnr", "10") for count in frames])
                axis.plot(frames, kept.mean(axis=1), "s--", color="tab:green", label="adapted, on the old task")
        axis.axhline(np.mean(_values(runs, "zero-shot", "new", "psnr", "10")), color="grey", label="zero-shot")
        axis.axhline(
            np.mean(_values(runs, "zero-shot", "old", "psnr", "10")),
            color="tab:green",
            ls=":",
            label="old task, before",
        )
        axis.set(xscale="log", title=shift, xlabel="frames of the changed task")
    axes[0][0].set_ylabel("PSNR 10 steps ahead, dB")
    axes[0][0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()

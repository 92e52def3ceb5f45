"""Does a world that compresses better make a better environment? Bits per frame against what is learned in the dream.

::

    python -m dreamenv.benchmarks.usefulness --data RECORDING --out result.json

One backbone is trained from the same start for a dozen numbers of steps, evenly spaced on a logarithmic scale, each to
the end of its own schedule. Of each world: bits per frame of held-out episodes (`dreamenv.metrics.bits`), and the real
scores of policies that PPO trained in its dreams alone, on latents. Spearman's rank correlation says whether the one
foretells the other; a picture with the JSON's name shows it. Safe to interrupt: rerun the same command to resume.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.benchmarks.loop import Loop
from dreamenv.benchmarks.recipes import recipe_for
from dreamenv.benchmarks.scored import bits_of, first_frames, train_once
from dreamenv.benchmarks.task_names import TaskName
from dreamenv.data import EpisodeDataset
from dreamenv.errors import ConfigError
from dreamenv.extras import require
from dreamenv.metrics.statistics import mean_intervals, spearman_interval
from dreamenv.presets import make_config
from dreamenv.storage import atomic_file
from dreamenv.training import TrainConfig
from dreamenv.world_model import BackboneConfig, WorldModelSpec

__all__ = ["Usefulness", "draw", "main", "measure"]


@dataclass(frozen=True, kw_only=True)
class Usefulness:
    """Train worlds for ever longer, and policies in the dreams of each.

    Attributes:
        data: the recording, of this task and with its recipe's reward.
        task: the real environment.
        folder: where worlds, policies and measurements are kept.
        out: JSON file to write; the picture beside it is a PNG.
        backbone: kind of model; it must give frames a probability.
        preset: its sizes.
        frames: of the recording to learn from.
        effort: share of the preset's own steps that the longest training takes.
        first: share of those that the shortest takes.
        points: how many trainings.
        agent_steps: of PPO, in each dream.
        seeds: of PPO, in each dream.
        episodes: real ones of each policy, which acts greedily.
        windows: held-out ones that are scored.
        threads: of torch; None leaves its setting.
    """

    data: Path
    task: TaskName = "take_cover"
    folder: Path = Path("runs/usefulness")
    out: Path = Path("usefulness.json")
    backbone: str = "rssm"
    preset: str = "small"
    frames: int = 40_000
    effort: float = 1.0
    first: float = 0.02
    points: int = 12
    agent_steps: int = 150_000
    seeds: int = 2
    episodes: int = 50
    windows: int = 64
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("frames", "points", "agent_steps", "seeds", "episodes", "windows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 < self.first <= 1 or not self.effort > 0:
            raise ConfigError(f"first must be in (0, 1] and effort above 0, not {self.first} and {self.effort}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    settings = tyro.cli(Usefulness, args=arguments, description=__doc__)
    require("matplotlib", extra="report")  # before the hours of training, not after them
    results = measure(settings)
    rows = [
        (
            " + ".join(str(count) for count in one["steps"].values()),
            f"{one['bits_per_frame']['mean']:,.0f} [{one['bits_per_frame']['low']:,.0f}, "
            f"{one['bits_per_frame']['high']:,.0f}]",
            f"{one['value']['mean']:,.1f} [{one['value']['low']:,.1f}, {one['value']['high']:,.1f}]",
            ", ".join(f"{mean:,.1f}" for mean in one["by_seed"]),
        )
        for one in results["points"]
    ]
    print_table(("steps", "bits a frame", results["value_name"], "by seed"), rows)
    print(f"random: {results['random']['mean']:,.1f}. {_told(results['spearman'])}")
    draw(results, settings.out.with_suffix(".png"))
    # Where the folders lie on this machine says nothing to a reader.
    shown = {**vars(settings), **{name: getattr(settings, name).name for name in ("data", "folder", "out")}}
    sys.argv[1:] = []
    print(f"wrote {write_json(settings.out, envelope('usefulness', results, shown))}", file=sys.stderr)


def measure(settings: Usefulness) -> dict[str, Any]:
    """Return bits and real scores of every training, and how their ranks correlate.

    Raises:
        DatasetError: the recording has too few frames.
        ConfigError: the backbone gives frames no probability, or the folder is of another run.
    """
    dataset = EpisodeDataset.open(settings.data)
    training, held_out = dataset.split(TrainConfig().holdout, TrainConfig().seed)
    training = first_frames(training, settings.frames, settings.folder / "recordings")
    recipe = dataclasses.replace(recipe_for(settings.task), episodes=settings.episodes)
    loop = Loop(recipe, settings.folder, threads=settings.threads)
    agent = dataclasses.replace(recipe.latent_agent, total_steps=settings.agent_steps)
    config = make_config(settings.backbone, settings.preset)
    plans = _plans(config, training, settings)
    random = loop.measure("random", None)
    points = []
    for index, (share, steps) in enumerate(plans):
        name = f"point-{index + 1}-of-{len(plans)}"
        world = train_once(config, steps, training, settings.folder / "worlds" / name, threads=settings.threads)
        bits = bits_of(world, held_out, settings.folder / "measurements", windows=settings.windows)
        played = [
            loop.measure(f"{name}-{seed}", loop.agent(name, agent, world, seed), world=world)
            for seed in range(settings.seeds)
        ]
        values = [_values(one) for one in played]
        points.append(
            {
                **bits,
                "share": share,
                "steps": steps,
                "value": _interval([value for one in values for value in one]),
                "by_seed": [float(np.mean(one)) for one in values],
                "returns": [one["return_summary"] for one in played],
                "training_seconds": world.record["seconds"],
            }
        )
    costs = [one["bits_per_frame"]["mean"] for one in points]
    return {
        "points": points,
        "random": _interval(_values(random)),
        "value_name": random["score_name"] if random["scores"] is not None else "return",
        "score_of": points[0]["score_of"],
        "score_is": points[0]["score_is"],
        "spearman": spearman_interval(costs, [one["value"]["mean"] for one in points]),
        "data": dataset.content_hash(),
        "frames": training.total_steps,
        "held_out_episodes": len(held_out),
    }


def draw(results: Mapping[str, Any], out: Path) -> None:
    """Draw real scores over bits per frame, each point labelled by its steps; small dots are policies.

    Raises:
        MissingDependencyError: there is no matplotlib.
    """
    require("matplotlib", extra="report")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    points, random = results["points"], results["random"]
    bits = np.array([one["bits_per_frame"]["mean"] for one in points]) / 1000
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(points)))
    axes.axhspan(random["low"], random["high"], color="0.9")
    axes.axhline(random["mean"], color="0.6", linewidth=1, label="random actions")
    axes.plot(bits, [one["value"]["mean"] for one in points], color="0.8", linewidth=1, zorder=1)
    for x, one, shade in zip(bits, points, shades, strict=True):
        value, wide = one["value"], one["bits_per_frame"]
        axes.errorbar(
            x, value["mean"], yerr=[[value["mean"] - value["low"]], [value["high"] - value["mean"]]],
            xerr=[[x - wide["low"] / 1000], [wide["high"] / 1000 - x]], color=shade, fmt="o", capsize=2, linewidth=1.2,
        )  # fmt: skip
        axes.plot([x] * len(one["by_seed"]), one["by_seed"], ".", color=shade, markersize=4)
        axes.annotate(
            str(sum(one["steps"].values())), (x, value["mean"]), textcoords="offset points", xytext=(5, 5), fontsize=8
        )
    axes.invert_xaxis()
    axes.set_xlabel(
        f"thousand bits a held-out frame ({results['score_is']}, of {results['score_of']}); better to the right"
    )
    axes.set_ylabel(f"real {results['value_name']}")
    axes.set_title(f"labels: optimiser steps. {_told(results['spearman'])}", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(out, "the picture") as draft:
        figure.savefig(draft, dpi=120)
    plt.close(figure)


def _plans(config: BackboneConfig, dataset: EpisodeDataset, settings: Usefulness) -> list[tuple[float, dict[str, int]]]:
    """Return shares of the longest training, and the steps that they are of each stage."""
    height, width, channels = dataset.frame_shape
    spec = WorldModelSpec(
        frame_shape=(channels, height, width), action_space=dataset.action_space,
        frame_rate=dataset.provenance.frame_rate,
    )  # fmt: skip
    stages = config.build(spec).stages()
    shares = np.geomspace(settings.first, 1.0, settings.points) if settings.points > 1 else np.ones(1)
    return [
        (float(share), {stage.name: max(1, round(settings.effort * share * stage.steps)) for stage in stages})
        for share in shares
    ]


def _values(played: Mapping[str, Any]) -> list[float]:
    return list(played["returns"] if played["scores"] is None else played["scores"])


def _interval(values: Sequence[float]) -> dict[str, float]:
    low, high = mean_intervals(np.asarray(values)[:, None], 0)[0]
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}


def _told(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "Spearman's correlation: too few different points"
    return (
        f"Spearman's correlation of bits and score: {found['correlation']:.2f} "
        f"[{found['low']:.2f}, {found['high']:.2f}]"
    )


if __name__ == "__main__":
    main()

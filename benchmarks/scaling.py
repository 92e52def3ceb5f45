"""How bits per frame fall with the size of a model and with the frames that it learned from.

::

    python -m dreamenv.benchmarks.scaling --data RECORDING --out result.json

An `rssm` of each size is trained on the beginning of the recording, of each length, for the same number of steps, and
scored on the same held-out episodes (`dreamenv.metrics.bits`). A picture with the JSON's name shows it. Safe to
interrupt: rerun the same command to resume.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from dreamenv.backbones.rssm import RSSMConfig
from dreamenv.backbones.rssm.presets import PRESETS
from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.benchmarks.scored import bits_of, first_frames, train_once
from dreamenv.data import EpisodeDataset
from dreamenv.errors import ConfigError, UnknownNameError
from dreamenv.extras import require
from dreamenv.storage import atomic_file
from dreamenv.training import TrainConfig

__all__ = ["Scaling", "draw", "main", "measure", "scaled"]

_LEAST = 8  # units that a width is made of


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Train worlds of several sizes on recordings of several lengths.

    Attributes:
        data: the recording.
        folder: where worlds and measurements are kept.
        out: JSON file to write; the picture beside it is a PNG.
        preset: of `rssm`, whose widths the sizes are shares of.
        sizes: shares, each above 0.
        frames: to learn from, each a whole number of episodes.
        effort: share of the preset's own steps.
        windows: held-out ones that are scored.
        threads: of torch; None leaves its setting.
    """

    data: Path
    folder: Path = Path("runs/scaling")
    out: Path = Path("scaling.json")
    preset: str = "small"
    sizes: tuple[float, ...] = (0.25, 0.5, 1.0)
    frames: tuple[int, ...] = (5_000, 20_000, 80_000)
    effort: float = 1.0
    windows: int = 64
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("sizes", "frames"):
            values = getattr(self, name)
            if not values or min(values) <= 0 or len(set(values)) < len(values):
                raise ConfigError(f"{name} must be different positive numbers, at least one, not {values}.")
        if not self.effort > 0 or self.windows < 1:
            raise ConfigError(f"effort must be above 0 and windows at least 1, not {self.effort} and {self.windows}.")
        if self.preset not in PRESETS:
            raise UnknownNameError("preset of rssm", self.preset, PRESETS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    settings = tyro.cli(Scaling, args=arguments, description=__doc__)
    require("matplotlib", extra="report")  # before the hours of training, not after them
    results = measure(settings)
    rows = [
        (
            f"{one['parameters']:,}",
            f"{one['frames']:,}",
            f"{one['bits_per_frame']['mean']:,.0f} [{one['bits_per_frame']['low']:,.0f}, "
            f"{one['bits_per_frame']['high']:,.0f}]",
            one["bits_per_dim"],
        )
        for one in results["worlds"]
    ]
    print_table(("parameters", "frames to learn from", "bits a frame", "a value"), rows)
    draw(results, settings.out.with_suffix(".png"))
    # Where the folders lie on this machine says nothing to a reader.
    shown = {**vars(settings), **{name: getattr(settings, name).name for name in ("data", "folder", "out")}}
    sys.argv[1:] = []
    print(f"wrote {write_json(settings.out, envelope('scaling', results, shown))}", file=sys.stderr)


def measure(settings: Scaling) -> dict[str, Any]:
    """Return what held-out frames cost each world.

    Raises:
        DatasetError: the recording has too few frames.
        ConfigError: the folder is of another run.
    """
    dataset = EpisodeDataset.open(settings.data)
    training, held_out = dataset.split(TrainConfig().holdout, TrainConfig().seed)
    recordings = settings.folder / "recordings"
    # The longest first: one that there is not is refused before anything is trained.
    parts = [first_frames(training, frames, recordings) for frames in sorted(settings.frames, reverse=True)][::-1]
    preset = PRESETS[settings.preset]()
    stages = {"joint": preset.training.joint, "dynamics": preset.training.dynamics}
    steps = {name: max(1, round(settings.effort * stage.steps)) for name, stage in stages.items()}
    worlds = []
    for size in sorted(settings.sizes):
        for part in parts:
            place = settings.folder / "worlds" / f"size-{size:g}-frames-{part.total_steps}"
            world = train_once(scaled(preset, size), steps, part, place, threads=settings.threads)
            bits = bits_of(world, held_out, settings.folder / "measurements", windows=settings.windows)
            parameters = sum(one.numel() for one in world.model.parameters())
            worlds.append(
                {
                    **bits,
                    "size": size,
                    "parameters": parameters,
                    "frames": part.total_steps,
                    "training_seconds": world.record["seconds"],
                }
            )
    return {
        "worlds": worlds,
        "steps": steps,
        "score_of": worlds[0]["score_of"],
        "score_is": worlds[0]["score_is"],
        "data": dataset.content_hash(),
        "held_out_episodes": len(held_out),
    }


def scaled(config: RSSMConfig, share: float) -> RSSMConfig:
    """Return the same model with a share of its widths: of memory, hidden layer and convolutions."""

    def width(whole: int) -> int:
        return max(_LEAST, _LEAST * round(share * whole / _LEAST))

    return dataclasses.replace(
        config,
        deter=width(config.deter),
        hidden=width(config.hidden),
        channels=tuple(width(channels) for channels in config.channels),
    )


def draw(results: Mapping[str, Any], out: Path) -> None:
    """Draw bits over parameters, a line for each recording, and over frames, a line for each size.

    Raises:
        MissingDependencyError: there is no matplotlib.
    """
    require("matplotlib", extra="report")
    from matplotlib import pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    for axes, x, line, unit in (
        (both[0], "parameters", "frames", "frames"),
        (both[1], "frames", "parameters", "parameters"),
    ):
        groups = sorted({one[line] for one in results["worlds"]})
        shades = plt.get_cmap("viridis")([index / max(1, len(groups)) for index in range(len(groups))])
        for group, shade in zip(groups, shades, strict=True):
            chosen = sorted((one for one in results["worlds"] if one[line] == group), key=lambda one: float(one[x]))
            bits = [one["bits_per_frame"] for one in chosen]
            means = [one["mean"] / 1000 for one in bits]
            below = [(one["mean"] - one["low"]) / 1000 for one in bits]
            above = [(one["high"] - one["mean"]) / 1000 for one in bits]
            axes.errorbar(
                [one[x] for one in chosen], means, yerr=[below, above], color=shade, marker="o", markersize=4,
                capsize=2, linewidth=1.4, label=f"{group:,} {unit}",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel("parameters" if x == "parameters" else "frames to learn from")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    both[0].set_ylabel(f"thousand bits a held-out frame\n({results['score_is']}, of {results['score_of']})")
    with atomic_file(out, "the picture") as draft:
        figure.savefig(draft, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

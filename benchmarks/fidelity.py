"""Measure the fidelity of a world: ``python -m dreamenv.benchmarks.fidelity --world W --data D``.

PSNR and SSIM 1, 5, 10, 30 and 100 steps into the dream against persistence, drift, and the calibration of rewards and
terminations. On the recording a world was trained on, only the episodes held out from it are used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.errors import DatasetError, FrameError, UnknownNameError
from dreamenv.metrics.fidelity import HORIZONS, fidelity
from dreamenv.metrics.objects import object_fidelity
from dreamenv.world import World

__all__ = ["Fidelity", "held_out_of", "main", "measure"]


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Measure the fidelity of a world.

    Attributes:
        world: folder of the world, or hf://owner/name.
        data: folder of a recording of the same environment.
        out: JSON file to write.
        horizons: steps into the dream at which frames are compared.
        windows: how many are dreamed for each horizon.
        context: steps observed before each dream.
        calibration_steps: recorded steps on which rewards and terminations are predicted.
        seed: of the choice of windows and of the dreams.
        device: "cpu", "cuda", ...
    """

    world: str
    data: Path
    out: Path = Path("fidelity.json")
    horizons: tuple[int, ...] = HORIZONS
    windows: int = 256
    context: int = 8
    calibration_steps: int = 20_000
    seed: int = 0
    device: str = "cpu"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    settings = tyro.cli(Fidelity, args=arguments, description=__doc__)
    results = measure(settings)
    rows = [
        (
            horizon,
            entry["count"],
            _interval(entry["psnr"]),
            _interval(entry["persistence_psnr"]),
            _interval(entry["ssim"]),
            _interval(entry["persistence_ssim"]),
        )
        for horizon, entry in results["horizons"].items()
    ]
    print_table(("step", "windows", "PSNR (dB)", "persistence", "SSIM", "persistence"), rows)
    reward, termination = results["reward"], results["termination"]
    print(
        f"\nreward: mean absolute error {reward['mean_absolute_error']:.4g}, bias {reward['bias']:+.4g}\n"
        f"termination: predicted {termination['predicted_rate']:.4%} a step, real {termination['real_rate']:.4%}; "
        f"log loss {termination['log_loss']:.4f} nats (base rate {termination['log_loss_base_rate']:.4f}), calibration "
        f"error {termination['expected_calibration_error']:.4f}"
    )
    _print_objects(results["objects"])
    print(f"wrote {write_json(settings.out, envelope('fidelity', results, vars(settings)))}", file=sys.stderr)


def measure(settings: Fidelity) -> dict[str, Any]:
    """Return `dreamenv.metrics.fidelity.fidelity` of the world, and which episodes it was measured on.

    Raises:
        WorldMismatchError: the recording is of another environment.
        DatasetError: the world was trained on all of the recording.
    """
    world = World.load(settings.world, settings.device)
    dataset = EpisodeDataset.open(settings.data)
    if world.provenance is not None:
        world.provenance.check_matches(dataset.provenance)
    episodes, which = held_out_of(world, dataset)
    report = fidelity(
        world,
        episodes,
        horizons=settings.horizons,
        windows=settings.windows,
        context=settings.context,
        calibration_steps=settings.calibration_steps,
        seed=settings.seed,
        device=settings.device,
    )
    data = {"episodes": len(episodes), "steps": episodes.total_steps, "which": which, "sha256": dataset.content_hash()}
    return report | {"objects": _objects(world, episodes, settings), "data": data, "world": world.content_hash()}


def _objects(world: World, episodes: EpisodeDataset, settings: Fidelity) -> dict[str, Any]:
    """Return `dreamenv.metrics.objects.object_fidelity`, or under ``not_measured`` why there is none."""
    try:
        return object_fidelity(
            world,
            episodes,
            moments=settings.windows,
            context=settings.context,
            seed=settings.seed,
            device=settings.device,
        )
    except (UnknownNameError, DatasetError, FrameError) as error:
        return {"not_measured": str(error)}


def held_out_of(world: World, dataset: EpisodeDataset) -> tuple[EpisodeDataset, str]:
    """Return the episodes that the world was not trained on, and which those are: "held out" or "all".

    Raises:
        DatasetError: it was trained on all of them.
    """
    record = world.record
    if record.get("data", {}).get("sha256") != dataset.content_hash():
        return dataset, "all"
    config = record["train_config"]
    _, held_out = dataset.split(config["holdout"], config["seed"])
    if len(held_out) == 0:
        raise DatasetError(
            f"the world was trained on every episode of {dataset.path}; measure it on another recording of "
            f"{dataset.provenance.environment_id}."
        )
    return held_out, "held out"


def _print_objects(objects: dict[str, Any]) -> None:
    if "not_measured" in objects:
        print(f"\nobjects: not measured: {objects['not_measured']}")
        return
    print(f"\n{', '.join(objects['kinds'])} that were in sight when the dream began")
    rows = [
        (step, entry["moments"], name, *(_percent(entry[name][what]) for what in ("found", "present", "false")))
        for step, entry in objects["steps"].items()
        for name in ("dream", "codec", "persistence")
        if name in entry
    ]
    real = [
        (step, entry["moments"], "reality", "100%", _percent(entry["present"]), "0%")
        for step, entry in objects["steps"].items()
    ]
    names = ("step", "moments", "of", "found at their places", "frames with any", "false ones a frame")
    print_table(names, sorted(rows + real, key=lambda row: int(row[0])))


def _percent(entry: dict[str, float] | None) -> str:
    return "-" if entry is None else f"{entry['mean']:.0%} [{entry['low']:.0%}, {entry['high']:.0%}]"


def _interval(entry: dict[str, float]) -> str:
    return f"{entry['mean']:.3g} [{entry['low']:.3g}, {entry['high']:.3g}]"


if __name__ == "__main__":
    main()

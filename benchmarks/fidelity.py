"""Measure the fidelity of a world: ``python -m dreamenv.benchmarks.fidelity --world W --data D``.

PSNR and SSIM 1, 5, 10, 30 and 100 steps into the dream against persistence, sharpness and drift, the calibration of
rewards and terminations; whether small objects live on, whether actions are recognised, and the Fréchet distance of
dreamt from real clips (rFVD). A sheet next to the JSON file shows reality above the dream. On the recording a world was
trained on, only the episodes held out from it are used.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.benchmarks.showing import write_strip
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.errors import ConfigError, DatasetError, FrameError, UnknownNameError
from dreamenv.metrics.fidelity import HORIZONS, fidelity
from dreamenv.metrics.inverse_dynamics import InverseDynamicsConfig
from dreamenv.metrics.objects import object_fidelity
from dreamenv.metrics.rollouts import rollout_fidelity
from dreamenv.metrics.summary import HOW_TO_READ, summary_table
from dreamenv.training.record import recorded_split
from dreamenv.world import World

__all__ = ["Fidelity", "held_out_of", "main", "measure", "what_agents_need"]

_JUDGED = 0.3  # share of an unseen recording that is dreamt; the rest shows the inverse dynamics what actions do


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Measure the fidelity of a world.

    Attributes:
        world: folder of the world, or hf://owner/name.
        data: folder of a recording of the same environment.
        out: JSON file to write; the sheet has the same name and ends in ``.png``.
        horizons: steps into the dream at which frames are compared.
        windows: how many are dreamed for each horizon.
        context: steps observed before each dream.
        calibration_steps: recorded steps on which rewards and terminations are predicted.
        seed: of the choice of windows and of the dreams.
        device: "cpu", "cuda", ...
        inverse_steps: of training of the network that recognises actions; a minute or two with the default.
        cache: folder that keeps the networks which recognise actions, by a digest of what they were trained on.
        into_world: also write the results into the world's folder: its metrics and its model card.

    Raises:
        ConfigError: ``into_world`` for a world that is no folder.
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
    inverse_steps: int = 1500
    cache: Path = Path("runs/inverse_dynamics")
    into_world: bool = False

    def __post_init__(self) -> None:
        if self.into_world and not Path(self.world).is_dir():
            raise ConfigError(f"into_world needs the folder of a world to write to; {self.world} is none.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    settings = tyro.cli(Fidelity, args=arguments, description=__doc__)
    results = measure(settings)
    print_table(*summary_table(results))
    print("\n" + textwrap.fill(HOW_TO_READ, 100))
    _print_frames(results)
    _print_bits(results["bits"])
    _print_objects(results["objects"])
    _print_rollouts(results)
    print(f"wrote {write_json(settings.out, envelope('fidelity', results, vars(settings)))}", file=sys.stderr)


def measure(settings: Fidelity) -> dict[str, Any]:
    """Return `dreamenv.metrics.fidelity.fidelity` of the world, `what_agents_need`, and which episodes were used.

    Raises:
        WorldMismatchError: the recording is of another environment.
        DatasetError: the world was trained on all of the recording, or it is too small to hold anything out.
    """
    world = World.load(settings.world, settings.device)
    dataset = EpisodeDataset.open(settings.data)
    if world.provenance is not None:
        world.provenance.check_matches(dataset.provenance)
    episodes, which = held_out_of(world, dataset)
    training, judged = _split(world, dataset, settings.seed)
    chosen: dict[str, Any] = {
        "windows": settings.windows,
        "context": settings.context,
        "seed": settings.seed,
        "device": settings.device,
    }
    report = fidelity(
        world, episodes, horizons=settings.horizons, calibration_steps=settings.calibration_steps, **chosen
    )
    inverse = InverseDynamicsConfig(steps=settings.inverse_steps)
    report |= what_agents_need(world, judged, training, inverse=inverse, cache=settings.cache, **chosen)
    if settings.into_world:
        world.metrics = {**world.metrics, **report}
        world.save(settings.world, half=_is_half(world))
    write_strip(settings.out.with_suffix(".png"), world, judged)
    data = {"episodes": len(episodes), "steps": episodes.total_steps, "which": which, "sha256": dataset.content_hash()}
    return report | {"data": data, "world": world.content_hash()}


def what_agents_need(
    world: World,
    held_out: EpisodeDataset,
    training: EpisodeDataset,
    *,
    windows: int = 256,
    context: int = 8,
    inverse: InverseDynamicsConfig | None = None,
    cache: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Return ``objects``, ``actions`` and ``rfvd``; see `dreamenv.metrics.objects` and `dreamenv.metrics.rollouts`.

    ``{"not_measured": why}`` stands for what this recording cannot tell, and None for its rFVD.
    """
    chosen: dict[str, Any] = {"context": context, "seed": seed, "device": device}
    try:
        objects = object_fidelity(world, held_out, moments=windows, **chosen)
    except (UnknownNameError, DatasetError, FrameError) as error:
        objects = {"not_measured": str(error)}
    try:
        rollouts = rollout_fidelity(world, held_out, training, windows=windows, inverse=inverse, cache=cache, **chosen)
    except (ConfigError, DatasetError) as error:
        rollouts = {"actions": {"not_measured": str(error)}, "rfvd": None}
    return {"objects": objects, **rollouts}


def held_out_of(world: World, dataset: EpisodeDataset) -> tuple[EpisodeDataset, str]:
    """Return the episodes that the world was not trained on, and which those are: "held out" or "all".

    Raises:
        DatasetError: it was trained on all of them.
    """
    split = recorded_split(world.record, dataset)
    if split is None:
        return dataset, "all"
    _, held_out = dataset.split(*split)
    if len(held_out) == 0:
        raise DatasetError(
            f"the world was trained on every episode of {dataset.path}; measure it on another recording of "
            f"{dataset.provenance.environment_id}."
        )
    return held_out, "held out"


def _split(world: World, dataset: EpisodeDataset, seed: int) -> tuple[EpisodeDataset, EpisodeDataset]:
    """Return episodes to train the inverse dynamics on, and those to dream."""
    split = recorded_split(world.record, dataset)
    if split is not None:
        return dataset.split(*split)
    if len(dataset) < 2:
        raise DatasetError(
            f"{dataset.path} has {len(dataset)} episode, which is too small to hold anything out: some episodes show "
            "what actions do, others are dreamt. Record at least 2 episodes, better 20, with: dreamenv collect"
        )
    return dataset.split(_JUDGED, seed)


def _is_half(world: World) -> bool:
    """Whether half precision holds the parameters without loss, as of a world that was saved so."""
    return all(bool((value == value.half().to(value.dtype)).all()) for value in world.model.parameters())


def _print_frames(results: dict[str, Any]) -> None:
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
    print()
    print_table(("step", "windows", "PSNR (dB)", "persistence", "SSIM", "persistence"), rows)
    reward, termination = results["reward"], results["termination"]
    print(
        f"\nreward: mean absolute error {reward['mean_absolute_error']:.4g}, bias {reward['bias']:+.4g}\n"
        f"termination: predicted {termination['predicted_rate']:.4%} a step, real {termination['real_rate']:.4%}; "
        f"log loss {termination['log_loss']:.4f} nats (base rate {termination['log_loss_base_rate']:.4f}), calibration "
        f"error {termination['expected_calibration_error']:.4f}"
    )


def _print_bits(bits: dict[str, Any] | None) -> None:
    if bits is not None:
        kind = "at most" if bits["score_is"] == "bound" else "exactly"
        print(
            f"\n{bits['score_of']} of a frame, given those before: {kind} {_interval(bits['bits_per_frame'])} bits "
            f"({bits['frames']} frames)"
        )


def _print_objects(objects: dict[str, Any]) -> None:
    if "not_measured" in objects:
        print(f"\nobjects: not measured: {objects['not_measured']}")
        return
    print(f"\n{', '.join(objects['kinds'])}, dreams that begin when one is in sight")
    rows: list[tuple[Any, ...]] = []
    for step, entry in objects["steps"].items():
        rows.append((step, entry["moments"], "reality", "100%", _percent(entry["present"]), "0"))
        rows += [
            (
                step,
                entry["moments"],
                name,
                _percent(one["found"]),
                _percent(one["present"]),
                f"{one['false']['mean']:.2f}",
            )
            for name in ("codec", "dream", "persistence")
            if (one := entry.get(name)) is not None
        ]
    print_table(("step", "moments", "of", "found at their places", "frames with any", "false ones a frame"), rows)


def _print_rollouts(results: dict[str, Any]) -> None:
    actions, rfvd = results["actions"], results["rfvd"]
    if "not_measured" in actions:
        print(f"\nactions: not measured: {actions['not_measured']}")
        return
    print(f"\nactions recognised by an inverse-dynamics network ({actions['usual']:.0%} by the commonest action alone)")
    rows = [
        (step, *(_percent(entry.get(name)) for name in ("real", "codec", "dream", "share")))
        for step, entry in actions["steps"].items()
    ]
    print_table(("step", "in reality", "codec alone", "in the dream", "dream over reality"), rows)
    if rfvd is not None:
        print(
            f"\nrFVD of {rfvd['clips']} clips (random encoder; comparable with itself alone): dream "
            f"{rfvd['dream']:.2f}, persistence {rfvd['persistence']:.2f}, other real clips {rfvd['floor']:.2f}"
        )


def _percent(entry: dict[str, float] | None) -> str:
    return "-" if entry is None else f"{entry['mean']:.0%} [{entry['low']:.0%}, {entry['high']:.0%}]"


def _interval(entry: dict[str, float]) -> str:
    return f"{entry['mean']:.3g} [{entry['low']:.3g}, {entry['high']:.3g}]"


if __name__ == "__main__":
    main()

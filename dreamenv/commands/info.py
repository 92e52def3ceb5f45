"""``dreamenv info``: describe a world, a recording or a policy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dreamenv.action_layout import ActionLayout
from dreamenv.commands.arguments import parse
from dreamenv.commands.places import load_world
from dreamenv.data.provenance import Provenance
from dreamenv.errors import WorldNotFoundError
from dreamenv.folders import check_world, within_run

__all__ = ["Info", "describe", "main"]


@dataclass(frozen=True, kw_only=True)
class Info:
    """Describe a world, a recording or a policy.

    Attributes:
        path: its folder, the folder of the run that made it, or a world's hf://owner/name; None for the world in the
            package.
        json: print JSON.
    """

    path: Annotated[str | None, tyro.conf.Positional] = None
    json: bool = False


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Info, arguments, name="info")
    facts = describe(command.path)
    if command.json:
        print(json.dumps(facts, indent=2, default=str))
    else:
        summary = facts.pop("summary")
        print("\n".join([*summary, "", *_lines(facts)]))


def describe(path: str | None) -> dict[str, Any]:
    """Return the facts of a world, a recording or a policy; ``summary`` is a few sentences for a reader.

    Raises:
        WorldNotFoundError: none of them is there.
    """
    if path is None or path.startswith("hf://"):
        return _world(path)
    folder = Path(path)
    if (within_run(folder, "world") / "world.json").is_file():
        return _world(path)
    if (within_run(folder, "policy") / "policy.json").is_file():
        return _policy(within_run(folder, "policy"))
    if folder.is_dir() and (folder / "data").is_dir():
        return _recording(folder)
    if not folder.exists():
        check_world(path)  # which suggests near names
        return _world(path)
    raise WorldNotFoundError(
        f"{path} holds neither a world (world.json), a policy (policy.json) nor a recording (data/)."
    )


def _world(path: str | None) -> dict[str, Any]:
    from dreamenv.metrics.verdict import fidelity_verdict
    from dreamenv.parts import part_to_json

    world = load_world(path)
    model: Any = world.model  # a torch module too, which the protocol cannot say
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "summary": [
            f"A world{_of(world.provenance)}: dreams of {_frames(world.spec.frame_shape, world.spec.frame_rate)} under "
            f"{world.spec.action_space} actions, {'with' if world.spec.predicts_rewards else 'without'} rewards and "
            f"terminations, from {len(world.starts)} recorded starts.",
            f"Its {world.config.kind} model has {parameters:,} parameters{_training(world.record)}.",
            fidelity_verdict(world.metrics),
        ],
        "kind": "world",
        "path": path or "the world in the package",
        "hash": world.content_hash(),
        "parameters": parameters,
        "frame (c, h, w)": list(world.spec.frame_shape),
        **_actions(world.spec.action_layout),
        "frames per second": world.spec.frame_rate,
        "starts": len(world.starts),
        "backbone": part_to_json(world.config),
        "provenance": asdict(world.provenance) if world.provenance else None,
        "record": world.record,
        "metrics": world.metrics,
    }


def _policy(folder: Path) -> dict[str, Any]:
    from dreamenv.agents import SavedPolicy
    from dreamenv.data.spaces import show_space

    policy = SavedPolicy.load(folder)
    config = policy.config
    return {
        "summary": [
            f"A policy{_of(policy.provenance)}, trained by {config.algorithm} for "
            f"{policy.record.get('steps', config.total_steps):,} steps in {_PLACES[config.where]}.",
            f"It sees {config.observation.kind}s and takes actions of {policy.action_space}.",
        ],
        "kind": "policy",
        "path": str(folder),
        "sees": show_space(policy.observation_space),
        "does": str(policy.action_space),
        "world": policy.world_hash or None,
        "provenance": asdict(policy.provenance) if policy.provenance else None,
        "record": policy.record,
        "config": policy.config.to_json(),
    }


def _recording(folder: Path) -> dict[str, Any]:
    from dreamenv.data import EpisodeDataset

    dataset = EpisodeDataset.open(folder)
    height, width, channels = dataset.frame_shape
    rate = dataset.provenance.frame_rate
    return {
        "summary": [
            f"A recording{_of(dataset.provenance)}: {len(dataset):,} episodes, {dataset.total_steps:,} steps "
            f"({dataset.total_steps / rate / 60:.1f} min) of {_frames((channels, height, width), rate)}.",
        ],
        "kind": "recording",
        "path": str(folder),
        "hash": dataset.content_hash(),
        "episodes": len(dataset),
        "steps": dataset.total_steps,
        **_actions(dataset.action_layout),
        "provenance": asdict(dataset.provenance),
    }


_PLACES = {"dream": "dreams alone", "real": "the real environment", "mixed": "dreams and the real environment"}


def _of(provenance: Provenance | None) -> str:
    return f" of {provenance.environment_id}" if provenance is not None else " of no known environment"


def _frames(shape: tuple[int, int, int], rate: float) -> str:
    channels, height, width = shape
    return f"{height} x {width} frames with {channels} channel{'s' if channels > 1 else ''} at {rate:g} per second"


def _training(record: Mapping[str, Any]) -> str:
    if "adapted_from" in record:
        real = record["online"]["real_steps"] if "online" in record else record["data"]["training_steps"]
        return f", adapted to {real:,} real steps by {record['optimizer_steps']:,} gradient steps"
    if "imported" in record:
        return f", the published weights of {record['imported']['title']}"
    if "data" not in record:
        return ""
    steps = record["data"]["training_steps"]
    if "adapted_from" in record:
        return (
            f", adapted from another world by {record['optimizer_steps']:,} gradient steps on {steps:,} recorded ones"
        )
    return f", trained on {steps:,} recorded steps in {record['seconds'] / 60:.0f} min ({record['finished'][:10]})"


def _actions(layout: ActionLayout) -> dict[str, Any]:
    """Describe an action space; of a Dict also the order in which models and files hold its numbers."""
    keyed = {"numbers of an action": ", ".join(layout.names)} if layout.flat_space is not layout.space else {}
    return {"actions": str(layout.space), **keyed}


def _lines(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping) and value and set(value) != _INTERVAL:
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name + ':':<22} {_shown(value)}")
    return lines


_INTERVAL = {"mean", "low", "high"}


def _shown(value: Any) -> str:
    if value is None or value == {}:
        return "-"
    if isinstance(value, Mapping):
        return f"{value['mean']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return f"{len(value)} entries (--json shows them)"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""Compare kinds of worlds, trained for the same time on the same recording.

::

    python -m dreamenv.benchmarks.compare_worlds --task take_cover --minutes 12
    python -m dreamenv.benchmarks.compare_worlds --task health_gathering --minutes 12
    python -m dreamenv.benchmarks.compare_worlds --task take_cover --agents rssm diffusion_forcing shortcut_1

For each world: PSNR and SSIM 1, 10, 30 and 100 steps into the dream against persistence, action fidelity, what agents
need (small objects, actions recognised, rFVD), frames per second of one dream and of sixteen, and a video of reality
and dream side by side under the same actions. The time of a
step of each stage, and of encoding the recording with the codec, is measured first, in processor time; as many steps
are taken as fit. Worlds that sample the same latents share one codec, and one head that predicts rewards from them:
these are trained once, and their time counts for each such world. In worlds named as ``agents`` PPO is trained, for
the same number of dreamed steps in each, and scored in the real environment; before that, denoising worlds train
their reward head further, which has only a tenth of the time. Safe to interrupt: rerun the same command to resume;
worlds named later are added to the existing ones.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from dreamenv.benchmarks.common import cached, envelope, interleaved, print_table, write_json
from dreamenv.benchmarks.compared import SAME_WEIGHTS, WORLDS
from dreamenv.benchmarks.fidelity import what_agents_need
from dreamenv.benchmarks.loop import Loop
from dreamenv.benchmarks.recipes import Round, recipe_for
from dreamenv.benchmarks.scored import make_once
from dreamenv.benchmarks.showing import CONTEXT, write_sheet, write_side_by_side
from dreamenv.benchmarks.task_names import TaskName
from dreamenv.benchmarks.training_time import steps_in
from dreamenv.data import EpisodeDataset
from dreamenv.data.store import FrameStore
from dreamenv.dream import DreamVectorEnv
from dreamenv.errors import ConfigError
from dreamenv.metrics.fidelity import dream_fidelity
from dreamenv.metrics.response import response
from dreamenv.metrics.statistics import mean_intervals
from dreamenv.parts import part_to_json
from dreamenv.presets import make_config
from dreamenv.training import TrainConfig, train
from dreamenv.world import World
from dreamenv.world_model import BackboneConfig

__all__ = ["CompareWorlds", "main", "run"]

HORIZONS = (1, 10, 30, 100)

# Actions that move the picture to the right and to the left.
_SIDES = {
    "take_cover": ("left", "right"),
    "health_gathering": ("turn_left", "turn_right"),
    "miniworld_one_room": ("turn_left", "turn_right"),
}


@dataclass(frozen=True, kw_only=True)
class CompareWorlds:
    """What to compare.

    Attributes:
        task: which real environment.
        worlds: rows of the table.
        minutes: of training, for each.
        frames: to record, with the recorder of the task's first round.
        out: folder of everything; None takes runs/compare_worlds/<task>.
        windows: how many are dreamed for each horizon.
        moments: how many are dreamed to tell whether objects live on and actions are recognised.
        agents: rows in whose worlds PPO is trained, on latents.
        agent_steps: dreamed steps of each agent.
        reward_steps: further optimiser steps of a denoising world's rewards and terminations.
        seeds: agents per world.
        rounds: how often speeds are measured.
        workers: recording processes.
        threads: of torch.
    """

    task: TaskName = "take_cover"
    worlds: tuple[str, ...] = tuple(WORLDS)
    minutes: float = 12.0
    frames: int = 50_000
    out: Path | None = None
    windows: int = 24
    moments: int = 128
    agents: tuple[str, ...] = ()
    agent_steps: int = 40_000
    reward_steps: int = 1200
    seeds: int = 1
    rounds: int = 3
    workers: int = 2
    threads: int = 1

    def __post_init__(self) -> None:
        for name in (*self.worlds, *self.agents):
            if name not in WORLDS:
                raise ConfigError(f"worlds must be among {', '.join(WORLDS)}, not {name!r}.")
        if self.agent_steps < 1 or self.seeds < 1:
            raise ConfigError(f"agent_steps and seeds must be at least 1, not {self.agent_steps} and {self.seeds}.")
        if not self.minutes > 0:
            raise ConfigError(f"minutes must be positive, not {self.minutes}.")
        if self.task not in _SIDES:
            raise ConfigError(f"worlds are compared on {' and '.join(_SIDES)}, not on {self.task!r}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    settings = tyro.cli(CompareWorlds, args=arguments, description=__doc__)
    print(f"\nwrote {run(settings)}")


def run(settings: CompareWorlds) -> Path:
    """Train and measure all; return the path of the results."""
    folder = settings.out or Path("runs/compare_worlds") / settings.task
    torch.set_num_threads(settings.threads)
    recipe = dataclasses.replace(recipe_for(settings.task), rounds=(Round(frames=settings.frames),))
    loop = Loop(recipe, folder, workers=settings.workers, threads=settings.threads)
    recording = loop.record()
    rows: dict[str, Any] = {}
    for name in settings.worlds:
        world = _world(name, recording, settings, folder)
        key = {
            "world": world.content_hash(),
            "recording": recording.content_hash(),
            "task": settings.task,
            "minutes": settings.minutes,
            **{setting: getattr(settings, setting) for setting in ("windows", "moments", "rounds", "threads")},
        }
        rows[name] = cached(folder / "measured", name, key, partial(_measure, name, world, recording, settings, folder))
        _print(rows)
    write_sheet(folder / "videos" / "sheet.png", {name: folder / "videos" / name for name in rows})
    agents = _agents(loop, recording, settings, folder) if settings.agents else {}
    results = {"rows": rows, "agents": agents, "frames": recording.total_steps, "episodes": len(recording)}
    return write_json(folder / "compare_worlds.json", envelope("compare_worlds", results, asdict(settings)))


def _agents(loop: Loop, recording: EpisodeDataset, settings: CompareWorlds, folder: Path) -> dict[str, Any]:
    """Train agents in dreams; return their scores in reality by world, and those of random actions."""
    scores: dict[str, Any] = {"random": [loop.measure("random", None)["scores"]]}
    # Noise of a higher temperature than in training is out of distribution for a denoiser.
    config = dataclasses.replace(
        loop.recipe.latent_agent,
        total_steps=settings.agent_steps,
        dream=dataclasses.replace(loop.recipe.latent_agent.dream, temperature=1.0),
    )
    for name in settings.agents:
        world = _with_rewards(name, recording, settings, folder)
        scores[name] = []
        for seed in range(settings.seeds):
            policy = loop.agent(name, config, world, seed)
            scores[name].append(loop.measure(f"{name}-{seed}", policy, world=world)["scores"])
    print_table(
        ("PPO in", "real score", "95% low", "high", "agents", "episodes"),
        [(name, *_interval(ones), len(ones), sum(map(len, ones))) for name, ones in scores.items()],
    )
    return scores


def _with_rewards(name: str, recording: EpisodeDataset, settings: CompareWorlds, folder: Path) -> World:
    """Return a world whose reward head was trained further; its frames are unchanged."""
    backbone, _, change = WORLDS[name]
    source = SAME_WEIGHTS.get(name, name)
    world = _world(source, recording, settings, folder)
    if _same_latents(world.config):
        shared = _train_rewards("latents", _shared(recording, settings, folder), recording, settings, folder)
        model: Any = world.model
        trained: Any = shared.model
        model.head.load_state_dict(trained.head.state_dict())
    elif backbone == "denoising":
        world = _train_rewards(source, world, recording, settings, folder)
    return _changed(world, change) if name in SAME_WEIGHTS else world


def _train_rewards(name: str, world: World, recording: EpisodeDataset, settings: CompareWorlds, folder: Path) -> World:
    place = folder / "with_rewards" / name
    model: Any = world.model
    steps = {stage.name: 0 for stage in model.stages()} | {"head": settings.reward_steps}
    config = TrainConfig(steps=steps, num_threads=settings.threads, eval_every=0, holdout=0, starts=256)
    training = recording.split(TrainConfig().holdout, TrainConfig().seed)[0]
    key = {"train": config.resume_key(), "world": world.content_hash(), "recording": training.content_hash()}
    return make_once(place, key, lambda: train(config, world.config, training, place, initial=world))


def _changed(world: World, change: Callable[[Any], Any]) -> World:
    """Return the same weights under a changed configuration."""
    config = change(world.config)
    return world.replaced(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})


def _interval(scores: list[list[float]]) -> tuple[float, float, float]:
    """Return the mean of all episodes and its interval."""
    values = np.concatenate([np.asarray(ones, dtype=np.float64) for ones in scores])
    low, high = mean_intervals(values[:, None], 0)[0]
    return float(values.mean()), float(low), float(high)


def _world(name: str, recording: EpisodeDataset, settings: CompareWorlds, folder: Path) -> World:
    """Train a world for the given time, or reuse another's weights."""
    backbone, preset, change = WORLDS[name]
    config = change(make_config(backbone, preset))
    if name in SAME_WEIGHTS:
        return _changed(_world(SAME_WEIGHTS[name], recording, settings, folder), change)
    shared = _shared(recording, settings, folder) if _same_latents(config) else None
    untrained = {"codec": 0, "head": 0} if shared is not None else {}
    initial = None if shared is None else _initial(config, shared)
    world = _trained(config, untrained, recording, settings, folder / "worlds" / name, initial)
    before = 0 if shared is None else shared.record["seconds"]
    return dataclasses.replace(world, record={**world.record, "seconds": world.record["seconds"] + before})


def _same_latents(config: BackboneConfig) -> bool:
    """Tell whether a world has the shared codec and head of those that sample latents."""
    one: Any = _latents_config()
    return isinstance(config, type(one)) and (config.codec, config.head) == (one.codec, one.head)


def _latents_config() -> BackboneConfig:
    return make_config("denoising", "diffusion_forcing_like")


def _shared(recording: EpisodeDataset, settings: CompareWorlds, folder: Path) -> World:
    """Train a codec, and the head that predicts rewards from its latents, but no denoiser."""
    return _trained(_latents_config(), {"denoiser": 0}, recording, settings, folder / "worlds" / "latents")


def _initial(config: BackboneConfig, shared: World) -> World:
    """Return a world of these settings with the shared codec and head, and an untrained denoiser."""
    torch.manual_seed(0)
    model: Any = config.build(shared.spec)
    trained: Any = shared.model
    model.codec.load_state_dict(trained.codec.state_dict())
    model.head.load_state_dict(trained.head.state_dict())
    return World(model, config, shared.starts, shared.provenance)


def _trained(
    config: BackboneConfig,
    changes: dict[str, int],
    recording: EpisodeDataset,
    settings: CompareWorlds,
    place: Path,
    initial: World | None = None,
) -> World:
    """Train for the given time, with other numbers of steps of some stages."""
    key = {
        "minutes": settings.minutes,
        "backbone": part_to_json(config),
        "recording": recording.content_hash(),
        "threads": settings.threads,
        "changes": changes,
        "initial": initial.content_hash() if initial is not None else None,
    }
    steps = cached(place, "plan", key, lambda: steps_in(config, recording, 60 * settings.minutes) | changes)
    training = recording.split(TrainConfig().holdout, TrainConfig().seed)[0]
    # Held-out episodes are evaluated afterwards, which takes no training time.
    train_config = TrainConfig(steps=steps, num_threads=settings.threads, eval_every=0, holdout=0, starts=256)
    return make_once(place, key, lambda: train(train_config, config, training, place, initial=initial))


def _measure(
    name: str, world: World, recording: EpisodeDataset, settings: CompareWorlds, folder: Path
) -> dict[str, Any]:
    training, held_out = recording.split(TrainConfig().holdout, TrainConfig().seed)
    names = list(recording.provenance.action_names)
    left, right = (names.index(side) for side in _SIDES[settings.task])
    write_side_by_side(folder / "videos" / name, world, held_out)
    report = dream_fidelity(
        world, FrameStore(held_out), horizons=HORIZONS, windows=settings.windows, context=CONTEXT, seed=0
    )
    return {
        "training_seconds": world.record["seconds"],
        "steps": world.record["train_config"]["steps"],
        "parameters": sum(parameter.numel() for parameter in world.model.parameters()),
        "horizons": report["horizons"],
        "drift": report["drift"],
        **what_agents_need(
            world, held_out, training, windows=settings.moments, context=CONTEXT, cache=folder / "inverse_dynamics"
        ),
        "response": response(world, held_out, left, right, reality=recording, context=CONTEXT),
        "speed": {str(batch): _speed(world, batch, settings.rounds) for batch in (1, 16)},
    }


def _speed(world: World, batch: int, rounds: int) -> dict[str, Any]:
    """Return frames per second of a batch of dreams, under random actions."""
    env = DreamVectorEnv(world, batch)
    env.action_space.seed(0)
    env.reset(seed=0)

    def run() -> float:
        began, steps = time.perf_counter(), 0
        while steps < 4 or time.perf_counter() - began < 2:
            env.step(env.action_space.sample())
            steps += 1
        return steps * batch

    timing = interleaved({"world": run}, rounds=rounds).timings["world"]
    return {"frames_per_second": timing.rate, "interval_95": [timing.low, timing.high]}


def _print(rows: dict[str, Any]) -> None:
    def at(row: dict[str, Any], horizon: int, measure: str) -> float:
        return float(row["horizons"].get(str(horizon), {}).get(measure, {}).get("mean", float("nan")))

    def found(row: dict[str, Any], step: int) -> float:
        steps = row["objects"].get("steps", {})
        return float(steps[str(step)]["dream"]["found"]["mean"]) if str(step) in steps else float("nan")

    def recognised(row: dict[str, Any]) -> float:
        shares = [one["share"]["mean"] for one in row["actions"].get("steps", {}).values() if one["share"]]
        return float(np.mean(shares)) if shares else float("nan")

    print_table(
        (
            "world", "minutes", *(f"PSNR {h}" for h in HORIZONS), *(f"SSIM {h}" for h in HORIZONS), "action fidelity",
            "actions recognised", "objects 1", "objects 8", "frames/s",
        ),
        [
            (
                name, row["training_seconds"] / 60, *(at(row, h, "psnr") for h in HORIZONS),
                *(at(row, h, "ssim") for h in HORIZONS), row["response"]["action_fidelity"], recognised(row),
                found(row, 1), found(row, 8), row["speed"]["1"]["frames_per_second"],
            )
            for name, row in rows.items()
        ]
        + [
            (
                "persistence", "-", *(at(row, h, "persistence_psnr") for h in HORIZONS),
                *(at(row, h, "persistence_ssim") for h in HORIZONS), *["-"] * 5,
            )
            for row in list(rows.values())[:1]
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()

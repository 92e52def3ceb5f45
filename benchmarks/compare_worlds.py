"""Which kind of world for what? Trains several for the same time on the same recording, and holds them side by side.

::

    python -m dreamenv.benchmarks.compare_worlds --task take_cover --minutes 12
    python -m dreamenv.benchmarks.compare_worlds --task health_gathering --minutes 12
    python -m dreamenv.benchmarks.compare_worlds --task take_cover --agents rssm diffusion_forcing shortcut_1

For each world: PSNR and SSIM 1, 10, 30 and 100 steps into the dream beside persistence, how it answers two different
actions, frames per second of one dream and of sixteen, and a film of the dream beside reality under the same actions. A
step of each stage is timed first, and what a codec has to encode, in processor time, and as many steps are taken as fit
the time. Worlds that draw the same latents have one codec, and one network that foretells rewards from them: these are
trained once, and their time counts as part of each such world's. In worlds named as ``agents`` PPO is trained, for as
many dreamed steps in each, and scored in reality; before that, denoising worlds go on learning rewards, for which the
time leaves them a tenth. Killed and run again, it goes on where it stood; worlds named later are added to those that
are there.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from dreamenv.benchmarks.common import envelope, interleaved, print_table, read_result, write_json
from dreamenv.benchmarks.loop import Loop
from dreamenv.benchmarks.recipes import Round, TaskName, recipe_for
from dreamenv.benchmarks.showing import CONTEXT, write_beside, write_sheet
from dreamenv.data import EpisodeDataset
from dreamenv.data.store import FrameStore
from dreamenv.dream import DreamVectorEnv
from dreamenv.errors import ConfigError
from dreamenv.metrics.fidelity import dream_fidelity
from dreamenv.metrics.response import response
from dreamenv.metrics.statistics import mean_intervals
from dreamenv.registry import BackboneConfig, make_config
from dreamenv.training import TrainConfig, train
from dreamenv.world import World
from dreamenv.world_model import Batch, Stage, WorldModelSpec

__all__ = ["CompareWorlds", "main", "run"]

HORIZONS = (1, 10, 30, 100)

# Of the time, by stage; what a world does not have is shared out among the rest. Rewards and endings learn faster.
_SHARES = {"codec": 0.25, "denoiser": 0.75, "events": 0.1, "joint": 0.6, "dynamics": 0.4}

# Actions that move the picture to the right and to the left.
_SIDES = {"take_cover": ("left", "right"), "health_gathering": ("turn_left", "turn_right")}

# The name in the table: the backbone, its preset, and what is changed of it.
_WORLDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "rssm": ("rssm", "small", {}),
    "diamond": ("denoising", "small", {}),
    "diamond_latents": ("denoising", "small_latents", {}),
    "diffusion_forcing": ("denoising", "diffusion_forcing", {}),
    "diffusion_forcing_2": ("denoising", "diffusion_forcing", {"passes": 2}),
    "diffusion_forcing_moving": ("denoising", "diffusion_forcing", {"moving": 0.8}),
    "nwm": ("denoising", "nwm", {}),
    "framepack": ("denoising", "framepack", {}),
    "framepack_2": ("denoising", "framepack", {"passes": 2}),
    "chunkwise": ("denoising", "chunkwise", {}),
    "holistic": ("denoising", "holistic", {}),
    "genie2": ("denoising", "genie2", {}),
    "shortcut_4": ("denoising", "shortcut", {"passes": 4}),
    "shortcut_2": ("denoising", "shortcut", {"passes": 2}),
    "shortcut_1": ("denoising", "shortcut", {"passes": 1}),
}
# Trained once, drawn in fewer passes.
_SAME_WEIGHTS = {
    "diffusion_forcing_2": "diffusion_forcing", "framepack_2": "framepack", "shortcut_2": "shortcut_4",
    "shortcut_1": "shortcut_4",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CompareWorlds:
    """What to compare.

    Attributes:
        task: which real environment.
        worlds: rows of the table.
        minutes: of training, for each.
        frames: recorded, by the task's first recorder.
        out: folder of everything; None takes runs/compare_worlds/<task>.
        windows: stretches dreamed for each horizon.
        agents: rows in whose worlds PPO is trained, on what the world makes of a frame.
        agent_steps: dreamed steps of each agent.
        reward_steps: optimiser steps that a denoising world goes on learning rewards and endings for.
        seeds: agents per world.
        rounds: how often speeds are taken.
        workers: processes that record.
        threads: of torch.
    """

    task: TaskName = "take_cover"
    worlds: tuple[str, ...] = tuple(_WORLDS)
    minutes: float = 12.0
    frames: int = 50_000
    out: Path | None = None
    windows: int = 24
    agents: tuple[str, ...] = ()
    agent_steps: int = 40_000
    reward_steps: int = 1200
    seeds: int = 1
    rounds: int = 3
    workers: int = 2
    threads: int = 1

    def __post_init__(self) -> None:
        for name in (*self.worlds, *self.agents):
            if name not in _WORLDS:
                raise ConfigError(f"worlds must be among {', '.join(_WORLDS)}, not {name!r}.")
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
        path = folder / "measured" / f"{name}.json"
        if not path.exists():
            world = _world(name, recording, settings, folder)
            write_json(path, _measure(name, world, recording, settings, folder))
        rows[name] = read_result(path)
        _print(rows)
    write_sheet(folder / "films" / "sheet.png", {name: folder / "films" / name for name in rows})
    agents = _agents(loop, recording, settings, folder) if settings.agents else {}
    results = {"rows": rows, "agents": agents, "frames": recording.total_steps, "episodes": len(recording)}
    return write_json(folder / "compare_worlds.json", envelope("compare_worlds", results, asdict(settings)))


def _agents(loop: Loop, recording: EpisodeDataset, settings: CompareWorlds, folder: Path) -> dict[str, Any]:
    """Train agents in dreams; return their scores in reality by world, and those of random actions."""
    scores: dict[str, Any] = {"random": [loop.measure("random", None)["scores"]]}
    # Noise warmer than it was in training is nothing that a denoiser knows.
    config = dataclasses.replace(loop.recipe.latent_agent, total_steps=settings.agent_steps, temperature=1.0)
    for name in settings.agents:
        world = _rewarding(name, recording, settings, folder)
        scores[name] = []
        for seed in range(settings.seeds):
            policy = loop.agent(name, config, world, seed)
            scores[name].append(loop.measure(f"{name}-{seed}", policy, world=world)["scores"])
    print_table(
        ("PPO in", "score outside", "95% low", "high", "agents", "episodes"),
        [(name, *_interval(ones), len(ones), sum(map(len, ones))) for name, ones in scores.items()],
    )
    return scores


def _rewarding(name: str, recording: EpisodeDataset, settings: CompareWorlds, folder: Path) -> World:
    """Return a world that has learned rewards well enough; its frames stay as they were."""
    backbone, _, changes = _WORLDS[name]
    source = _SAME_WEIGHTS.get(name, name)
    world = _world(source, recording, settings, folder)
    if _same_latents(world.config):
        shared = _rewards_learned("latents", _shared(recording, settings, folder), recording, settings, folder)
        model: Any = world.model
        model.events.load_state_dict(shared.model.events.state_dict())  # type: ignore[attr-defined]
    elif backbone == "denoising":
        world = _rewards_learned(source, world, recording, settings, folder)
    return world.replaced(**changes) if name in _SAME_WEIGHTS else world


def _rewards_learned(
    name: str, world: World, recording: EpisodeDataset, settings: CompareWorlds, folder: Path
) -> World:
    place = folder / "rewarding" / name
    if (place / "world" / "world.json").exists():
        return World.load(place / "world")
    model: Any = world.model
    steps = {stage.name: 0 for stage in model.stages()} | {"events": settings.reward_steps}
    config = TrainConfig(steps=steps, num_threads=settings.threads, eval_every=0, holdout=0, starts=256)
    training = recording.split(TrainConfig().holdout, TrainConfig().seed)[0]
    return train(config, world.config, training, place, initial=world)


def _interval(scores: list[list[float]]) -> tuple[float, float, float]:
    """Return the mean of all episodes and its interval."""
    values = np.concatenate([np.asarray(ones, dtype=np.float64) for ones in scores])
    low, high = mean_intervals(values[:, None], 0)[0]
    return float(values.mean()), float(low), float(high)


def _world(name: str, recording: EpisodeDataset, settings: CompareWorlds, folder: Path) -> World:
    """Train a world for the time that all have, or draw with another's weights."""
    backbone, preset, changes = _WORLDS[name]
    config = make_config(backbone, preset, **changes)
    if name in _SAME_WEIGHTS:
        return _world(_SAME_WEIGHTS[name], recording, settings, folder).replaced(**changes)
    shared = _shared(recording, settings, folder) if _same_latents(config) else None
    place = folder / "worlds" / name
    if (place / "world" / "world.json").exists():
        world = World.load(place / "world")
    else:
        none = {"codec": 0, "events": 0} if shared is not None else {}
        world = _trained(config, none, recording, settings, place, None if shared is None else _begun(config, shared))
    before = 0 if shared is None else shared.record["seconds"]
    return dataclasses.replace(world, record={**world.record, "seconds": world.record["seconds"] + before})


def _same_latents(config: BackboneConfig) -> bool:
    """Whether a world has the codec of those that draw latents, and foretells rewards from them as they do."""
    one: Any = _latents_config()
    foretells = ("codec", "events_see", "memory", "event_channels", "events_length", "events_batch", "events_rate")
    return isinstance(config, type(one)) and all(getattr(config, name) == getattr(one, name) for name in foretells)


def _latents_config() -> BackboneConfig:
    return make_config("denoising", "diffusion_forcing")


def _shared(recording: EpisodeDataset, settings: CompareWorlds, folder: Path) -> World:
    """Train a codec, and what foretells rewards from its latents; the world draws nothing yet."""
    place = folder / "worlds" / "latents"
    if (place / "world" / "world.json").exists():
        return World.load(place / "world")
    return _trained(_latents_config(), {"denoiser": 0}, recording, settings, place)


def _begun(config: BackboneConfig, shared: World) -> World:
    """Return a world of these settings that has learned its latents, and to foretell rewards from them."""
    torch.manual_seed(0)
    model: Any = config.build(shared.spec)
    trained: Any = shared.model
    model.codec.load_state_dict(trained.codec.state_dict())
    model.events.load_state_dict(trained.events.state_dict())
    return World(model, config, shared.starts, shared.provenance)


def _trained(
    config: BackboneConfig,
    changes: dict[str, int],
    recording: EpisodeDataset,
    settings: CompareWorlds,
    place: Path,
    initial: World | None = None,
) -> World:
    """Train for the time that all have, with other numbers of steps of some stages."""
    plan = place / "plan.json"
    if not plan.exists():
        write_json(plan, _steps_in(config, recording, 60 * settings.minutes) | changes)
    steps = read_result(plan)
    training = recording.split(TrainConfig().holdout, TrainConfig().seed)[0]
    # What is held out is looked at afterwards, so that no time of training is spent on it.
    train_config = TrainConfig(steps=steps, num_threads=settings.threads, eval_every=0, holdout=0, starts=256)
    return train(train_config, config, training, place, initial=initial)


def _steps_in(config: BackboneConfig, recording: EpisodeDataset, seconds: float) -> dict[str, int]:
    """Return how many optimiser steps of each stage fit the time."""
    h, w, c = recording.frame_shape
    spec = WorldModelSpec(
        frame_shape=(c, h, w), action_space=recording.action_space, frame_rate=recording.provenance.frame_rate
    )
    torch.manual_seed(0)
    model: Any = config.build(spec)
    model.train()
    stages = model.stages()
    total = sum(_SHARES[stage.name] for stage in stages)
    frames = (recording.total_steps + len(recording)) * (1 - TrainConfig().holdout)
    described = {stage.precompute: stage for stage in stages if stage.precompute is not None}  # once, if they share it
    seconds -= sum(frames * _seconds_per_feature(stage, spec) for stage in described.values())
    return {
        stage.name: max(1, int(seconds * _SHARES[stage.name] / total / _seconds_per_step(stage, spec)))
        for stage in stages
    }


def _seconds_per_feature(stage: Stage, spec: WorldModelSpec, *, chunk: int = 32, timed: int = 4) -> float:
    """Time what is computed once for every frame, before the stage's first step."""
    assert stage.precompute is not None
    frames = torch.rand(chunk, *spec.frame_shape)
    with torch.no_grad():
        stage.precompute(frames)
        began = time.process_time()
        for _ in range(timed):
            stage.precompute(frames)
    return (time.process_time() - began) / (timed * chunk * torch.get_num_threads())


def _seconds_per_step(stage: Stage, spec: WorldModelSpec, *, warm_up: int = 2, timed: int = 5) -> float:
    """Time optimiser steps of a stage on made-up frames."""
    b, t = stage.batch_size, stage.sequence_length
    frames = torch.rand(b, t + 1, *spec.frame_shape)
    layout = spec.action_layout
    features = None
    if stage.precompute is not None:
        with torch.no_grad():
            features = stage.precompute(frames.flatten(0, 1)).unflatten(0, (b, t + 1))
    batch = Batch(
        first_frame=frames[:, 0], frames=frames[:, 1:],
        actions=torch.zeros((b, t, *layout.shape), dtype=torch.float32 if layout.dtype.kind == "f" else torch.int64),
        rewards=torch.zeros(b, t), terminated=torch.zeros(b, t, dtype=torch.bool), weight=torch.ones(b, t),
        features=features, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    optimisers = [torch.optim.AdamW(list(one.parameters), lr=0.0) for one in stage.objectives]
    began = 0.0
    for step in range(-warm_up, timed):
        if step == 0:
            began = time.process_time()
        for objective, optimiser in zip(stage.objectives, optimisers, strict=True):
            loss, _ = objective.loss(batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return (time.process_time() - began) / (timed * torch.get_num_threads())


def _measure(
    name: str, world: World, recording: EpisodeDataset, settings: CompareWorlds, folder: Path
) -> dict[str, Any]:
    held_out = recording.split(TrainConfig().holdout, TrainConfig().seed)[1]
    names = list(recording.provenance.action_names)
    left, right = (names.index(side) for side in _SIDES[settings.task])
    write_beside(folder / "films" / name, world, held_out)
    found = dream_fidelity(
        world, FrameStore(held_out), horizons=HORIZONS, windows=settings.windows, context=CONTEXT, seed=0
    )
    return {
        "training_seconds": world.record["seconds"],
        "steps": world.record["train_config"]["steps"],
        "parameters": sum(parameter.numel() for parameter in world.model.parameters()),
        "horizons": found["horizons"],
        "drift": found["drift"],
        "response": response(world, held_out, left, right, reality=recording, context=CONTEXT),
        "speed": {str(batch): _speed(world, batch, settings.rounds) for batch in (1, 16)},
    }


def _speed(world: World, batch: int, rounds: int) -> dict[str, Any]:
    """Return frames per second of so many dreams, under actions that change."""
    env = DreamVectorEnv(world, batch, precision="float32")
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

    print_table(
        (
            "world", "minutes", *(f"PSNR {h}" for h in HORIZONS), *(f"SSIM {h}" for h in HORIZONS), "right way",
            "frames/s",
        ),
        [
            (
                name, row["training_seconds"] / 60, *(at(row, h, "psnr") for h in HORIZONS),
                *(at(row, h, "ssim") for h in HORIZONS), row["response"]["right_way"],
                row["speed"]["1"]["frames_per_second"],
            )
            for name, row in rows.items()
        ]
        + [
            (
                "persistence", "-", *(at(row, h, "persistence_psnr") for h in HORIZONS),
                *(at(row, h, "persistence_ssim") for h in HORIZONS), "-", "-",
            )
            for row in list(rows.values())[:1]
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""Which does a world follow, the prompt or the action? Measured on the panorama, whose truth is known.

    python -m dreamenv.benchmarks.prompting --out runs/prompting

Two worlds of the same settings learn from two recordings of `dreamenv.benchmarks.panorama`: in one, actions contradict
captions as they come; in the other they never do, so that a conflict is something the world has never seen. A third,
of the first seed, learns without captions. Each is measured under every pair of guidance weights, next to the real
environment.
Writes ``prompting.json`` and a sheet of dreams, ``prompting.png``. About 6 minutes of one core.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro
from PIL import Image

from dreamenv.backbones.rssm.model import RSSMConfig
from dreamenv.backbones.rssm.prompting import PromptConfig
from dreamenv.backbones.rssm.training import RSSMStage, RSSMTraining
from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.benchmarks.panorama import COLOURS, COLUMNS, PANS, Panorama, caption, find_objects, record_panorama
from dreamenv.data import EpisodeDataset, FrameStore
from dreamenv.dream import DreamVectorEnv
from dreamenv.heads.reward_termination import RewardTerminationHeadConfig
from dreamenv.metrics.fidelity import dream_fidelity
from dreamenv.metrics.inverse_dynamics import InverseDynamics, InverseDynamicsConfig, train_inverse_dynamics
from dreamenv.metrics.prompts import CASES, Film, PromptTask, Revealed, Take, follow_prompts, returns_to_prompt
from dreamenv.storage import atomic_file
from dreamenv.training import TrainConfig, train
from dreamenv.world import World

__all__ = [
    "PANORAMA",
    "Prompting",
    "film_of_reality",
    "film_of_world",
    "main",
    "reveal",
    "run",
    "with_guidance",
    "world_config",
]

Frames = npt.NDArray[np.uint8]
_SCALE, _GAP, _WHITE = 5, 6, 255
_SHOWN = 9  # steps of a dream on the sheet
_SHEET = (
    ("left", "red", 0, "prompt: camera pans left, red objects; no action"),
    ("left", "red", PANS["right"], "the same prompt; action: right"),
    ("left", "blue", PANS["right"], "prompt: camera pans left, blue objects; action: right"),
    (None, None, PANS["right"], "no prompt; action: right"),
)


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """What to measure.

    Attributes:
        out: folder of recordings, worlds and results; what is there is used again.
        episodes: of 64 steps in each recording.
        joint_steps, dynamics_steps: optimiser steps of both stages.
        probe_steps: of the network that sees actions.
        prompt_scales, action_scales: guidance weights, every pair of which is measured.
        repeats: dreams for each combination of prompt and action.
        seeds: of the worlds' trainings.
    """

    out: Path = Path("runs/prompting")
    episodes: int = 400
    joint_steps: int = 1200
    dynamics_steps: int = 800
    probe_steps: int = 400
    prompt_scales: tuple[float, ...] = (1.0, 2.0)
    action_scales: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    repeats: int = 8
    seeds: tuple[int, ...] = (0,)


def reveal(after: Frames, behaviour: str) -> list[Revealed]:
    """Return what the column shows that a pan reveals."""
    column = 0 if behaviour == "left" else COLUMNS - 1
    return [Revealed(colour, f"lane {lane}") for x, lane, colour in find_objects(after) if x == column]


PANORAMA = PromptTask(behaviours=PANS, contents=tuple(COLOURS), noop=0, say=caption, reveal=reveal)
"""The panorama's prompts."""


def world_config(settings: Prompting, *, prompted: bool) -> RSSMConfig:
    """Return a world for frames of 16x16."""
    return RSSMConfig(
        deter=256,
        stoch=24,
        hidden=256,
        channels=(16, 32, 48),
        head=RewardTerminationHeadConfig(hidden_size=16),
        prompt=PromptConfig() if prompted else None,
        training=RSSMTraining(
            joint=RSSMStage(steps=settings.joint_steps, batch_size=8, sequence_length=8, learning_rate=1e-3),
            dynamics=RSSMStage(steps=settings.dynamics_steps, batch_size=32, sequence_length=16, learning_rate=1e-3),
            dropout=0.05,
        ),
    )


def film_of_world(world: World, task: PromptTask = PANORAMA) -> Film:
    """Return what dreams takes in a world, each from another of its starts."""

    def film(takes: Sequence[Take]) -> Frames:
        env = DreamVectorEnv(world, len(takes), horizon=len(takes[0].actions) + 1)
        options: dict[str, Any] = {"start": [take.seed % len(world.starts) for take in takes]}
        options["prompt"] = [task.say(take.behaviour, take.content) or None for take in takes]
        first, _ = env.reset(seed=[take.seed for take in takes], options=options)
        frames = [first]
        for actions in zip(*(take.actions for take in takes), strict=True):
            frames.append(env.step(np.array(actions))[0])
        return np.stack(frames, axis=1)

    return film


def film_of_reality(takes: Sequence[Take]) -> Frames:
    """Play takes in the real environment, under captions that stay."""
    films = []
    for take in takes:
        env = Panorama(max_episode_steps=len(take.actions) + 1)
        first, _ = env.reset(seed=take.seed, options={"pan": take.behaviour, "colour": take.content})
        films.append(np.stack([first, *(env.step(action)[0] for action in take.actions)]))
    return np.stack(films)


def with_guidance(world: World, prompt: float, action: float) -> World:
    """Return the world with other guidance weights."""
    config: Any = world.config
    guided = dataclasses.replace(
        config,
        prompt=dataclasses.replace(config.prompt, prompt_guidance_scale=prompt, action_guidance_scale=action),
    )
    model = guided.build(world.spec)
    model.load_state_dict(world.model.state_dict())
    return dataclasses.replace(world, model=model.eval(), config=guided)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    run(tyro.cli(Prompting, args=arguments, description=__doc__))


def run(settings: Prompting) -> dict[str, Any]:
    """Record, train and measure; return the results.

    Raises:
        DreamenvError: what recording, training and dreaming raise.
    """
    network = train_inverse_dynamics(
        _recording(settings, "uncaptioned", settings.episodes // 4, captioned=False),
        InverseDynamicsConfig(steps=settings.probe_steps),
        cache=settings.out,
    )
    results: dict[str, Any] = {"reality": _follow(film_of_reality, network, settings)}
    for seed in settings.seeds:
        for name, conflicts in (("conflicts_recorded", True), ("no_conflicts_recorded", False)):
            recording = _recording(settings, name, settings.episodes, conflicts=conflicts)
            world = _world(settings, name, recording, seed, prompted=True)
            measured = {
                f"prompt {prompt:g}, action {action:g}": _follow(
                    film_of_world(with_guidance(world, prompt, action)), network, settings
                )
                for prompt in settings.prompt_scales
                for action in settings.action_scales
            }
            results[f"{name}, seed {seed}"] = {"guidance": measured, "psnr": _psnr(world, recording)}
            if conflicts and seed == settings.seeds[0]:
                _write_sheet(settings.out / "prompting.png", world)
        if seed == settings.seeds[0]:
            plain = _world(settings, "without_captions", recording, seed, prompted=False)
            results[f"without_captions, seed {seed}"] = {"psnr": _psnr(plain, recording)}
        write_json(settings.out / "prompting.json", envelope("prompting", results, _plain(settings)))
    _print(results)
    return results


def _plain(settings: Prompting) -> dict[str, Any]:
    return {name: value for name, value in vars(settings).items() if name != "out"}


def _recording(settings: Prompting, name: str, episodes: int, **how: bool) -> EpisodeDataset:
    path = settings.out / f"recording-{name}-{episodes}"
    return EpisodeDataset.open(path) if path.exists() else record_panorama(path, episodes, **how)


def _world(settings: Prompting, name: str, recording: EpisodeDataset, seed: int, *, prompted: bool) -> World:
    config = world_config(settings, prompted=prompted)
    path = settings.out / f"run-{name}-{seed}"
    return train(TrainConfig(seed=seed, num_threads=1, progress=False), config, recording, path)


def _follow(film: Film, network: InverseDynamics, settings: Prompting) -> dict[str, Any]:
    followed = follow_prompts(PANORAMA, film, network, repeats=settings.repeats)
    return {**followed, "return": returns_to_prompt(PANORAMA, film, network, repeats=settings.repeats)}


def _psnr(world: World, recording: EpisodeDataset) -> dict[str, Any]:
    """Return the PSNR of held-out frames, 1 and 10 steps ahead, under the recorded actions (and captions)."""
    _, held_out = recording.split(TrainConfig().holdout, 0)
    horizons: dict[str, Any] = dream_fidelity(world, FrameStore(held_out), horizons=(1, 10))["horizons"]
    return horizons


def _write_sheet(path: Path, world: World) -> None:
    takes = [
        Take(case=CASES[0], behaviour=pan, content=colour, done="left", actions=(action,) * _SHOWN, seed=3)
        for pan, colour, action, _ in _SHEET
    ]
    rows = []
    for frames in film_of_world(world)(takes):
        large = frames.repeat(_SCALE, axis=1).repeat(_SCALE, axis=2)
        gap = np.full((large.shape[1], _GAP, 3), _WHITE, np.uint8)
        row = np.concatenate([part for frame in large for part in (frame, gap)], axis=1)
        rows += [row, np.full((_GAP, row.shape[1], 3), _WHITE, np.uint8)]
    with atomic_file(path) as draft:
        Image.fromarray(np.concatenate(rows)).save(draft, "PNG")


def _print(results: dict[str, Any]) -> None:
    rows = [("reality", "", *_row(results["reality"]))]
    for name, world in results.items():
        rows += [(name, weights, *_row(found)) for weights, found in world.get("guidance", {}).items()]
    shown = [f"{case} {what}" for case in CASES for what in ("motion", "content") if (case, what) != _UNNAMED]
    print_table(("world", "guidance", *shown, "leakage", "return"), rows)
    for name, world in results.items():
        if "psnr" in world:
            print(name, world["psnr"])


_UNNAMED = ("action_only", "content")


def _row(found: dict[str, Any]) -> list[Any]:
    shares = [
        found[case][what]["mean"] if found[case][what] else None
        for case in CASES
        for what in ("motion", "content")
        if (case, what) != _UNNAMED
    ]
    return [*shares, found["leakage"], found["return"]["steps"]]


if __name__ == "__main__":
    main()

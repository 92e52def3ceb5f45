"""Measure postdiction: does looking back repair what was not seen, and is the future predicted better from there?

    python -m dreamenv.benchmarks.postdiction --task occluder

Records the task, trains a world that can revise, and blanks frames of held-out episodes. Compared are, under the real
actions: the *filter*, which bridges the gap by imagination and never looks back; the filter run *twice* with other
random numbers, of which the run is kept that expected the first frame after the gap more (what a revision costs,
spent otherwise); and the *revised* memory. The errors are squared errors per pixel, of frames in [0, 1].
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

from dreamenv.backbones.rssm import (
    BackwardConfig,
    RevisingRSSM,
    RevisingRSSMConfig,
    RSSMStage,
    RSSMTraining,
)
from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.benchmarks.occluder import APPROACH, HIDDEN, Occluder
from dreamenv.data import EpisodeDataset, StickyRandomPolicy, collect
from dreamenv.envs import make_real
from dreamenv.frames import frames_to_model, frames_to_numpy
from dreamenv.metrics.statistics import mean_iqm_interval
from dreamenv.training import TrainConfig, train
from dreamenv.training.video import strip
from dreamenv.world_model import State

__all__ = ["Gap", "Postdiction", "Task", "cut_windows", "draw", "main", "measure_gap", "show"]

SIZE = 32  # pixels: a world in minutes of one core
FUTURE = 10  # steps predicted after the gap

Windows = tuple[Tensor, Tensor]  # frames (n, t + 1, c, h, w) in [0, 1], actions (n, t, *a)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Where frames are blanked in a window of seen ones.

    Attributes:
        context: steps before it.
        hidden: steps without a frame; 0 for the null test.
        seen: steps after it, whose frames come, before the future is predicted.
    """

    context: int
    hidden: int
    seen: int = 1

    @property
    def steps(self) -> int:
        """Of a window, the future included."""
        return self.context + self.hidden + self.seen + FUTURE


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is recorded, and the gaps in it.

    Attributes:
        maker: of the environment, as `make_real` takes it.
        frames: recorded steps.
        gaps: by the name of the measurement.
        world: the sizes of the world, and its training.
        from_start: windows begin where episodes do, else anywhere.
        kwargs: of the environment.
    """

    maker: Any
    frames: int
    gaps: Mapping[str, Gap]
    world: RevisingRSSMConfig
    from_start: bool = False
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def make(self) -> gym.Env[Any, Any]:
        """Make the environment."""
        return make_real(self.maker, size=SIZE, **self.kwargs)


def _world(deter: int, joint: int, dynamics: int, revision: int) -> RevisingRSSMConfig:
    stage = RSSMStage(steps=revision, batch_size=16, sequence_length=24, learning_rate=1e-3)
    return RevisingRSSMConfig(
        deter=deter, stoch=24, classes=16, hidden=deter, channels=(16, 32, 64),
        training=RSSMTraining(
            joint=RSSMStage(steps=joint, batch_size=16, sequence_length=12, learning_rate=1e-3),
            dynamics=RSSMStage(steps=dynamics, batch_size=32, sequence_length=24, learning_rate=1e-3),
        ),
        revision=BackwardConfig(steps=12, hidden=192, training=stage),
    )  # fmt: skip


_BLANKED = {
    f"{hidden} blanked, {seen} seen": Gap(context=8, hidden=hidden, seen=seen)
    for hidden, seen in ((5, 1), (10, 1), (5, 3))
} | {"nothing blanked": Gap(context=8, hidden=0)}

TASKS = {
    "occluder": Task(
        maker=Occluder, frames=12_000, world=_world(128, 400, 500, 500), from_start=True,
        gaps={
            "behind the screen": Gap(context=APPROACH, hidden=HIDDEN - 1),
            "nothing hidden": Gap(context=APPROACH + HIDDEN - 1, hidden=0),
        },
    ),
    "minigrid_door_key": Task(
        maker="minigrid_door_key", frames=12_000, world=_world(192, 600, 500, 350), gaps=_BLANKED,
    ),
    "take_cover": Task(
        maker="take_cover", frames=15_000, world=_world(256, 700, 600, 350), gaps=_BLANKED, kwargs={"reward": "health"},
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Postdiction:
    """Measure postdiction.

    Attributes:
        task: one of those of this benchmark.
        out: folder of the recording and the worlds; safe to interrupt, rerun the same command to resume.
        seeds: worlds that are trained.
        windows: of held-out episodes, per measurement.
        json: file to write the results to; nothing is written without it.
        picture: file to draw two windows of the first measurement into, those of which the filter is most wrong:
            reality, what was seen, what the filter remembers, what is remembered in hindsight.
    """

    task: str = "occluder"
    out: Path | None = None
    seeds: int = 1
    windows: int = 256
    json: Path | None = None
    picture: Path | None = None


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure from the command line."""
    settings = tyro.cli(Postdiction, args=arguments, description=__doc__)
    task, out = TASKS[settings.task], settings.out or Path("runs/postdiction") / settings.task
    recorder = partial(StickyRandomPolicy, task.make().action_space)
    data = collect(task.make, recorder, out / "data", steps=task.frames, num_workers=1)
    results: dict[str, Any] = {}
    for seed in range(settings.seeds):
        world = train(TrainConfig(seed=seed, holdout=0.2), task.world, data, out / f"world-{seed}")
        _, held_out = data.split(0.2, seed)
        for name, gap in task.gaps.items():
            windows = cut_windows(held_out, gap.steps, settings.windows, from_start=task.from_start, seed=seed)
            model = cast(RevisingRSSM, world.model)
            if settings.picture is not None and not results:
                draw(model, gap, windows, settings.picture)
            results.setdefault(name, []).append(measure_gap(model, gap, windows))
    for name, found in results.items():
        print(f"\n{name}")
        show(found)
    if settings.json is not None:
        print(f"wrote {write_json(settings.json, envelope('postdiction', results, vars(settings)))}", file=sys.stderr)
    return results


def cut_windows(data: EpisodeDataset, steps: int, count: int, *, from_start: bool, seed: int) -> Windows:
    """Cut windows of so many steps from episodes that are long enough, one after another."""
    episodes = [episode for episode in data if len(episode.actions) >= steps]
    random, frames, actions = np.random.default_rng(seed), [], []
    for i in range(count):
        episode = episodes[i % len(episodes)]
        if from_start and i >= len(episodes):
            break
        first = 0 if from_start else int(random.integers(len(episode.actions) - steps + 1))
        frames.append(episode.frames[first : first + steps + 1])
        actions.append(episode.actions[first : first + steps])
    return frames_to_model(np.stack(frames)), torch.from_numpy(np.stack(actions))


@torch.inference_mode()
def measure_gap(model: RevisingRSSM, gap: Gap, windows: Windows) -> dict[str, Any]:
    """Return the squared errors of hidden and of future frames, each with its 95% interval over windows."""
    frames, actions = windows
    rows = len(frames)
    here = gap.context + gap.hidden + gap.seen  # steps until now
    ways: dict[str, State] = {}
    runs = [_filter(model, gap, windows, seed) for seed in (0, 1)]
    ways["filter"] = runs[0][0]
    better = runs[1][1] < runs[0][1]
    ways["filter twice"] = _choose(better, runs[1][0], runs[0][0])
    every = torch.ones(rows, 1, dtype=torch.bool)
    newest = frames[:, here : here + 1]
    for lag in sorted({1, 2, 4, 8, model.revision_steps}):
        ways[f"revised, L={lag}"] = model.revise(_reach(ways["filter"], lag), newest, every)
    truth = frames[:, here + 1 : here + 1 + FUTURE]
    hidden = frames[:, gap.context + 1 : gap.context + gap.hidden + 1]
    ceiling = model.observe(_start(model, frames, 0), actions[:, :here], frames[:, 1 : here + 1])
    ways["nothing hidden"] = ceiling
    results: dict[str, Any] = {}
    for name, state in ways.items():
        imagined, _ = model.imagine(state, actions[:, here : here + FUTURE])
        assert imagined.frames is not None
        future = (imagined.frames - truth).square().flatten(2).mean(dim=-1)  # n k
        results[name] = {"future": _interval(future.mean(dim=1)), "future_by_step": future.mean(dim=0).tolist()}
        if gap.hidden:
            place = slice(model.revision_steps - gap.hidden - gap.seen, model.revision_steps - gap.seen)
            recalled = model.recall(state)[:, place]
            results[name]["hidden"] = _interval((recalled - hidden).square().flatten(1).mean(dim=1))
    return results


def _start(model: RevisingRSSM, frames: Tensor, seed: int) -> State:
    return model.start(frames[:, 0], torch.arange(len(frames)) + seed * len(frames))


def _filter(model: RevisingRSSM, gap: Gap, windows: Windows, seed: int) -> tuple[State, Tensor]:
    """Filter up to now; the state, and what the first frame after the gap cost, (n,) nats."""
    frames, actions = windows
    first, end = gap.context + gap.hidden, gap.context + gap.hidden + gap.seen
    state = model.observe(_start(model, frames, seed), actions[:, : gap.context], frames[:, 1 : gap.context + 1])
    if gap.hidden:
        state = model.imagine(state, actions[:, gap.context : first], decode=False)[1]
    cost = model.score(state, actions[:, first : first + 1], frames[:, first + 1 : first + 2])[:, 0]
    return model.observe(state, actions[:, first:end], frames[:, first + 1 : end + 1]), cost


def _choose(rows: Tensor, chosen: State, other: State) -> State:
    """Return the state whose rows are chosen where ``rows`` is True."""
    merged = other.clone()
    for name, entry in merged.items(include_nested=True, leaves_only=True):
        entry[rows] = chosen[name][rows]
    return merged


def _reach(state: State, steps: int) -> State:
    """Return the state with no more than so many steps remembered."""
    state = state.clone()
    state["history", "age"].clamp_(max=steps)
    return state


@torch.inference_mode()
def draw(model: RevisingRSSM, gap: Gap, windows: Windows, path: Path, *, count: int = 2, seed: int = 0) -> None:
    """Draw the windows of which the filter is most wrong, the remembered steps of each in four rows."""
    place = slice(model.revision_steps - gap.hidden - gap.seen, model.revision_steps - gap.seen)
    hidden = windows[0][:, gap.context + 1 : gap.context + gap.hidden + 1]
    wrong = (model.recall(_filter(model, gap, windows, seed)[0])[:, place] - hidden).square().flatten(1).sum(dim=1)
    chosen = wrong.argsort(descending=True)[:count]
    frames, actions = (part[chosen] for part in windows)
    state, _ = _filter(model, gap, (frames, actions), seed)
    here = gap.context + gap.hidden + gap.seen
    revised = model.revise(state, frames[:, here : here + 1], torch.ones(len(frames), 1, dtype=torch.bool))
    steps = min(model.revision_steps, here)
    real = frames[:, here - steps + 1 : here + 1]
    seen = real.clone()
    seen[:, -gap.hidden - gap.seen : -gap.seen] = 0.5
    rows = [real, seen, *(model.recall(one)[:, -steps:] for one in (state, revised))]
    videos = [frames_to_numpy(row[i]) for i in range(len(frames)) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(strip(videos, range(steps), scale=2)).save(path)


def _interval(errors: Tensor) -> list[float]:
    summary = mean_iqm_interval(errors.numpy())
    return [summary.mean, *summary.mean_interval]


def show(found: list[dict[str, Any]]) -> None:
    """Print one measurement as a table, the mean over worlds."""
    rows = []
    for way in found[0]:
        hidden = [one[way]["hidden"][0] for one in found] if "hidden" in found[0][way] else []
        steps = np.mean([one[way]["future_by_step"] for one in found], axis=0)
        rows.append((way, 1e3 * float(np.mean(hidden)) if hidden else "", *(1e3 * steps[[0, 2, 4, 9]]).tolist()))
    print_table(("1000 x squared error", "hidden", "next", "3rd", "5th", "10th"), rows)


if __name__ == "__main__":
    main()

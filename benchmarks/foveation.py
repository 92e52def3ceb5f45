"""Compare fine tokens everywhere, coarse ones everywhere, and a fovea: ``python -m dreamenv.benchmarks.foveation``.

All are one network (`dreamenv.denoisers.foveated_dit`) over the latents of one codec, from the same seed and windows,
differing in how a frame is cut into tokens. Each is trained for the same multiply-adds (counted, not timed) and
judged on held-out windows after as many steps as the finest takes (equal steps) and at the end (equal compute).

- Error inside and outside the fovea, in the frame after the context and some steps into the dream. The fovea is where
  the real frames moved last, the same for all, so that "inside" is the same pixels.
- Small objects: the share of those that held-out frames show that the dream shows at their places.
- Multiply-adds of a frame, and frames per second, in turns within one run.
- The same foveated weights under other gazes: held at the middle, and where the model is uncertain.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dreamenv.backbones.denoising.presets import diffusion_forcing_like
from dreamenv.backbones.denoising.training import DenoiserTraining
from dreamenv.backbones.denoising.world import DenoisingConfig, DenoisingWorld
from dreamenv.benchmarks.common import cached, claim, envelope, interleaved, print_table, write_json
from dreamenv.codecs.base import CodecTraining
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.store import FrameStore
from dreamenv.data.windows import WindowSampler, read_windows, windows_for_evaluation
from dreamenv.denoisers.foveated_dit import FoveatedDiT, FoveatedDiTConfig
from dreamenv.denoisers.gaze import GazeConfig, HeldGaze, MotionGaze, UncertaintyGaze
from dreamenv.errors import ConfigError, UnknownNameError
from dreamenv.frames import frames_to_model
from dreamenv.heads.no_reward import NoRewardHeadConfig
from dreamenv.metrics.objects import object_fidelity
from dreamenv.metrics.statistics import mean_iqm_interval
from dreamenv.nn.fovea import Fovea
from dreamenv.storage import write_file
from dreamenv.training.config import OptimizerConfig, TrainConfig
from dreamenv.training.optimisation import WeightAverage, learning_rate, make_optimizer, only_trainable
from dreamenv.world_model import Stage, WorldModelSpec

__all__ = ["LAYOUTS", "Foveation", "main", "make_config", "measure"]

_CONTEXT = 6
_DENOISER = FoveatedDiTConfig(context=_CONTEXT, embed_dim=96, depth=3, heads=3, patch=2, fovea=())

LAYOUTS: dict[str, FoveatedDiTConfig] = {
    "uniform": _DENOISER,
    "foveated": dataclasses.replace(_DENOISER, fovea=(4,), gaze=MotionGaze()),
    "uniform, coarse": dataclasses.replace(_DENOISER, patch=4),
}
"""By name: 64, 28 and 16 tokens for a frame of 64 x 64 pixels, which are 16 x 16 places of latents."""

_GAZES: dict[str, GazeConfig] = {"gaze held": HeldGaze(), "gaze on the uncertain": UncertaintyGaze()}
_FOVEATED = "foveated"
_ROWS = 16  # windows dreamt at a time
_AVERAGE = 0.99  # of weights, which stand for those of a falling rate
_TIMED = 12  # frames of a dream that is timed


@dataclass(frozen=True, kw_only=True)
class Foveation:
    """Compare layouts of tokens.

    Attributes:
        data: folder of a recording.
        steps: of training the finest layout; the others take as many multiply-adds.
        equal_steps_only: train all for ``steps`` instead.
        codec_steps: of training the codec, which all share.
        windows: held-out windows whose errors are measured.
        moments: held-out moments at which objects are looked for, per step.
        horizons: steps into the dream that are judged.
        holdout: share of the episodes that nothing learns from.
        seed: of weights, windows and moments.
        rounds: of timing.
        layouts: which of `LAYOUTS`.
        out: JSON file to write.
        work: folder of weights and judgements, from which an interrupted run goes on.

    Raises:
        ConfigError: no steps, windows or horizons.
        UnknownNameError: no such layout.
    """

    data: Path
    steps: int = 300
    equal_steps_only: bool = False
    codec_steps: int = 300
    windows: int = 128
    moments: int = 160
    horizons: tuple[int, ...] = (1, 8)
    holdout: float = 0.1
    seed: int = 0
    rounds: int = 5
    layouts: tuple[str, ...] = tuple(LAYOUTS)
    out: Path = Path("foveation.json")
    work: Path = Path("runs/foveation")

    def __post_init__(self) -> None:
        if min(self.steps, self.windows, self.moments, self.rounds, *self.horizons, self.codec_steps + 1) < 1:
            raise ConfigError("steps, windows, moments, rounds and horizons must be at least 1.")
        for name in self.layouts:
            if name not in LAYOUTS:
                raise UnknownNameError("layout", name, LAYOUTS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    settings = tyro.cli(Foveation, args=arguments, description=__doc__)
    results = measure(settings)
    header = ["layout", "tokens", "million multiply-adds a frame", "steps"]
    for horizon in settings.horizons:
        header += [f"inside, step {horizon} (dB)", f"outside, step {horizon} (dB)", f"objects, step {horizon}"]
    print_table(tuple(header), [_row(name, entry, settings.horizons) for name, entry in results["layouts"].items()])
    for name, timing in results["speed"]["timings"].items():
        print(f"{name}: {timing['rate']:.1f} frames/s, one dream", file=sys.stderr)
    facts = {**vars(settings), "data": settings.data.name, "out": settings.out.name, "work": settings.work.name}
    print(f"wrote {write_json(settings.out, envelope('foveation', results, facts))}", file=sys.stderr)


def make_config(denoiser: FoveatedDiTConfig, codec_steps: int) -> DenoisingConfig:
    """Return the world of a layout: Diffusion Forcing in latents, without rewards."""
    base = diffusion_forcing_like()
    assert base.codec is not None
    return dataclasses.replace(
        base,
        denoiser=denoiser,
        codec=dataclasses.replace(base.codec, training=CodecTraining(steps=codec_steps)),
        head=NoRewardHeadConfig(),
        training=DenoiserTraining(sequence_length=_CONTEXT, learning_rate=1e-3, motion_weight=0.5),
    )


def measure(settings: Foveation) -> dict[str, Any]:
    """Train and judge each layout; return ``layouts``: name -> figures, and ``speed``.

    Raises:
        DatasetError: the recording is empty, damaged or too small to hold anything out.
    """
    dataset = EpisodeDataset.open(settings.data)
    training, held_out = dataset.split(settings.holdout, settings.seed)
    store = FrameStore(training)
    h, w, c = dataset.frame_shape
    spec = WorldModelSpec(
        frame_shape=(c, h, w), action_space=dataset.action_space, frame_rate=dataset.provenance.frame_rate
    )
    made_from = {name: getattr(settings, name) for name in ("steps", "codec_steps", "holdout", "seed")}
    claim(settings.work / "made_from.json", {**made_from, "data": dataset.content_hash()})
    worlds = {name: make_config(LAYOUTS[name], settings.codec_steps).build(spec) for name in settings.layouts}
    features = _with_codec(list(worlds.values()), store, settings)
    layouts: dict[str, Any] = {}
    finest = _training_operations(make_config(LAYOUTS["uniform"], 1).build(spec), features, store, settings)
    for name, world in worlds.items():
        share = 1.0 if settings.equal_steps_only else finest / _training_operations(world, features, store, settings)
        steps = round(settings.steps * share)
        print(f"{name}: {world.denoiser.tokens} tokens, {steps} steps", file=sys.stderr, flush=True)
        facts = {"tokens": world.denoiser.tokens, "operations": _frame_operations(world)}
        for done, path in _trained(name, world, steps, store, settings, features).items():
            world.load_state_dict(load_file(path))
            rules = {"": LAYOUTS[name].gaze, **(_GAZES if name == _FOVEATED and done == steps else {})}
            for other, gaze in rules.items():
                title = f"{name}, {done} steps" + (other and f", {other}")
                _look_by(world, gaze)
                key = {"steps": done, "windows": settings.windows, "moments": settings.moments, "gaze": gaze.kind}
                key |= made_from | {"horizons": settings.horizons, "data": dataset.content_hash()}
                judged = cached(
                    settings.work, title.replace(" ", "_"), key, partial(_judged, world, held_out, settings)
                )
                layouts[title] = {**facts, "steps": done, **judged}
                print(_row(title, layouts[title], settings.horizons), file=sys.stderr, flush=True)
            _look_by(world, LAYOUTS[name].gaze)
    return {
        "layouts": layouts,
        "speed": _speed(worlds, held_out, settings).to_json(),
        "environment": dataset.provenance.environment_id,
        "sha256": dataset.content_hash(),
        "episodes": {"training": len(training), "held_out": len(held_out)},
    }


def _with_codec(worlds: list[DenoisingWorld], store: FrameStore, settings: Foveation) -> Any:
    """Give all worlds one codec, trained unless it was before; return the latents (n, c, h, w) of all frames."""
    path = settings.work / "codec.safetensors"
    if not path.exists():
        torch.manual_seed(settings.seed)
        world = make_config(LAYOUTS["uniform"], settings.codec_steps).build(worlds[0].spec)
        _train(world, world.stages()[0], store, settings, settings.codec_steps, None, {settings.codec_steps: path})
    for world in worlds:
        found = load_file(path)
        world.codec.load_state_dict({name[6:]: value for name, value in found.items() if name.startswith("codec.")})
        world.eval()
    return _features(worlds[0], store)


def _trained(
    name: str, world: DenoisingWorld, steps: int, store: FrameStore, settings: Foveation, features: Any
) -> dict[int, Path]:
    """Train a layout, unless it was before: steps -> weights after as many as the finest takes, and at the end."""
    marks = sorted({min(steps, settings.steps), steps})
    paths = {mark: settings.work / f"{name.replace(', ', '_')}-{mark}.safetensors" for mark in marks}
    if not all(path.exists() for path in paths.values()):
        stage = next(stage for stage in world.stages() if stage.name == "denoiser")
        torch.manual_seed(settings.seed)
        world.denoiser.load_state_dict(make_config(LAYOUTS[name], 1).build(world.spec).denoiser.state_dict())
        _train(world, stage, store, settings, steps, features, paths)
    return paths


def _look_by(world: DenoisingWorld, gaze: GazeConfig) -> None:
    """Let a world look elsewhere, with the weights that it has."""
    assert isinstance(world.denoiser, FoveatedDiT)
    world.denoiser.config = dataclasses.replace(world.denoiser.config, gaze=gaze)


def _train(
    world: DenoisingWorld,
    stage: Stage,
    store: FrameStore,
    settings: Foveation,
    steps: int,
    features: Any,
    paths: dict[int, Path],
) -> None:
    """Train one stage, and write the average of the weights after so many steps to these paths."""
    run = TrainConfig(steps={stage.name: steps}, seed=settings.seed, optimizer=OptimizerConfig(schedule="constant"))
    windows = _windows(stage, store, settings, features)
    objective = stage.objectives[0]
    only_trainable(world, objective)
    world.train()
    optimizer, average = make_optimizer(objective, stage, run), WeightAverage(world, _AVERAGE)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(stage, step, run)
        optimizer.zero_grad(set_to_none=True)
        loss, _ = objective.loss(windows.batch(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters, 1.0)
        optimizer.step()
        average.update(step)
        if step + 1 in paths:
            average.swap()
            write_file(paths[step + 1], save({key: value.contiguous() for key, value in world.state_dict().items()}))
            average.swap()
    world.eval().requires_grad_(False)


def _windows(stage: Stage, store: FrameStore, settings: Foveation, features: Any) -> WindowSampler:
    return WindowSampler(
        store,
        batch_size=stage.batch_size,
        sequence_length=stage.sequence_length,
        seed=settings.seed,
        features=features,
        crop_at_episode_ends=stage.crop_at_episode_ends,
    )


@torch.no_grad()
def _features(world: DenoisingWorld, store: FrameStore) -> Any:
    blocks = [
        world.latents(frames_to_model(np.asarray(store.frames[i : i + _ROWS]), channels_last=True)).numpy()
        for i in range(0, len(store.frames), _ROWS)
    ]
    return np.concatenate(blocks).astype(np.float16)


def _training_operations(world: DenoisingWorld, features: Any, store: FrameStore, settings: Foveation) -> int:
    """Count the multiply-adds of a training step."""
    stage = next(stage for stage in world.stages() if stage.name == "denoiser")
    only_trainable(world, stage.objectives[0])
    batch = _windows(stage, store, settings, features).batch(0)
    with _counting() as counter:
        loss, _ = stage.objectives[0].loss(batch)
        loss.backward()
    world.zero_grad(set_to_none=True)
    return int(counter.get_total_flops()) // 2


@torch.no_grad()
def _frame_operations(world: DenoisingWorld) -> int:
    """Count the denoiser's multiply-adds of a frame in a dream: its sampling steps, and taking it into the cache."""
    world.eval()
    c, h, w = world.spec.frame_shape
    state = world.start(torch.zeros(1, c, h, w), torch.zeros(1, dtype=torch.int64))
    actions = torch.zeros(1, 1, *world.spec.action_layout.shape, dtype=torch.int64)
    with _counting() as counter:
        world._sample(state, world.action(actions))
        world._update_cache(state, torch.zeros(1, 1, *world.latent_shape), world.action(actions))
    return int(counter.get_total_flops()) // 2


@contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    """Count operations, those of attention as the products that it is: torch does not count its own kernel on a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


@torch.no_grad()
def _judged(world: DenoisingWorld, held_out: EpisodeDataset, settings: Foveation) -> dict[str, Any]:
    store, longest = FrameStore(held_out), max(settings.horizons)
    layout = LAYOUTS[_FOVEATED]
    fovea = Fovea(world.latent_shape, layout.patch, layout.fovea)
    rows = windows_for_evaluation(store, _CONTEXT + longest, settings.windows, settings.seed)
    errors: dict[str, list[Tensor]] = {}
    for first in range(0, len(rows), _ROWS):
        batch = read_windows(store, rows[first : first + _ROWS], _CONTEXT + longest)
        real = torch.cat((batch.first_frame[:, None], batch.frames), dim=1)
        seeds = torch.arange(first, first + len(real)) + (settings.seed << 32)
        state = world.start(real[:, 0], seeds)
        state = world.observe(state, batch.actions[:, :_CONTEXT], batch.frames[:, :_CONTEXT])
        dream, _ = world.imagine(state, batch.actions[:, _CONTEXT:])
        assert dream.frames is not None
        latents = world.latents(real.flatten(0, 1)).unflatten(0, real.shape[:2])
        for horizon in settings.horizons:
            at = _CONTEXT + horizon  # in the real frames, of which the first is before all actions
            change = (latents[:, at - 1] - latents[:, at - 2]).square().mean(1)
            inside = fovea.fine_pixels(fovea.best_gaze(change), real.shape[-1] // world.latent_shape[-1])
            error = (dream.frames[:, horizon - 1] - real[:, at]).square().mean(1)
            for place, mask in (("inside", inside), ("outside", ~inside)):
                mean = (error * mask).sum((1, 2)) / mask.sum((1, 2))
                errors.setdefault(f"{place} {horizon}", []).append(mean)
    shown = object_fidelity(
        world, held_out, steps=settings.horizons, moments=settings.moments, context=_CONTEXT, seed=settings.seed
    )
    return {"psnr": {key: _decibels(torch.cat(parts)) for key, parts in errors.items()}, "objects": shown}


def _decibels(errors: Tensor) -> dict[str, float]:
    """Return the PSNR of the mean of squared errors (n,), and its 95% interval over windows."""
    found = mean_iqm_interval(errors.double().numpy())
    low, high = found.mean_interval
    mean, low, high = (float(-10 * np.log10(max(value, 1e-10))) for value in (float(errors.mean()), high, low))
    return {"mean": mean, "low": low, "high": high}


def _speed(worlds: dict[str, DenoisingWorld], held_out: EpisodeDataset, settings: Foveation) -> Any:
    """Time dreams of one row, in turns."""
    store = FrameStore(held_out)
    first = frames_to_model(np.asarray(store.frames[:1]), channels_last=True)

    @torch.no_grad()
    def dream(world: DenoisingWorld) -> float:
        state = world.start(first, torch.zeros(1, dtype=torch.int64))
        shape = world.spec.action_layout.shape
        for _ in range(_TIMED):
            _, state = world.imagine(state, torch.zeros(1, 1, *shape, dtype=torch.int64))
        return _TIMED

    return interleaved({name: partial(dream, world) for name, world in worlds.items()}, rounds=settings.rounds)


def _row(name: str, entry: dict[str, Any], horizons: Sequence[int]) -> tuple[Any, ...]:
    row: list[Any] = [name, entry["tokens"], f"{entry['operations'] / 1e6:.0f}", entry["steps"]]
    for horizon in horizons:
        found = entry["objects"]["steps"].get(str(horizon), {}).get("dream", {}).get("found")
        row += [f"{entry['psnr'][f'{place} {horizon}']['mean']:.2f}" for place in ("inside", "outside")]
        row.append("-" if found is None else f"{found['mean']:.0%}")
    return tuple(row)


if __name__ == "__main__":
    main()

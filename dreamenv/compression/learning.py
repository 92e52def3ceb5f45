"""Train a pixel head on a recording: minutes on one core, since it is small and sees a few pixels of many frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dreamenv.checks import check_number, check_whole, settle_types
from dreamenv.compression.head_files import TrainedHead
from dreamenv.compression.pixel_head import PixelHead, PixelHeadConfig
from dreamenv.compression.samples import FrameSamples, draw_samples
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.errors import DatasetError, DivergedError, FrameError
from dreamenv.world import World

__all__ = ["HeadTraining", "train_pixel_head"]

_WARM_UP = 0.1  # share of the steps in which the rate rises
_MOST_NORM = 1.0  # of a gradient
_LEAST_RATE = 0.01  # of the peak, at the end


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """How a head is trained.

    Attributes:
        frames: of the recording that it learns from; each is kept with its past, 60 kB at 64x64.
        steps: of the optimiser.
        batch_size: frames per step.
        pixels: of each pass and frame at most, drawn anew in every step.
        learning_rate: peak rate (Adam).
        seed: of frames, pixels and weights.

    Raises:
        ConfigError: a number that is not positive.
    """

    frames: int = 3000
    steps: int = 6000
    batch_size: int = 12
    pixels: int = 128
    learning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        settle_types(self)
        for name in ("frames", "steps", "batch_size", "pixels"):
            check_whole(name, getattr(self, name))
        check_number("learning_rate", self.learning_rate, least=1e-8, most=1.0)
        check_whole("seed", self.seed, least=0)


def train_pixel_head(
    world: World,
    dataset: EpisodeDataset,
    config: PixelHeadConfig | None = None,
    training: HeadTraining | None = None,
    *,
    progress: Callable[[str, int, float], None] | None = None,
) -> TrainedHead:
    """Train a head for a world on a recording of its environment.

    Args:
        world: on the CPU.
        dataset: episodes to learn from; those that are to be compressed should not be among them.
        config: the head's settings.
        training: how it is trained.
        progress: called with "frames" or "steps", how many are done, and bits per value of the last step.

    Raises:
        DatasetError: the recording has no episode.
        FrameError, WorldMismatchError: it is of another environment than the world.
        DivergedError: the loss became infinite or NaN.
    """
    training, config = training or HeadTraining(), config or PixelHeadConfig()
    _check_recording(world, dataset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)  # weights are sampled by torch.nn.init, which knows only the global stream
        head = PixelHead(config, world.spec.frame_shape)
    said = progress or (lambda _what, _count, _bits: None)
    samples = draw_samples(
        head, world, dataset, count=training.frames, seed=training.seed, progress=lambda n: said("frames", n, 0.0)
    )
    bits = _learn(head, samples, training, said)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter.half())  # as it is stored: sender and receiver have the same
    record: dict[str, Any] = {
        "training": asdict(training), "frames": len(samples), "bits_per_dim": bits, "sha256": dataset.content_hash(),
    }  # fmt: skip
    return TrainedHead(model=head.eval(), world_hash=world.content_hash(), record=record)


def _check_recording(world: World, dataset: EpisodeDataset) -> None:
    if world.provenance is not None:
        world.provenance.check_matches(dataset.provenance)
    if len(dataset) == 0:
        raise DatasetError(f"{dataset.path} has no episodes to learn from. Record some with: dreamenv collect")
    c, h, w = world.spec.frame_shape
    if dataset.frame_shape != (h, w, c):
        raise FrameError(f"the recording's frames are {dataset.frame_shape}, those of the world {(h, w, c)} (h, w, c).")


def _learn(
    head: PixelHead, samples: FrameSamples, training: HeadTraining, said: Callable[[str, int, float], None]
) -> float:
    """Train the head; returns bits per value, the mean over the last tenth of the steps."""
    generator = torch.Generator().manual_seed(training.seed)
    optimizer = torch.optim.Adam(head.parameters(), lr=training.learning_rate)
    last: list[float] = []
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * _rate(step / training.steps)
        batch = samples.at(torch.randint(len(samples), (training.batch_size,), generator=generator))
        loss, bits = _loss(head, batch, training.pixels, generator)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(head.parameters(), _MOST_NORM)
        if not math.isfinite(float(norm)):
            raise DivergedError(f"the pixel head's gradient is {float(norm)} in step {step}; lower learning_rate.")
        optimizer.step()
        if step + 1 > 0.9 * training.steps:
            last.append(float(bits))
        said("steps", step + 1, float(bits))
    return sum(last) / max(1, len(last))


def _loss(head: PixelHead, batch: FrameSamples, pixels: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return what to minimise, and bits per value of whole frames."""
    frames, losses, bits = batch.frames.float(), [], []
    for number, one in enumerate(head.passes):
        chosen = torch.randperm(len(one.targets), generator=generator)[:pixels]
        row, column = one.targets[chosen].unbind(1)
        alignment = batch.alignments[head.stage_of(one)]
        mixture = head.mixture(number, frames, batch.past, batch.dreams, alignment, chosen)
        losses.append(mixture.bits(frames[:, :, row, column]).mean())
        bits.append(losses[-1].detach() * len(one.targets))
    # Passes share no parameter, so each is given the same weight, however many pixels it has.
    return torch.stack(losses).sum(), torch.stack(bits).sum() / sum(len(one.targets) for one in head.passes)


def _rate(done: float) -> float:
    if done < _WARM_UP:
        return max(_LEAST_RATE, done / _WARM_UP)
    return _LEAST_RATE + (1 - _LEAST_RATE) * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))) / 2

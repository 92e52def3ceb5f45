"""``dreamenv pixels``: train what gives pixels their probabilities, given a world's dreams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from dreamenv.commands.arguments import parse, report_written
from dreamenv.errors import ConfigError, DatasetError
from dreamenv.folders import check_world

__all__ = ["Pixels", "main"]


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Train a world's pixel head on a recording, which `compress` and `decompress` need: 10 minutes on one core.

    Attributes:
        dataset: folder of the recording.
        world: folder, hf://owner/name, or the name of a world in the package.
        out: folder of the head; "pixel_head" beside the world's folder, or in that of its run, is found by itself.
        holdout: share of the episodes to leave out, to compress them later, in [0, 1); of the recording that the world
            was trained on, those that were left out then are.
        frames: of the recording that it learns from; each is kept with its past, 60 kB at 64x64.
        steps: of the optimiser.
        batch_size: frames per step.
        pixels: of each pass and frame at most, drawn anew in every step.
        learning_rate: peak rate (Adam).
        hidden: width of the networks.
        past: frames before, in which matches are looked for.
        reach: rows and columns up to which they are, in pixels.
        seed: of frames, pixels and weights.
        progress: show a progress bar.
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    world: str
    out: Path
    holdout: float = 0.1
    frames: int = 3000
    steps: int = 6000
    batch_size: int = 12
    pixels: int = 128
    learning_rate: float = 3e-3
    hidden: int = 64
    past: int = 2
    reach: tuple[int, int] = (4, 14)
    seed: int = 0
    progress: bool = field(default=True)


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Pixels, arguments, name="pixels")
    if not command.dataset.is_dir():
        raise DatasetError(f"there is no recording at {command.dataset}. Make one with `dreamenv collect`.")
    if not 0 <= command.holdout < 1:
        raise ConfigError(f"holdout must be in [0, 1), not {command.holdout}.")
    check_world(command.world)

    from tqdm import tqdm

    from dreamenv.commands.places import load_world
    from dreamenv.compression import HeadTraining, PixelHeadConfig, TrainedHead, train_pixel_head
    from dreamenv.data import EpisodeDataset
    from dreamenv.training.record import recorded_split

    TrainedHead.check_free(command.out)  # before the minutes of training, not after them
    config = PixelHeadConfig(hidden=command.hidden, past=command.past, reach=command.reach)
    training = HeadTraining(
        frames=command.frames, steps=command.steps, batch_size=command.batch_size, pixels=command.pixels,
        learning_rate=command.learning_rate, seed=command.seed,
    )  # fmt: skip
    world, dataset = load_world(command.world), EpisodeDataset.open(command.dataset)
    chosen, _ = dataset.split(*(recorded_split(world.record, dataset) or (command.holdout, command.seed)))
    with tqdm(total=command.frames + command.steps, disable=not command.progress, unit="frame or step") as bar:

        def said(what: str, count: int, bits: float) -> None:
            bar.update(count + (command.frames if what == "steps" else 0) - bar.n)
            if what == "steps":
                bar.set_postfix_str(f"{bits:.2f} bits a value", refresh=False)

        head = train_pixel_head(world, chosen, config, training, progress=said)
    print(f"{head.record['bits_per_dim']:.3f} bits a value in training; {head.bytes:,} bytes of parameters")
    head.save(command.out)
    report_written(command.out)

"""``dreamenv train``: train a world on a recording."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dreamenv.commands.arguments import parse, report_written
from dreamenv.errors import DatasetError
from dreamenv.folders import check_world
from dreamenv.training.config import TrainConfig

if TYPE_CHECKING:
    from dreamenv.world_model import BackboneConfig

__all__ = ["Train", "main", "read"]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a world on a recording. Safe to interrupt: rerun the same command to resume.

    Attributes:
        dataset: folder of the recording, as `dreamenv collect` writes it.
        out: folder of the run: world/, checkpoints/, videos/ and tensorboard/ are written in it.
        backbone: kind of model: rssm, grid_rssm, token_world, denoising or persistence; `--backbone rssm --help` shows
            its own settings too.
        preset: of the backbone, such as small or base; None for its default. "tiny" is for tests.
        initial: a world of the same backbone to continue training: a folder or hf://owner/name; None starts afresh.
            On the same recording, the same episodes stay held out, whatever the seed.
        fresh: start over instead of resuming from a checkpoint.
        training: how to train.
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    out: Path
    backbone: str = "rssm"
    preset: str | None = None
    initial: str | None = None
    fresh: bool = False
    training: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    if arguments and not arguments[0].startswith("-") and not {"-h", "--help"} & set(arguments):
        _check_recording(Path(arguments[0]))
    command, model = read(arguments)
    _check_recording(command.dataset)
    if command.initial is not None:
        check_world(command.initial)
    if command.preset == "tiny":
        print("note: the preset 'tiny' is for tests: too small for dreams worth training in; leave --preset out.")

    from dreamenv.commands.places import load_world
    from dreamenv.data import EpisodeDataset
    from dreamenv.training import train

    dataset = EpisodeDataset.open(command.dataset)
    initial = load_world(command.initial, "cpu") if command.initial is not None else None
    train(command.training, model, dataset, command.out, initial=initial, resume=not command.fresh)
    report_written(command.out / "world")


def read(arguments: Sequence[str]) -> tuple[Train, BackboneConfig]:
    """Parse the command's settings, then those of the backbone they name.

    Asked for help without a backbone, it shows the command's own settings alone, for which nothing slow is imported.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--backbone")
    first.add_argument("--preset", default=Train.preset)
    first.add_argument("-h", "--help", action="store_true")
    chosen, _ = first.parse_known_args(list(arguments))
    if chosen.help and chosen.backbone is None:
        parse(Train, arguments, name="train")

    from dreamenv.presets import make_config

    backbone = chosen.backbone or Train.backbone
    model = make_config(backbone, chosen.preset if chosen.preset != "None" else None)
    # The backbone's settings become options only once it is known which backbone it is.
    settings: list[tuple[str, Any, Any]] = [("model", type(model), field(default=model))]
    whole: Any = dataclasses.make_dataclass("Train", settings, bases=(Train,), frozen=True, kw_only=True)
    whole.__doc__ = Train.__doc__
    command = parse(whole, arguments, name="train")
    return command, command.model


def _check_recording(path: Path) -> None:
    if not path.is_dir():
        raise DatasetError(f"there is no recording at {path}. Make one with `dreamenv collect` or `dreamenv convert`.")

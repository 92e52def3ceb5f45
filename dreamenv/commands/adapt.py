"""``dreamenv adapt``: continue a world's training on a small recording of a changed environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from dreamenv.checks import check_whole
from dreamenv.commands.arguments import parse, report_written
from dreamenv.errors import ConfigError, DatasetError
from dreamenv.folders import check_world
from dreamenv.training.adapt_config import AdaptConfig

__all__ = ["Adapt", "main"]


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """Adapt a world to a changed environment: a bounded number of gradient steps on a small recording of it.

    Attributes:
        world: folder, hf://owner/name, or the name of a world in the package; it is not changed.
        recording: folder of the recording of the changed environment, as `dreamenv collect` writes it.
        budget: gradient steps in all.
        out: folder of the adapted world, which must not exist.
        replay: what is rehearsed against forgetting: "dreams" of the world's own, the folder of its old recording, or
            "none".
        adapting: how.
    """

    world: Annotated[str, tyro.conf.Positional]
    recording: Annotated[Path, tyro.conf.Positional]
    budget: int
    out: Path
    replay: str = "dreams"
    adapting: Annotated[AdaptConfig, tyro.conf.arg(name="")] = field(default_factory=AdaptConfig)

    def __post_init__(self) -> None:
        check_whole("budget", self.budget)


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Adapt, arguments, name="adapt")
    check_world(command.world)
    for path in (command.recording, *([Path(command.replay)] if command.replay not in ("dreams", "none") else [])):
        if not path.is_dir():
            raise DatasetError(f"there is no recording at {path}. Make one with `dreamenv collect`.")
    if command.out.exists():
        raise ConfigError(f"there is something at {command.out} already; it was left alone. Choose another folder.")

    from dreamenv.commands.places import load_world
    from dreamenv.data import EpisodeDataset
    from dreamenv.training import adapt
    from dreamenv.training.adaptation import Replay

    world, recording = load_world(command.world), EpisodeDataset.open(command.recording)
    replay: Replay = "dreams"
    if command.replay != "dreams":
        replay = None if command.replay == "none" else EpisodeDataset.open(command.replay)
    adapted = adapt(world, recording, command.budget, replay, config=command.adapting)
    adapted.save(command.out)
    print(f"Its metrics are not known: measure it on recorded episodes before you trust it. {adapted}")
    report_written(command.out)

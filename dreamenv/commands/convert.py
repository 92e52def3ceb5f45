"""``dreamenv convert``: convert public recordings to a Minari dataset."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from dreamenv.commands.arguments import parse, report_written
from dreamenv.data.readers import MineRLSettings, NpzSettings, VPTSettings, convert, open_minerl, open_npz, open_vpt
from dreamenv.data.readers.source import Sources

__all__ = ["ConvertMineRL", "ConvertNpz", "ConvertVPT", "main"]


@dataclass(frozen=True, kw_only=True)
class _Convert:
    out: Path
    """folder of the recording, new or unfinished."""
    skip_damaged: bool = False
    """skip recordings that cannot be read, and list them at the end."""


@dataclass(frozen=True, kw_only=True)
class ConvertVPT(_Convert):
    """VPT's contractor recordings of Minecraft: an mp4 and a jsonl file each, with 25-value actions.

    Attributes:
        recordings: the mp4 or jsonl files.
        settings: how they are read.
    """

    recordings: Annotated[tuple[Path, ...], tyro.conf.Positional]
    settings: Annotated[VPTSettings, tyro.conf.arg(name="")] = field(default_factory=VPTSettings)

    def sources(self) -> Sources:
        """Open them."""
        return open_vpt(self.recordings, self.settings, skip_damaged=self.skip_damaged)


@dataclass(frozen=True, kw_only=True)
class ConvertMineRL(_Convert):
    """MineRL's recordings: folders with recording.mp4 and rendered.npz; a dictionary of actions.

    Attributes:
        recordings: the folders.
        settings: how they are read.
    """

    recordings: Annotated[tuple[Path, ...], tyro.conf.Positional]
    settings: Annotated[MineRLSettings, tyro.conf.arg(name="")] = field(default_factory=MineRLSettings)

    def sources(self) -> Sources:
        """Open them."""
        return open_minerl(self.recordings, self.settings, skip_damaged=self.skip_damaged)


@dataclass(frozen=True, kw_only=True)
class ConvertNpz(_Convert):
    """Npz files with one array for the frames, one for the actions, and so on.

    Attributes:
        recordings: the files.
        settings: how they are read.
    """

    recordings: Annotated[tuple[Path, ...], tyro.conf.Positional]
    settings: Annotated[NpzSettings, tyro.conf.arg(name="")] = field(default_factory=NpzSettings)

    def sources(self) -> Sources:
        """Open them."""
        return open_npz(self.recordings, self.settings, skip_damaged=self.skip_damaged)


_Any = (
    Annotated[ConvertVPT, tyro.conf.subcommand("vpt")]
    | Annotated[ConvertMineRL, tyro.conf.subcommand("minerl")]
    | Annotated[ConvertNpz, tyro.conf.subcommand("npz")]
)


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options: Any = _Any
    command: ConvertVPT | ConvertMineRL | ConvertNpz = parse(
        options,
        arguments,
        name="convert",
        description="Turn public recordings into a Minari dataset to train on. Rerun it to resume, or to add more.",
    )
    done = convert(command.sources(), command.out)
    for error in done.damaged:
        print(f"skipped: {error}", file=sys.stderr)
    print(f"{len(done.dataset)} episodes, {done.dataset.total_steps} steps")
    report_written(command.out)

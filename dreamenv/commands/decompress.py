"""``dreamenv decompress``: read back the pixels of a compressed clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dreamenv.commands.arguments import parse, report_written
from dreamenv.commands.clip_options import check_output, check_places, load_head
from dreamenv.errors import CompressionError, ConfigError
from dreamenv.extras import require

__all__ = ["Decompress", "main"]


@dataclass(frozen=True, kw_only=True)
class Decompress:
    """Decompress a clip: the same pixels, or an error and nothing written.

    Attributes:
        file: what `dreamenv compress` wrote.
        world: the one that compressed it: folder, hf://owner/name, or the name of a world in the package.
        out: .npz file to write, with frames (t + 1, h, w, c) uint8 and actions (t, *a).
        head: folder of the pixel head; None for "pixel_head" in the world's folder or beside it.
        actions: a clip with its actions, if the file has none: folder of a recording, an .npz file, or a video with a
            .npy file next to it.
        episode: which one of that recording.
        progress: show a progress bar.
    """

    file: Annotated[Path, tyro.conf.Positional]
    world: str
    out: Path
    head: Path | None = None
    actions: Path | None = None
    episode: int = 0
    progress: bool = True


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Decompress, arguments, name="decompress")
    require("constriction", extra="compression")
    if not command.file.is_file():
        raise CompressionError(f"there is no compressed clip at {command.file}. Make one with: dreamenv compress")
    if command.out.suffix != ".npz":
        raise ConfigError(f"--out must be an .npz file, not {command.out}.")
    if command.episode and command.actions is None:
        raise ConfigError("--episode is that of --actions, which was not given.")
    check_places(command.world, command.head)
    check_output(command.out, command.file, *(() if command.actions is None else (command.actions,)))

    from tqdm import tqdm

    from dreamenv.commands.places import load_world
    from dreamenv.compression import decompress, write_clip
    from dreamenv.compression.clips import read_actions

    world, head = load_world(command.world), load_head(command.world, command.head)
    actions = None if command.actions is None else read_actions(command.actions, command.episode, world.spec)
    with tqdm(disable=not command.progress, unit="frame", delay=1, leave=False) as bar:
        clip = decompress(
            command.file.read_bytes(), world, head, name=str(command.file), actions=actions,
            progress=lambda n: bar.update(n - bar.n),
        )  # fmt: skip
    write_clip(command.out, clip)
    print(f"{len(clip.frames)} frames, the same as were compressed")
    report_written(command.out)

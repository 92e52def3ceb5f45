"""``dreamenv compress``: write a clip in few bytes, by a world that predicts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dreamenv.commands.arguments import parse, report_written
from dreamenv.commands.clip_options import check_output, check_places, load_head
from dreamenv.extras import require

__all__ = ["Compress", "main"]


@dataclass(frozen=True, kw_only=True)
class Compress:
    """Compress a clip without loss; `dreamenv decompress` makes the same pixels of it, on the same kind of machine.

    Attributes:
        clip: folder of a recording, an .npz file with frames (t + 1, h, w, c) uint8 and actions (t, *a), or a video of
            the world's size with its actions in a .npy file next to it.
        world: folder, hf://owner/name, or the name of a world in the package.
        out: file to write.
        episode: which one of a recording.
        head: folder of the pixel head; None for "pixel_head" in the world's folder or beside it.
        with_actions: put the actions into the file; else they are needed to decompress it.
        progress: show a progress bar.
    """

    clip: Annotated[Path, tyro.conf.Positional]
    world: str
    out: Path
    episode: int = 0
    head: Path | None = None
    with_actions: bool = True
    progress: bool = True


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Compress, arguments, name="compress")
    require("constriction", extra="compression")
    check_places(command.world, command.head)
    check_output(command.out, command.clip)

    from tqdm import tqdm

    from dreamenv.commands.places import load_world
    from dreamenv.compression import compress, read_clip
    from dreamenv.storage import atomic_file

    world, head = load_world(command.world), load_head(command.world, command.head)
    clip = read_clip(command.clip, command.episode, world.spec)
    frames = len(clip.frames)
    with tqdm(total=frames, disable=not command.progress, unit="frame", delay=1, leave=False) as bar:
        coded = compress(clip, world, head, with_actions=command.with_actions, progress=lambda n: bar.update(n - bar.n))
    with atomic_file(command.out, "the compressed clip") as draft:
        draft.write_bytes(coded.content)
    raw = clip.frames.nbytes
    print(
        f"{frames} frames: {8 * len(coded.content) / frames:,.0f} bits a frame, {8 * len(coded.content) / raw:.3f} a "
        f"value, 1/{raw / len(coded.content):.1f} of the raw pixels (of which actions {coded.action_bits / frames:.1f} "
        f"bits a frame); {frames / coded.seconds:.1f} frames/s"
    )
    report_written(command.out)

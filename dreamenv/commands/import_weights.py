"""``dreamenv import``: make a world of published weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dreamenv.commands.arguments import in_flags, parse, report_written
from dreamenv.errors import DatasetError, WeightsError

__all__ = ["Import", "main"]


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a world of published weights. Settings that follow from the tensors' shapes need not be given.

    Attributes:
        system: whose weights.
        files: of the weights, in any order.
        starts: where dreams start: an image or a folder of them, a video with its actions in a .npy (or Oasis's
            .one_hot_actions.pt) file next to it, or a recording.
        out: folder of the world.
        resize: resize the starts' frames to the world's size; without it, another size is refused.
        size: height and width of frames in pixels; None for the published ones.
        heads: of the network's attention; None for the published number, which is then shown.
        encoder_heads: of attention in the autoencoder's first half, likewise (Oasis).
        decoder_heads: of attention in its second half, likewise (Oasis).
        actions: which of the system's action spaces the world has, if there are several.
        sampling_steps: per frame; None for the published number.
        context: past frames that it attends to, 15 or 31 in what was published (MineWorld).
        count: how many starts to cut out of a video or a recording, at most.
        seed: of their choice.
    """

    system: Annotated[Literal["oasis", "diamond", "nwm", "diffusion-forcing", "mineworld"], tyro.conf.Positional]
    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    starts: Path
    out: Path
    resize: bool = False
    size: tuple[int, int] | None = field(default=None)
    heads: int | None = None
    encoder_heads: int | None = None
    decoder_heads: int | None = None
    actions: str | None = None
    sampling_steps: int | None = None
    context: int | None = None
    count: int = 256
    seed: int = 0


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Import, arguments, name="import")
    for file in command.files:
        if not file.is_file():
            raise WeightsError(f"there is no file {file}.")
    if not command.starts.exists():
        raise DatasetError(f"there is nothing at {command.starts}; --starts names an image, a video or a recording.")

    from dreamenv.importers import Options, adapter_for, import_world

    adapter = adapter_for(command.system)
    print(f"{adapter.title}: its weights are under the licence {adapter.licence}")
    world = import_world(
        command.system,
        command.files,
        starts=command.starts,
        options=Options(
            size=command.size,
            heads=command.heads,
            encoder_heads=command.encoder_heads,
            decoder_heads=command.decoder_heads,
            actions=command.actions,
            sampling_steps=command.sampling_steps,
            context=command.context,
        ),
        resize=command.resize,
        count=command.count,
        seed=command.seed,
    )
    imported = world.record["imported"]
    for note in imported["notes"]:
        print(f"note: {in_flags(note)}")
    if not imported["rewards"]:
        teach = ", or train a reward head with importers.learn_rewards" if world.config.kind == "denoising" else ""
        print(f"It predicts no rewards: dream with reward_fn=...{teach}.")
    world.save(command.out)
    print(world)
    report_written(command.out)

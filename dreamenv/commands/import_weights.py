"""``dreamenv import``: a world from public weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dreamenv.commands.arguments import parse, report_written

__all__ = ["Import", "main"]


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a world of weights that others published. What shapes of tensors tell need not be said.

    Attributes:
        system: whose weights.
        files: of the weights, in any order.
        starts: where dreams begin: a picture or a folder of them, a film with its actions in a .npy (or Oasis's
            .one_hot_actions.pt) file beside it, or a recording.
        out: folder of the world.
        resize: bring the starts' frames to the world's size; else another size is refused.
        size: height and width of frames in pixels, if not as published.
        heads: of attention, if not as published.
        actions: which of the system's action spaces the world has, if there are several.
        passes: of the sampler per frame, if not as published.
        count: starts to cut out of a film or a recording, at most.
        seed: of their choice.
    """

    system: Annotated[Literal["oasis", "diamond", "nwm", "diffusion-forcing"], tyro.conf.Positional]
    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    starts: Path
    out: Path
    resize: bool = False
    size: tuple[int, int] | None = field(default=None)
    heads: int | None = None
    actions: str | None = None
    passes: int | None = None
    count: int = 256
    seed: int = 0


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Import, arguments, name="import")

    from dreamenv.importers import Options, adapter_for, import_world

    adapter = adapter_for(command.system)
    print(f"{adapter.title}: its weights are under the licence {adapter.licence}")
    world = import_world(
        command.system,
        command.files,
        starts=command.starts,
        options=Options(size=command.size, heads=command.heads, actions=command.actions, passes=command.passes),
        resize=command.resize,
        count=command.count,
        seed=command.seed,
    )
    told = world.record["imported"]
    for note in told["notes"]:
        print(f"note: {note}")
    if not told["rewards"]:
        print("It foretells no rewards: dream with reward_fn=..., or teach it some with importers.learn_rewards.")
    world.save(command.out)
    print(world)
    report_written(command.out)

"""``dreamenv worlds``: list the worlds in the package, with a picture each."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dreamenv.commands.arguments import parse, report_written
from dreamenv.dream.registration import dream_id
from dreamenv.metrics.verdict import fidelity_verdict
from dreamenv.shipped import DEFAULT_WORLD, shipped_worlds
from dreamenv.world_files import read_description

__all__ = ["Worlds", "describe", "main", "terminal_picture"]

_STEPS = (0, 1, 5, 15, 30, 50, 100)  # of the dream in a picture
_HELD = 4  # steps that an action of a picture is held for
_COLUMNS = 32  # of the terminal, per frame; a character shows two pixels, one above the other

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Worlds:
    """List the worlds in the package. A terminal also shows three recorded frames of each.

    Attributes:
        pictures: a folder to write a picture of each to: a dream of random actions after 0, 1, 5, 15, 30, 50 and 100
            steps.
        json: print JSON.
    """

    pictures: Path | None = None
    json: bool = False


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Worlds, arguments, name="worlds")
    facts = {name: describe(name, folder) for name, folder in shipped_worlds().items()}
    if command.json:
        print(json.dumps(facts, indent=2))
    else:
        for name, world in facts.items():
            _print(name, world)
    if command.pictures is not None:
        for name in facts:
            report_written(_write_picture(name, command.pictures / f"{name}.png"))


def describe(name: str, folder: Path) -> dict[str, Any]:
    """Return the facts of a world that ships in the package.

    Raises:
        WorldDamagedError, WorldVersionError: see `dreamenv.errors`.
    """
    values = read_description(folder, shipped_worlds())
    channels, height, width = values["spec"]["frame_shape"]
    provenance, record = values["provenance"] or {}, values.get("record", {})
    return {
        "id": dream_id(name),
        "default": name == DEFAULT_WORLD,
        "environment": provenance.get("environment_id"),
        "actions": list(provenance.get("action_names") or ()),
        "frame": [height, width, channels],
        "frames_per_second": values["spec"]["frame_rate"],
        "backbone": values["backbone"]["kind"],
        "trained_minutes": round(record.get("seconds", 0) / 60),
        "trained_by": record.get("command"),
        "megabytes": round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1),
        "worth": fidelity_verdict(values.get("metrics", {})),
    }


def terminal_picture(frames: Frames) -> str:
    """Return frames (n, h, w, c) side by side for a terminal with 24-bit colours."""
    stride = max(1, frames.shape[2] // _COLUMNS)
    small = np.broadcast_to(frames[:, ::stride, ::stride], (*frames[:, ::stride, ::stride].shape[:3], 3))
    joined = np.concatenate(list(small), axis=1)
    above, below = joined[0 : len(joined) // 2 * 2 : 2], joined[1::2]
    lines = (
        "".join("\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m\u2580".format(*a, *b) for a, b in zip(top, bottom, strict=True))
        for top, bottom in zip(above.tolist(), below.tolist(), strict=True)
    )
    return "\n".join(f"{line}\x1b[0m" for line in lines)


def _print(name: str, world: dict[str, Any]) -> None:
    height, width, channels = world["frame"]
    print(f"{name}{' (default)' if world['default'] else ''}: {world['id']}")
    print(f"  of {world['environment']}, actions {', '.join(world['actions'])}")
    print(
        f"  {height} x {width} x {channels} frames, {world['frames_per_second']:g} per second; {world['backbone']}, "
        f"{world['megabytes']} MB, trained in {world['trained_minutes']} min by: {world['trained_by']}"
    )
    print(f"  {world['worth']}")
    if sys.stdout.isatty():
        print(terminal_picture(_recorded_frames(shipped_worlds()[name])))
    print()


def _recorded_frames(folder: Path) -> Frames:
    from dreamenv.data.starts import Starts
    from dreamenv.world_files import STARTS

    frames = Starts.load(folder / STARTS).first_frames
    return frames[:: max(1, len(frames) // 3)][:3]


def _write_picture(name: str, path: Path) -> Path:
    from PIL import Image

    from dreamenv.storage import atomic_file
    from dreamenv.training.video import strip

    path.parent.mkdir(parents=True, exist_ok=True)
    picture = strip([_dream(name)], _STEPS, scale=2)
    with atomic_file(path, "the picture") as draft:
        Image.fromarray(picture.squeeze()).save(draft, format="PNG")
    return path


def _dream(name: str) -> Frames:
    """Return a recorded frame and the dream that follows it under sticky random actions, whether it ends or not."""
    import torch

    from dreamenv.dream.chunking import frame_by_frame
    from dreamenv.frames import frames_to_model, frames_to_numpy
    from dreamenv.world import World

    world = World.load(name)
    model, space = frame_by_frame(world.model), world.spec.action_space
    first = frames_to_model(world.starts.first_frames[:1])
    space.seed(0)
    packed = [world.spec.action_layout.pack(space.sample()) for _ in range(_STEPS[-1] // _HELD + 1)]
    actions = torch.from_numpy(np.repeat(np.stack(packed), _HELD, axis=0)[None])
    with torch.no_grad():
        state, frames = model.start(first, torch.zeros(1, dtype=torch.int64)), [first[:, None]]
        for step in range(_STEPS[-1]):
            imagined, state = model.imagine(state, actions[:, step : step + 1])
            assert imagined.frames is not None
            frames.append(imagined.frames)
    dreamt: Frames = frames_to_numpy(torch.cat(frames, dim=1))[0]
    return dreamt

"""``dreamenv score``: how well a world predicts a clip, in bits per frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dreamenv.commands.arguments import parse, report_written
from dreamenv.commands.clip_options import check_output, check_places, load_head
from dreamenv.errors import CompressionError, ConfigError, FrameError
from dreamenv.folders import check_world

if TYPE_CHECKING:
    from dreamenv.compression import Clip
    from dreamenv.world import World

__all__ = ["Score", "main"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Score a clip by a world: the bits that each frame costs, given those before and the actions.

    With a pixel head, the levels of all pixels, exactly, as `dreamenv compress` would write them. Without one, what the
    world itself gives a probability to: its own tokens, or pixels by a bound.

    Attributes:
        clip: folder of a recording, an .npz file with frames (t + 1, h, w, c) uint8 and actions (t, *a), or a video of
            the world's size with its actions in a .npy file next to it.
        world: folder, hf://owner/name, or the name of a world in the package.
        episode: which one of a recording.
        pixels: score pixels by the pixel head; else by the world alone.
        head: folder of the pixel head, for pixels; None for "pixel_head" in the world's folder or beside it.
        context: steps that are observed before the first frame that counts, for the world alone.
        out: JSON file to write, too; None only prints.
    """

    clip: Annotated[Path, tyro.conf.Positional]
    world: str
    episode: int = 0
    pixels: bool = False
    head: Path | None = None
    context: int = 0
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.context < 0:
            raise ConfigError(f"context must be at least 0, not {self.context}.")
        if self.pixels and self.context:
            raise ConfigError("with --pixels every frame counts, the first one too; leave --context at 0.")
        if self.head is not None and not self.pixels:
            raise ConfigError("--head scores pixels; give --pixels, too.")


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    command = parse(Score, arguments, name="score")
    check_world(command.world)
    if command.pixels:
        check_places(command.world, command.head)
    if command.out is not None:
        check_output(command.out, command.clip)

    from dreamenv.benchmarks.common import write_json
    from dreamenv.commands.places import load_world
    from dreamenv.compression import read_clip
    from dreamenv.metrics.bits import bits_per_dim

    world = load_world(command.world)
    clip = read_clip(command.clip, command.episode, world.spec)
    found = _by_pixels(command, clip, world) if command.pixels else _by_world(command, clip, world)
    bits = found["bits_per_frame"]
    print(f"{bits:,.1f} bits a frame of {found['score_of']} ({found['score_is']}), over {found['frames']} frames")
    if found["score_of"] == "pixels":
        print(f"{bits_per_dim(bits, world.spec.frame_shape):.4f} bits a value, of 8")
    if command.out is not None:
        report_written(write_json(command.out, found))


def _by_pixels(command: Score, clip: Clip, world: World) -> dict[str, Any]:
    from dreamenv.compression import ideal_bits

    bits = ideal_bits(clip, world, load_head(command.world, command.head))
    frames = len(clip.frames)
    return {"bits_per_frame": bits / frames, "score_of": "pixels", "score_is": "exact", "frames": frames}


def _by_world(command: Score, clip: Clip, world: World) -> dict[str, Any]:
    """Score by the world's own probabilities.

    Raises:
        CompressionError: it has none.
        FrameError: the clip's frames are of another size, or it has no step after its context.
    """
    import torch

    from dreamenv.capabilities import SupportsScore
    from dreamenv.frames import frames_to_model
    from dreamenv.metrics.bits import to_bits

    model, context = world.model, command.context
    if not isinstance(model, SupportsScore):
        raise CompressionError(
            f"a world of the kind {world.config.kind!r} gives frames no probability of its own. Score its pixels with "
            "--pixels, for which it needs a pixel head: dreamenv pixels"
        )
    if len(clip.actions) <= context:
        raise FrameError(f"the clip has {len(clip.actions)} steps, which is no more than the context of {context}.")
    frames = frames_to_model(clip.frames)[None]
    actions = torch.from_numpy(clip.actions)[None]
    with torch.inference_mode():
        state = model.start(frames[:, 0], torch.zeros(1, dtype=torch.int64))
        if context:
            state = model.observe(state, actions[:, :context], frames[:, 1 : context + 1])
        nats = model.score(state, actions[:, context:], frames[:, context + 1 :])
    return {
        "bits_per_frame": to_bits(float(nats.mean())),
        "score_of": model.score_of,
        "score_is": model.score_is,
        "frames": nats.shape[1],
        "bits": [to_bits(float(value)) for value in nats[0]],
    }

"""How many bits a world needs for frames that it has not seen, against lossless codecs of others, decoded and compared.

::

    python -m dreamenv.benchmarks.compression --world RUN/world --head RUN/pixel_head --data RECORDING --out result.json

Clips are whole episodes that the world was not trained on; if it was trained on another recording, of those that
`dreamenv pixels` leaves out. xz is also given all clips at once, in which it finds what they have in common.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.benchmarks.fidelity import held_out_of
from dreamenv.benchmarks.lossless_baselines import BASELINES, measure_baseline
from dreamenv.compression import Clip, TrainedHead, compress, decompress
from dreamenv.data import EpisodeDataset
from dreamenv.errors import DatasetError, DreamenvError
from dreamenv.metrics.bits import TwoPartCode, bits_per_dim
from dreamenv.world import World

__all__ = ["Compression", "main", "measure"]

_XZ, _XZ_ALL = "xz -9e, whole clip", "xz -9e, all clips at once"


@dataclass(frozen=True, kw_only=True)
class Compression:
    """Compress held-out episodes by a world and by others' codecs, and read them back.

    Attributes:
        world: the world's folder or name.
        head: the folder of its pixel head.
        data: the recording.
        out: JSON file to write.
        clips: episodes.
        max_frames: of each; longer ones are cut off.
        holdout: as of `dreamenv pixels`, where the world was trained on another recording.
        seed: of the choice of episodes.
    """

    world: str
    head: Path
    data: Path
    out: Path = Path("compression.json")
    clips: int = 4
    max_frames: int = 100
    holdout: float = 0.1
    seed: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    settings = tyro.cli(Compression, args=arguments, description=__doc__)
    results = measure(settings)
    rows = [
        (
            name,
            f"{entry['bits_per_frame']:,.0f}",
            f"{entry['bits_per_dim']:.3f}",
            f"{entry['encode_fps']:.1f}",
            f"{entry['decode_fps']:.1f}",
        )
        for name, entry in results["codecs"].items()
    ]
    print_table(("codec", "bits a frame", "bits a value", "frames/s to compress", "to decompress"), rows)
    print(f"ideal: {results['ideal_bits_per_frame']:,.0f} bits a frame; two-part code: {results['two_part']}")
    # Where the folders lie on this machine says nothing to a reader.
    shown = {
        **vars(settings), "world": Path(settings.world).name, "head": settings.head.name, "data": settings.data.name,
        "out": settings.out.name,
    }  # fmt: skip
    sys.argv[1:] = []
    print(f"wrote {write_json(settings.out, envelope('compression', results, shown))}", file=sys.stderr)


def measure(settings: Compression) -> dict[str, Any]:
    """Return bits and speed of every codec over the same clips, and what the model costs.

    Raises:
        DatasetError: the recording has no such episodes.
        DreamenvError: a codec did not give the same pixels back.
    """
    world, head = World.load(settings.world), TrainedHead.load(settings.head)
    dataset = EpisodeDataset.open(settings.data)
    held, which = held_out_of(world, dataset)
    if which == "all":
        held, which = dataset.split(settings.holdout, 0)[1], "held out from the pixel head"
    if len(held) == 0:
        raise DatasetError(f"{settings.data} has no episodes to compress.")
    chosen = np.random.default_rng(settings.seed).permutation(len(held))[: settings.clips]
    clips = []
    for row in chosen.tolist():
        episode = held[row]
        frames = episode.frames[: settings.max_frames]
        clips.append(Clip(frames=frames, actions=episode.actions[: len(frames) - 1]))
    codecs, ideal = _codecs(clips, world, head)
    count = sum(len(clip.frames) for clip in clips)
    model = sum(2 * value.numel() for value in world.model.parameters())
    ours, others = codecs["dreamenv"], {name: one for name, one in codecs.items() if name != "dreamenv"}
    code = TwoPartCode(model_bytes=model + head.bytes, bits_per_frame=ours["bits_per_frame"])
    best = min(others, key=lambda name: others[name]["bits_per_frame"])
    return {
        "codecs": codecs,
        "ideal_bits_per_frame": ideal,
        "clips": [len(clip.frames) for clip in clips],
        "frames": count,
        "episodes": held.indices[chosen].tolist(),
        "which": which,
        "two_part": {
            "world_bytes": model,
            "head_bytes": head.bytes,
            "best_other": best,
            "break_even_frames": code.break_even_frames(others[best]["bits_per_frame"]),
            "break_even_frames_xz": code.break_even_frames(codecs[_XZ]["bits_per_frame"]),
        },
        "world": world.content_hash(),
        "data": dataset.content_hash(),
        "head": head.record,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _codecs(clips: Sequence[Clip], world: World, head: TrainedHead) -> tuple[dict[str, Any], float]:
    """Return what each codec takes, and the ideal bits per frame of ours."""
    count = sum(len(clip.frames) for clip in clips)
    shape = clips[0].frames.shape[1:]
    found: dict[str, Any] = {}

    def enter(name: str, bits: float, encode: float, decode: float) -> None:
        found[name] = {
            "bits_per_frame": bits / count,
            "bits_per_dim": bits_per_dim(bits / count, shape),
            "encode_fps": count / encode,
            "decode_fps": count / decode,
        }

    bits, ideal, encode, decode = 0, 0.0, 0.0, 0.0
    for clip in clips:
        coded = compress(clip, world, head)
        began = time.perf_counter()
        again = decompress(coded.content, world, head)
        decode += time.perf_counter() - began
        if not np.array_equal(again.frames, clip.frames):
            raise DreamenvError("dreamenv is not lossless here: other pixels came back.")
        bits, ideal, encode = bits + 8 * len(coded.content), ideal + coded.ideal_bits, encode + coded.seconds
        print(f"a clip of {len(clip.frames)} frames: {8 * len(coded.content) / len(clip.frames):,.0f} bits a frame",
              file=sys.stderr)  # fmt: skip
    enter("dreamenv", bits, encode, decode)
    for name in BASELINES:
        results = [measure_baseline(name, clip.frames) for clip in clips]
        enter(
            name,
            sum(one.bits for one in results),
            sum(one.encode_seconds for one in results),
            sum(one.decode_seconds for one in results),
        )
    everything = measure_baseline(_XZ, np.concatenate([clip.frames for clip in clips]))
    enter(_XZ_ALL, everything.bits, everything.encode_seconds, everything.decode_seconds)
    return found, ideal / count


if __name__ == "__main__":
    main()

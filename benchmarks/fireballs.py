"""Count small fireballs in dreams of TakeCover, a few steps in, against reality.

::

    python -m dreamenv.benchmarks.fireballs --data runs/compare_worlds/take_cover/recording \
        --worlds runs/compare_worlds/take_cover/worlds/diffusion_forcing/world

PSNR hardly depends on them, but the score does. Dreams start from held-out frames with a few bright pixels; the result
is the share of dreams that still have any after so many steps under the recorded actions. For worlds that sample
latents, the real frames reconstructed by their codec are counted too. It takes a minute per world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from torch import Tensor

from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.codecs.codec import Codec
from dreamenv.data import Episode, EpisodeDataset
from dreamenv.dream.chunking import frame_by_frame
from dreamenv.errors import ConfigError, DatasetError
from dreamenv.frames import frames_to_model, frames_to_numpy
from dreamenv.training import TrainConfig
from dreamenv.world import World

__all__ = ["Fireballs", "bright", "main", "measure"]

_FEW = (2, 10)  # bright pixels of a fireball that is still far away
_CONTEXT = 20  # frames that are observed first


@dataclass(frozen=True, kw_only=True)
class Fireballs:
    """What to measure.

    Attributes:
        data: the recording; the part that training holds out is used.
        worlds: folders of worlds.
        steps: into the dream.
        starts: how many dreams, at most.
        threads: of torch.
        out: JSON file to write; nothing is written without it.
    """

    data: Path
    worlds: tuple[Path, ...]
    steps: tuple[int, ...] = (1, 2, 3, 5, 8)
    starts: int = 64
    threads: int = 1
    out: Path | None = None

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1:
            raise ConfigError(f"steps must be at least 1, at least one, not {self.steps}.")
        if self.starts < 1:
            raise ConfigError(f"starts must be at least 1, not {self.starts}.")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Count from the command line."""
    settings = tyro.cli(Fireballs, args=arguments, description=__doc__)
    torch.set_num_threads(settings.threads)
    results = measure(settings)
    print_table(
        ("share with a fireball after", *map(str, settings.steps)),
        [(name, *(f"{value:.0%}" for value in row["share"])) for name, row in results.items()],
    )
    values = envelope("fireballs", results, asdict(settings))
    if settings.out is not None:
        print(f"Wrote {write_json(settings.out, values)}.")
    return values


def measure(settings: Fireballs) -> dict[str, dict[str, list[float]]]:
    """Return the ``share`` of dreams with a fireball and the mean bright ``pixels``, by step, of each world.

    Raises:
        DatasetError: no held-out frame has a fireball.
    """
    held_out = EpisodeDataset.open(settings.data).split(TrainConfig().holdout, TrainConfig().seed)[1]
    last = max(settings.steps)
    frames, actions = _starts(held_out, last, settings.starts)
    after = [step - 1 for step in settings.steps]
    results = {"reality": _count(frames[:, _CONTEXT + 1 :][:, after])}
    observed = frames_to_model(frames, channels_last=True)
    taken = torch.from_numpy(actions)
    for path in settings.worlds:
        world, name = World.load(path), path.resolve().parent.name if path.name == "world" else path.name
        with torch.inference_mode():
            codec = getattr(world.model, "codec", None)
            if isinstance(codec, Codec) and codec.stride == 1:
                coded = codec.decode(codec.encode(observed[:, _CONTEXT + 1 :]))
                results[f"{name}, codec alone"] = _count(frames_to_numpy(coded)[:, after])
            results[name] = _count(frames_to_numpy(_dream(world, observed, taken))[:, after])
    return results


def bright(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count pixels as bright and yellow as a fireball, (...), in frames (..., h, w, 3)."""
    red, green, blue = (frames[..., i].astype(int) for i in range(3))
    matches = (red > 190) & (green > 150) & (blue < 210) & (red - blue > 40)
    return matches.sum((-1, -2))  # type: ignore[no-any-return]


def _starts(episodes: EpisodeDataset, last: int, limit: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Return frames (n, context + 1 + last, h, w, 3), and the actions between them, of random starts."""
    places: list[tuple[Episode, int]] = []
    for index in range(len(episodes)):
        episode = episodes[index]
        count = bright(np.asarray(episode.frames))
        for now in range(_CONTEXT, len(episode.actions) - last):
            if _FEW[0] <= count[now] <= _FEW[1] and count[now - 1]:
                places.append((episode, now))
    if not places:
        raise DatasetError(f"no fireball is in sight in what {episodes.path} holds out; record more of TakeCover.")
    np.random.default_rng(0).shuffle(places)
    frames = [np.asarray(one.frames[now - _CONTEXT : now + last + 1]) for one, now in places[:limit]]
    actions = [np.asarray(one.actions[now - _CONTEXT : now + last]) for one, now in places[:limit]]
    return np.stack(frames), np.stack(actions)


def _dream(world: World, seen: Tensor, acted: Tensor) -> Tensor:
    """Dream from the context under the recorded actions: (n, last, c, h, w)."""
    model = frame_by_frame(world.model)
    state = model.start(seen[:, 0], torch.arange(len(seen)))
    state = model.observe(state, acted[:, :_CONTEXT], seen[:, 1 : _CONTEXT + 1])
    frames = []
    for step in range(_CONTEXT, acted.shape[1]):
        imagined, state = model.imagine(state, acted[:, step : step + 1])
        assert imagined.frames is not None
        frames.append(imagined.frames)
    return torch.cat(frames, dim=1)


def _count(frames: npt.NDArray[np.uint8]) -> dict[str, list[float]]:
    """Return share and pixels, see `measure`, of frames (n, t, h, w, 3)."""
    count = bright(frames)
    return {"share": (count >= _FEW[0]).mean(0).tolist(), "pixels": count.mean(0).tolist()}


if __name__ == "__main__":
    main()

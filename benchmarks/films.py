"""Film worlds beside reality: a video and a sheet of each, and one moving picture of all.

    python -m dreamenv.benchmarks.films --recordings take_cover=runs/take_cover my_way_home=runs/my_way_home

Writes to ``OUT``, for each world, ``NAME.mp4`` (reality left, the dream right, three held-out episodes) and
``NAME.png`` (1, 5, 15, 30, 50 and 100 steps after the dream was left to itself, reality above), and ``worlds.webp``,
which moves: above reality, below the dream of each world, under the same actions. A minute for six worlds.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tyro
from PIL import Image

from dreamenv.benchmarks.fidelity import held_out_of
from dreamenv.benchmarks.showing import CONTEXT, SHOWN_STEPS, dream_along, longest_episodes, write_strip
from dreamenv.data import EpisodeDataset
from dreamenv.errors import ConfigError
from dreamenv.storage import write_file
from dreamenv.training.video import side_by_side, write_mp4
from dreamenv.world import World

__all__ = ["Films", "main", "run"]

Frames = npt.NDArray[np.uint8]
_GAP = 2  # pixels between panels
_WHITE = 255


@dataclass(frozen=True, kw_only=True)
class Films:
    """What to film.

    Attributes:
        recordings: each as WORLD=RECORDING, a world of the package or a folder of one, and a recording of its
            environment; of that which it was trained on, only episodes held out from it are shown.
        out: folder of the films.
        episodes: filmed of each world.
        rate: frames per second of the moving picture.

    Raises:
        ConfigError: none to film, or a recording that is not given as WORLD=RECORDING.
    """

    recordings: tuple[str, ...]
    out: Path = Path("runs/films")
    episodes: int = 3
    rate: float = 10.0

    def __post_init__(self) -> None:
        if not self.recordings:
            raise ConfigError("recordings is empty; give at least one, such as take_cover=runs/data.")
        for one in self.recordings:
            if not all(one.partition("=")):
                raise ConfigError(f"recordings must be WORLD=RECORDING, such as take_cover=runs/data, not {one!r}.")
        if self.episodes < 1 or not self.rate > 0:
            raise ConfigError(f"episodes and rate must be positive, not {self.episodes} and {self.rate}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    for path in run(tyro.cli(Films, args=arguments, description=__doc__)):
        print(f"wrote {path}")


def run(settings: Films) -> list[Path]:
    """Film all worlds; return the paths of what was written.

    Raises:
        WorldNotFoundError, DatasetError: a world or recording that is not there, or has nothing held out.
    """
    written, panels = [], []
    for one in settings.recordings:
        name, _, recording = one.partition("=")
        world = World.load(name)
        held_out, _ = held_out_of(world, EpisodeDataset.open(Path(recording)))
        steps = SHOWN_STEPS[-1]
        episodes = longest_episodes(held_out, settings.episodes, CONTEXT + steps + 2)
        pairs = [dream_along(world, episode, context=CONTEXT, steps=steps) for episode in episodes]
        length = min(len(real) for real, _ in pairs)
        real, dreamt = (np.stack([pair[index][:length] for pair in pairs]) for index in (0, 1))
        place = settings.out / Path(name).name
        written.append(write_mp4(place.with_suffix(".mp4"), side_by_side(real, dreamt), world.spec.frame_rate, scale=2))
        written.append(write_strip(place.with_suffix(".png"), world, held_out, examples=settings.episodes))
        panels.append(np.concatenate((real[0], _gap(real[0], axis=1), dreamt[0]), axis=1))
    written.append(settings.out / "worlds.webp")
    write_file(written[-1], _moving(panels, settings.rate))
    return written


def _moving(panels: Sequence[Frames], rate: float) -> bytes:
    """Return videos (t, h, w, c) side by side as an endless WebP, as long as the shortest, twice as large."""
    length = min(len(panel) for panel in panels)
    row = panels[0][:length]
    for panel in panels[1:]:
        row = np.concatenate((row, _gap(row, axis=2), panel[:length]), axis=2)
    images = [Image.fromarray(frame.repeat(2, axis=0).repeat(2, axis=1)) for frame in row]
    buffer = io.BytesIO()
    motion = {"duration": round(1000 / rate), "loop": 0}
    images[0].save(buffer, "WEBP", save_all=True, append_images=images[1:], quality=80, method=4, **motion)
    return buffer.getvalue()


def _gap(frames: Frames, *, axis: int) -> Frames:
    shape = list(frames.shape)
    shape[axis] = _GAP
    return np.full(shape, _WHITE, np.uint8)


if __name__ == "__main__":
    main()

"""What the commands on clips share: which clip, which world, and where its pixel head lies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dreamenv.errors import CompressionError, ConfigError
from dreamenv.folders import check_world, find_world_folder

if TYPE_CHECKING:
    from dreamenv.compression import TrainedHead

__all__ = ["check_output", "check_places", "find_head", "load_head"]

_MANIFEST, _FOLDER = "pixel_head.json", "pixel_head"
_MANIFESTS = (_MANIFEST, "world.json", "metadata.json")


def check_places(world: str, head: Path | None) -> None:
    """Raise unless there are a world and a head, before anything slow is imported.

    Raises:
        WorldNotFoundError, WorldDamagedError, CompressionError: see `dreamenv.errors`.
    """
    check_world(world)
    if head is not None or not world.startswith("hf://"):
        find_head(world, head)


def check_output(out: Path, *sources: Path) -> None:
    """Raise unless a file may be written, before the work and not after it.

    Raises:
        ConfigError: it is a folder, a file that is read, or the description of a world, a head or a recording.
    """
    if out.is_dir():
        raise ConfigError(f"--out must be a file, and {out} is a folder.")
    if out.exists() and any(source.exists() and out.samefile(source) for source in sources):
        raise ConfigError(f"--out is {out}, which is read; it was left alone. Choose another path.")
    if out.exists() and out.name in _MANIFESTS:
        raise ConfigError(
            f"{out} describes its folder, which would be damaged; it was left alone. Choose another path."
        )


def find_head(world: str, head: Path | None) -> Path:
    """Return the folder of the head: the one given, or "pixel_head" in the world's folder or beside it.

    Raises:
        CompressionError: there is none.
    """
    folder = find_world_folder(world)
    places = (head,) if head is not None else (folder / _FOLDER, folder.parent / _FOLDER)
    for place in places:
        if (place / _MANIFEST).is_file():
            return place
    raise CompressionError(
        f"there is no pixel head at {' or '.join(map(str, places))}. Train one with: dreamenv pixels RECORDING "
        f"--world {world} --out {places[-1]}; or name one with --head."
    )


def load_head(world: str, head: Path | None) -> TrainedHead:
    """Read the head."""
    from dreamenv.compression import TrainedHead

    return TrainedHead.load(find_head(world, head))

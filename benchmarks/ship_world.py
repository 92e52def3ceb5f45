"""Make a trained world small enough to ship: half precision and fewer starts.

    python -m dreamenv.benchmarks.ship_world runs/world/world dreamenv/worlds/take_cover --command "dreamenv train ..."

How each world in the package was recorded and trained is in docs/worlds.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from dreamenv.errors import ConfigError
from dreamenv.world import World

__all__ = ["ShipWorld", "main", "ship"]


@dataclass(frozen=True, kw_only=True)
class ShipWorld:
    """Make a trained world small.

    Attributes:
        world: folder of the world.
        out: folder to write it to.
        starts: real segments to keep; a quarter of them begin an episode, as far as there are such.
        command: what recorded and trained it, for its record.
        limit: largest size of the folder, in megabytes (10**6 bytes).
    """

    world: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    command: str
    starts: int = 32
    limit: float = 7.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    config = tyro.cli(ShipWorld, args=arguments, description=__doc__)
    size = ship(config)
    print(f"wrote {config.out} ({size / 1e6:.1f} MB)")


def ship(config: ShipWorld) -> int:
    """Write the small world; return its size in bytes.

    Raises:
        ConfigError: it is larger than the limit.
    """
    world = World.load(config.world)
    begins = world.starts.at_episode_start
    beginnings = np.flatnonzero(begins)[: config.starts // 4]
    others = np.flatnonzero(~begins)[: config.starts - len(beginnings)]
    small = World(
        world.model,
        world.config,
        world.starts[np.concatenate((beginnings, others))],
        world.provenance,
        {**world.record, "command": config.command},
        world.metrics,
    )
    with tempfile.TemporaryDirectory() as draft:  # what is too large replaces nothing
        size = _saved_size(small, Path(draft) / "world")
    if size > config.limit * 1e6:
        raise ConfigError(
            f"{config.world} would have {size / 1e6:.1f} MB, more than {config.limit}: keep fewer starts."
        )
    return _saved_size(small, config.out)


def _saved_size(world: World, folder: Path) -> int:
    world.save(folder, half=True)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()

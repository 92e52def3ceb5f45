"""Compare imported worlds with the public programs: outputs and speed.

::

    python -m dreamenv.benchmarks.peers diamond --peer PATH                    # the same outputs, in miniature
    python -m dreamenv.benchmarks.peers diamond --peer PATH --full --speed     # at the published size, and how fast
    python -m dreamenv.benchmarks.peers diamond --peer PATH --full --speed --no-parity --device cuda --compile

PATH is a copy of the public repository; nothing of it is part of this one. Weights are random and the same on both
sides. Differences are relative to the largest value, in float32 on the processor. Speeds are taken in turn, on the same
weights: the public code in the precision that it takes on that device, ours in float32, in bfloat16, and compiled.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.benchmarks.peers.common import Where
from dreamenv.devices import find_device
from dreamenv.errors import ConfigError

__all__ = ["Peers", "main"]


@dataclass(frozen=True, kw_only=True)
class Peers:
    """What to compare.

    Attributes:
        system: whose program.
        peer: folder of the public repository.
        full: at the published size too; needs up to 8 GiB of memory, and minutes.
        speed: time both.
        parity: compare outputs, on the processor.
        device: what both are timed on: "cpu", "cuda", ...
        compile: time ours as `torch.compile` makes it, too.
        threads: of torch.
        out: JSON file to write; nothing is written without it.
    """

    system: Annotated[Literal["oasis", "diamond", "nwm", "diffusion-forcing", "iris"], tyro.conf.Positional]
    peer: Path
    full: bool = False
    speed: bool = False
    parity: bool = True
    device: str = "cpu"
    compile: bool = False
    threads: int = 2
    out: Path | None = None

    def __post_init__(self) -> None:
        if not self.peer.is_dir():
            raise ConfigError(f"there is no folder {self.peer}; --peer names a copy of the public repository.")
        if self.threads < 1:
            raise ConfigError(f"threads must be at least 1, not {self.threads}.")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare, print and write."""
    settings = tyro.cli(Peers, args=arguments, description=__doc__)
    torch.set_num_threads(settings.threads)
    where = Where(device=find_device(settings.device), compile=settings.compile)
    peer = importlib.import_module(f"dreamenv.benchmarks.peers.{settings.system.replace('-', '_')}")
    results: dict[str, Any] = {}
    if settings.parity:
        results["parity"] = peer.parity(settings.peer.resolve(), full=settings.full)
        print_table(
            ("what", "size", "parameters", "relative difference"),
            [tuple(row[name] for name in ("what", "size", "parameters", "relative_difference"))
             for row in results["parity"]],
        )  # fmt: skip
    if settings.speed:
        results["speed"] = peer.speed(settings.peer.resolve(), full=settings.full, where=where)
        print()
        print_table(("what", "value"), _flat(results["speed"]))
    values = envelope("peers", results, asdict(settings))
    if settings.out is not None:
        print(f"Wrote {write_json(settings.out, values)}.")
    return values


def _flat(values: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of nested values, by their path."""
    if isinstance(values, dict):
        return [leaf for key, value in values.items() for leaf in _flat(value, f"{name} {key}".strip())]
    if isinstance(values, list | tuple) and any(isinstance(one, dict | list | tuple) for one in values):
        return [leaf for key, value in enumerate(values) for leaf in _flat(value, f"{name} {key}".strip())]
    return [(name, values)]


if __name__ == "__main__":
    main()

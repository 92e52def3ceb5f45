"""From files of published weights to a world, and back."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import torch

from dreamenv.data.starts import Starts
from dreamenv.errors import ConfigError, UnknownNameError, WeightsError
from dreamenv.importers.adapter import Adapter, Options
from dreamenv.importers.checkpoints import read_tensors
from dreamenv.importers.starts import read_starts
from dreamenv.storage import atomic_file, file_digest, write_tensors
from dreamenv.world import World

__all__ = ["adapter_for", "export_world", "import_world", "systems"]

_ADAPTERS = {
    "diamond": "dreamenv.importers.diamond:DiamondAdapter",
    "diffusion-forcing": "dreamenv.importers.diffusion_forcing:DiffusionForcingAdapter",
    "mineworld": "dreamenv.importers.mineworld_world:MineWorldAdapter",
    "nwm": "dreamenv.importers.nwm:NWMAdapter",
    "oasis": "dreamenv.importers.oasis:OasisAdapter",
}


def systems() -> tuple[str, ...]:
    """Return the names of the systems whose weights can be imported."""
    return tuple(_ADAPTERS)


def adapter_for(system: str) -> Adapter:
    """Return what reads and writes a system's weights.

    Raises:
        UnknownNameError: no such system.
    """
    if system not in _ADAPTERS:
        raise UnknownNameError("system to import", system, _ADAPTERS)
    module, name = _ADAPTERS[system].split(":")
    adapter: Adapter = getattr(importlib.import_module(module), name)()
    return adapter


def import_world(
    system: str,
    files: Sequence[str | Path],
    *,
    starts: Starts | str | Path,
    options: Options | None = None,
    resize: bool = False,
    count: int = 256,
    seed: int = 0,
) -> World:
    """Make a world of published weights.

    Args:
        system: one of `systems`.
        files: of its weights, in any order.
        starts: where dreams begin, see `dreamenv.importers.starts.read_starts`.
        options: what the tensors' shapes do not say.
        resize: bring the starts' frames to the world's size.
        count: starts to cut out of a video or a recording, at most.
        seed: of their choice.

    Returns:
        The world. Its record has the licence of the weights and the files' hashes.

    Raises:
        WeightsError: files that are not this system's weights, or not whole.
        DatasetError, FrameError, ActionError: starts that cannot be read, or do not fit.
        ConfigError: options that cannot work.
    """
    adapter = adapter_for(system)
    if not files:
        raise WeightsError(f"no files were named. {adapter.title}'s weights are in {adapter.source}.")
    given = {name for name, value in vars(options or Options()).items() if value is not None}
    for name in sorted(given - set(adapter.options)):
        raise ConfigError(
            f"{name} has no effect on {adapter.title}, which takes {', '.join(adapter.options)}; leave {name} out."
        )
    read = [read_tensors(file, adapter.prefixes) for file in files]
    architecture = adapter.read(read, options or Options())
    model = adapter.load(architecture)
    if not isinstance(starts, Starts):
        starts = read_starts(starts, model.spec, resize=resize, count=count, seed=seed)
    if starts.first_frames.shape[1:] != (*model.spec.frame_shape[1:], model.spec.frame_shape[0]):
        raise ConfigError(
            f"the starts' frames are {starts.first_frames.shape[1:]}, and the world's {model.spec.frame_shape}."
        )
    record = {
        "imported": {
            "system": adapter.name,
            "title": adapter.title,
            "licence": adapter.licence,
            "source": adapter.source,
            "files": {Path(file).name: file_digest(Path(file)) for file in files},
            "rewards": architecture.rewards,
            "notes": list(architecture.notes),
        }
    }
    return World(model, architecture.config, starts, architecture.provenance, record)


def export_world(world: World, folder: str | Path, system: str | None = None) -> list[Path]:
    """Write a world's weights as its system publishes them.

    Args:
        world: that was imported, and perhaps trained on.
        folder: to write into.
        system: one of `systems`; None takes what the world's record says.

    Returns:
        The files.

    Raises:
        ConfigError: the world was not imported, and no system is named.
        StorageError: the disk refused.
    """
    name = system or world.record.get("imported", {}).get("system")
    if name is None:
        raise ConfigError("this world was not imported from published weights; name the system whose form they take.")
    folder, written = Path(folder), []
    for file, tensors in adapter_for(name).write(world).items():
        with atomic_file(folder / file, "the weights") as draft:
            if draft.suffix == ".safetensors":
                write_tensors(draft, tensors)
            else:
                torch.save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}, draft)
        written.append(folder / file)
    return written

"""Checkpoints: everything a run needs to go on exactly where it stood, without pickle.

A checkpoint is a folder ``step-00001500`` of ``model.safetensors``, ``optimizer.safetensors`` (optimiser states,
weight averages and random streams as flat tensors) and ``state.json`` (where the run stands, and the digests of the
two). It is written under another name and renamed, so a killed run leaves it whole or not at all; the newest two are
kept, so a disk that lies about what it wrote costs one interval.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamenv.errors import CheckpointError, StorageError

__all__ = ["Checkpoint", "Checkpoints", "flatten_optimizer", "restore_optimizer"]

_VERSION = 1
_KEPT = 2
_FILES = ("model.safetensors", "optimizer.safetensors")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        step: optimiser steps done in the whole run.
        model: name -> tensor, the model's state dict.
        extra: name -> tensor, what else the run needs.
        state: JSON values.
    """

    step: int
    model: Mapping[str, Tensor]
    extra: Mapping[str, Tensor]
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, then drop all but the newest two.

        Raises:
            StorageError: the disk refused; the earlier checkpoints are untouched.
        """
        target = self.folder / f"step-{checkpoint.step:08d}"
        draft = self.folder / f".{target.name}.part"
        try:
            for litter in self.folder.glob(".step-*.part"):  # of a run that was killed while writing
                shutil.rmtree(litter, ignore_errors=True)
            draft.mkdir(parents=True)
            for name, tensors in zip(_FILES, (checkpoint.model, checkpoint.extra), strict=True):
                save_file(_storable(tensors), draft / name)
            state = {
                "format_version": _VERSION,
                "step": checkpoint.step,
                "sha256": {name: _digest(draft / name) for name in _FILES},
                **checkpoint.state,
            }
            (draft / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
            for path in (*draft.iterdir(), draft):
                _flush(path)
            if target.exists():  # the same step again, after going back to an earlier checkpoint
                shutil.rmtree(target)
            draft.rename(target)
            _flush(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise StorageError(
                f"could not write the checkpoint {target}: {error}. Free some space and run again: it resumes from "
                f"{'the checkpoint before' if self._found() else 'the start'}."
            ) from error
        for old in self._found()[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def latest(self) -> Checkpoint | None:
        """Read the newest checkpoint that is whole; None if there never was one.

        Raises:
            CheckpointError: there are checkpoints but none is whole, or they are of a newer dreamenv.
        """
        problems = []
        for path in reversed(self._found()):
            try:
                return _read(path)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                if isinstance(error, CheckpointError):
                    raise
                problems.append(f"{path.name}: {error}")
        if problems:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is whole ({'; '.join(problems)}). Delete the folder or train with "
                "resume=False to begin anew."
            )
        return None

    def clear(self) -> None:
        """Delete all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())


def flatten_optimizer(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as tensors named ``optimizer/<name>/<parameter index>/<key>``."""
    return {
        f"optimizer/{name}/{index}/{key}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
    }


def restore_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `flatten_optimizer` returned."""
    prefix = f"optimizer/{name}/"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, entry = key.removeprefix(prefix).split("/")
            parameter = parameters[int(index)]
            # Fused optimisers read moments in the parameter's own order in memory, which may be channels last.
            like = torch.empty_like(parameter, dtype=value.dtype).copy_(value) if value.ndim else value
            state.setdefault(int(index), {})[entry] = like
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _read(path: Path) -> Checkpoint:
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state["format_version"] > _VERSION:
        raise CheckpointError(f"{path} was written by a newer dreamenv (format {state['format_version']}). Upgrade.")
    for name in _FILES:
        if _digest(path / name) != state["sha256"][name]:
            raise ValueError(f"{name} is cut short or altered")
    return Checkpoint(
        step=state["step"], model=load_file(path / _FILES[0]), extra=load_file(path / _FILES[1]), state=state
    )


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move to the CPU; tensors that share memory are copied apart, as the format demands."""
    seen: set[int] = set()
    storable = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.numel() and value.untyped_storage().data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        storable[name] = value
    return storable


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Have the disk really write a file or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

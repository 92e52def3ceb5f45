"""Checkpoints, without pickle: everything a run needs to resume exactly. Worlds and agents use the same format.

A checkpoint is a folder ``step-00001500`` of safetensors files and ``state.json``, which holds the progress of the run
and the digests of all files. It is written atomically; the newest two are kept, and a damaged one is skipped in favour
of the one before, so a corrupted write costs one interval.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamenv.errors import CheckpointDamagedError, CheckpointError
from dreamenv.storage import FolderFormat, read_tensors, refuse_malformed, write_tensors

__all__ = ["Checkpoint", "Checkpoints", "flatten_optimizer", "read_checkpoint", "restore_optimizer"]

_KEEP = 2
_REMEDY = "Delete this checkpoint to resume from the one before."
_FORMAT = FolderFormat(
    kind="checkpoint",
    manifest="state.json",
    version=1,
    missing=CheckpointDamagedError,
    damaged=CheckpointDamagedError,
    newer=CheckpointError,
    remedy=_REMEDY,
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        step: progress of the run: a trainer counts optimiser steps, an agent environment steps.
        tensors: file -> name -> tensor, such as "model" -> the model's state dict.
        state: JSON values.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: of the checkpoints; created with the first of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint; delete those of later steps, which the run has abandoned, and all but the newest two.

        Raises:
            StorageError: the disk refused; the earlier checkpoints are untouched.
        """
        for leftover in self.folder.glob(".step-*"):  # of a run that was killed while writing
            shutil.rmtree(leftover, ignore_errors=True)
        path = self.folder / f"step-{checkpoint.step:08d}"

        def fill(draft: Path) -> dict[str, Any]:
            for name, tensors in checkpoint.tensors.items():
                write_tensors(draft / f"{name}.safetensors", tensors)
            return {"step": checkpoint.step, "state": checkpoint.state}

        if path.exists() and not (path / _FORMAT.manifest).exists():
            shutil.rmtree(path, ignore_errors=True)  # damaged, and skipped
        _FORMAT.write(path, fill)
        earlier = [other for other in self._folders() if _step(other) <= checkpoint.step]
        for old in self._folders():
            if old not in earlier[-_KEEP:]:
                shutil.rmtree(old, ignore_errors=True)
        return path

    def latest(self) -> Checkpoint | None:
        """Read the newest intact checkpoint; None if there never was one.

        Warns of damaged ones that are newer.

        Raises:
            CheckpointDamagedError: there are checkpoints but none is intact.
            CheckpointError: the newest intact one is of a newer dreamenv.
        """
        path = self.newest()
        return None if path is None else read_checkpoint(path)

    def newest(self) -> Path | None:
        """Return the folder of the newest intact checkpoint, see `latest`."""
        problems: list[str] = []
        for path in reversed(self._folders()):
            try:
                _FORMAT.read(path)
            except CheckpointDamagedError as error:
                problems.append(str(error).removesuffix(_REMEDY).strip())
                continue
            if problems:
                warnings.warn(f"resuming from {path}, the newest intact one: {' '.join(problems)}", stacklevel=3)
            return path
        if problems:
            raise CheckpointDamagedError(
                f"no checkpoint in {self.folder} is intact: {' '.join(problems)} Delete the folder, or run with "
                "resume=False, to start over."
            )
        return None

    def clear(self) -> None:
        """Delete all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        folders = (path for path in self.folder.glob("step-*") if path.is_dir() and path.name[5:].isdigit())
        return sorted(folders, key=_step)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint in a folder.

    Raises:
        CheckpointDamagedError: a file is missing, cut short or altered.
        CheckpointError: it is of a newer dreamenv.
    """
    values = _FORMAT.read(path)
    with refuse_malformed(CheckpointDamagedError, str(path), _REMEDY):
        files = [path / name for name in values["files"]]
        tensors = {file.stem: read_tensors(file, CheckpointDamagedError, _REMEDY) for file in files}
        return Checkpoint(step=int(values["step"]), tensors=tensors, state=dict(values["state"]))


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def flatten_optimizer(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as tensors named ``optimizer/<name>/<parameter index>/<key>``."""
    return {
        f"optimizer/{name}/{index}/{key}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
    }


def restore_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load into an optimiser the state that `flatten_optimizer` returned."""
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

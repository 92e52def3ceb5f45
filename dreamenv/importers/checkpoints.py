"""Reading published weights: tensors by name, and nothing else that a file may hold is ever run."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dreamenv.errors import WeightsError

__all__ = ["read_tensors"]

_INSIDE = ("ema", "state_dict", "model", "module")
"""Entries of a checkpoint under which the weights may lie, in this order; an average of them is what is published."""

_COMPILED = re.compile(r"(^|\.)_orig_mod\.")


def read_tensors(path: str | Path, prefixes: Iterable[str] = ()) -> dict[str, Tensor]:
    """Read the tensors of a file: ``.safetensors``, or what ``torch.save`` wrote.

    Prefixes that compiling and training leave in names (``_orig_mod.``, ``module.``) are taken away.

    Args:
        path: the file.
        prefixes: of which one is taken away where a name begins with it; if any name does, the others are left out.

    Raises:
        WeightsError: there is no such file, it is cut short or damaged, it holds more than tensors, or no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no file {path}.")
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    names = {_COMPILED.sub(r"\1", name): tensor for name, tensor in tensors.items()}
    if names and all(name.startswith("module.") for name in names):
        names = {name.removeprefix("module."): tensor for name, tensor in names.items()}
    for prefix in prefixes:
        within = {name.removeprefix(prefix): tensor for name, tensor in names.items() if name.startswith(prefix)}
        if within:
            return within
    return names


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}). Download it again, whole.") from error


def _pickled(path: Path) -> dict[str, Tensor]:
    try:
        # Arguments of a training script often lie next to the weights: a namespace of plain values harms nobody.
        with torch.serialization.safe_globals([argparse.Namespace]):
            values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = re.search(r"(?:GLOBAL|global) (\S+)", str(error))
        more = f"also {what.group(1)}" if what else "more than tensors"
        raise WeightsError(
            f"{path} holds {more}, and reading that could run any code. If you trust where it is from, write its "
            "tensors alone with: python -c \"import torch; c = torch.load('IN', weights_only=False); "
            "torch.save(c.get('ema', c.get('state_dict', c)), 'OUT')\""
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise WeightsError(f"{path} cannot be read ({first}). Download it again, whole.") from error
    found = _tensors_in(values)
    if not found:
        raise WeightsError(f"{path} holds no tensors by name, but {type(values).__name__}.")
    return found


def _tensors_in(values: Any) -> dict[str, Tensor]:
    if not isinstance(values, Mapping):
        return {}
    for inside in _INSIDE:
        found = _tensors_in(values.get(inside))
        if found:
            return found
    return {str(name): value for name, value in values.items() if isinstance(value, Tensor)}

"""A tokenizer on disk, by itself: a folder with its configuration and its weights.

A world is saved with its tokenizer; this is for those that were imported or trained alone, to be built upon.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dreamenv.codecs.tokenizer import Tokenizer, TokenizerConfig
from dreamenv.errors import WorldDamagedError, WorldNotFoundError, WorldVersionError
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.storage import FolderFormat, read_tensors, refuse_malformed, write_tensors

__all__ = ["load_tokenizer", "save_tokenizer"]

_WEIGHTS = "tokenizer.safetensors"
_REMEDY = "Restore it from a copy, or save the tokenizer again."
_FORMAT = FolderFormat(
    kind="tokenizer",
    manifest="tokenizer.json",
    version=1,
    missing=WorldNotFoundError,
    damaged=WorldDamagedError,
    newer=WorldVersionError,
    remedy=_REMEDY,
)


def save_tokenizer(tokenizer: Tokenizer, path: str | Path) -> None:
    """Write a tokenizer into a folder, in one step.

    Raises:
        StorageError: the disk refused; what was there is untouched.
    """

    def fill(draft: Path) -> dict[str, Any]:
        write_tensors(draft / _WEIGHTS, tokenizer.state_dict())
        return {
            "config": part_to_json(tokenizer.config),
            "frame_shape": list(tokenizer.frame_shape),
            "action_size": tokenizer.action_size,
        }

    _FORMAT.write(Path(path), fill)


def load_tokenizer(path: str | Path, device: torch.device | str = "cpu") -> Tokenizer:
    """Read what `save_tokenizer` wrote.

    Raises:
        WorldNotFoundError: there is none.
        WorldDamagedError: a file is missing or was altered, or the weights are not of that configuration.
        WorldVersionError: it was written by a newer dreamenv.
    """
    path = Path(path)
    values = _FORMAT.read(path)
    with refuse_malformed(WorldDamagedError, str(path), _REMEDY):
        config = part_from_json(values["config"])
        if not isinstance(config, TokenizerConfig):
            raise ValueError(f"{config.kind!r} is no tokenizer")
        channels, height, width = map(int, values["frame_shape"])
        tokenizer = config.build((channels, height, width), int(values["action_size"]))
        tensors = read_tensors(path / _WEIGHTS, WorldDamagedError, _REMEDY)
        tokenizer.load_state_dict(tensors, strict=True)
    return tokenizer.to(device).eval().requires_grad_(False)

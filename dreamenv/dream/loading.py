"""From the name of a world to a model that is ready to dream."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch

from dreamenv.capabilities import SupportsBfloat16, SupportsCompile
from dreamenv.dream.chunking import frame_by_frame
from dreamenv.dream.config import DreamConfig, require
from dreamenv.world import World
from dreamenv.world_model import WorldModel

__all__ = ["compiled", "find_world", "in_bfloat16", "prepare_model"]


def find_world(world: World | str | Path | None, device: str | torch.device | None) -> World:
    """Return the world, loaded if it is named; None is the one that ships with dreamenv.

    Raises:
        ConfigError: it is neither a world nor the name of one.
    """
    if isinstance(world, World):
        return world
    require(
        world is None or isinstance(world, str | os.PathLike),
        f"world must be a World, or where to load one from (a path, 'hf://owner/name'), not {world!r}.",
    )
    return World.default(device or "cpu") if world is None else World.load(world, device or "cpu")


def prepare_model(world: World, config: DreamConfig, device: torch.device) -> WorldModel:
    """Return a world's model as a configuration wants it, on the device, imagining frame by frame.

    The world itself is left as it is, but for evaluation mode.

    Raises:
        ConfigError: a precision, or compilation, that the model does not support.
    """
    model: Any = world.model
    if device != world.device:
        model = copy.deepcopy(model).to(device)
    if config.precision == "bfloat16":
        model = in_bfloat16(model)
    model.eval()
    return frame_by_frame(compiled(model) if config.compile else model)


def in_bfloat16(model: Any) -> Any:
    """Return a copy of the model with its weights rounded to bfloat16.

    Raises:
        ConfigError: the model does not support it.
    """
    require(
        isinstance(model, SupportsBfloat16),
        f"this world's model ({type(model).__name__}) cannot store its weights in bfloat16; use precision='float32'.",
    )
    model = copy.deepcopy(model)
    model.store_in_bfloat16()
    return model


def compiled(model: Any) -> Any:
    """Return a copy of the model whose networks are compiled when they are first called.

    Raises:
        ConfigError: the model does not support it.
    """
    require(
        isinstance(model, SupportsCompile),
        f"this world's model ({type(model).__name__}) has nothing to compile; use compile=False.",
    )
    model = copy.deepcopy(model)
    model.compile_networks()
    return model

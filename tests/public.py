"""Worlds of public weights in miniature, and what their tests share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dreamenv.data.starts import Starts
from dreamenv.importers.adapter import Adapter, Options, load_weights
from dreamenv.world import World
from dreamenv.world_model import WorldModelSpec

KEYS = Path(__file__).parent / "data" / "public"


def recorded(name: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes that were recorded of a published system, by name of the tensor."""
    lines = (KEYS / f"{name}_keys.txt").read_text(encoding="utf-8").split("\n")
    pairs = (line.split(" ", 1) for line in lines if line)
    return {key: tuple(int(one) for one in shape.strip("()").split(",") if one.strip()) for key, shape in pairs}


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    """Make every parameter random, so that all of them count; return the module in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 400
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
    return module.eval()


def starts_for(spec: WorldModelSpec, count: int = 2, steps: int = 3) -> Starts:
    """Return random segments."""
    random = np.random.default_rng(0)
    c, h, w = spec.frame_shape
    layout = spec.action_layout
    spec.action_space.seed(0)
    sampled = [[layout.pack(spec.action_space.sample()) for _ in range(steps)] for _ in range(count)]
    actions = np.asarray(sampled)
    return Starts(
        first_frames=random.integers(0, 256, (count, h, w, c), np.uint8),
        actions=actions.astype(layout.dtype),
        frames=random.integers(0, 256, (count, steps, h, w, c), np.uint8),
        lengths=np.full(count, steps),
        at_episode_start=np.ones(count, np.bool_),
    )


def imported(adapter: Adapter, files: list[dict[str, Tensor]], options: Options | None = None) -> World:
    """Make a world of tensors."""
    found = adapter.read(files, options or Options())
    return World(
        load_weights(found), found.config, starts_for(found.spec), record={"imported": {"system": adapter.name}}
    )


def without(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    """Return the tensors but for some."""
    return {name: one for name, one in tensors.items() if name not in names}


def changed(world: World, **settings: object) -> World:
    """Return an untrained world with other settings."""
    config = dataclasses.replace(world.config, **settings)  # type: ignore[type-var]
    return World(config.build(world.spec), config, world.starts)

"""Reading the settings of a dream: each is turned into what is used, or refused with what would do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import AutoresetMode

from dreamenv.errors import ConfigError
from dreamenv.nn.precision import has_bfloat16
from dreamenv.world import World
from dreamenv.world_model import SupportsBfloat16, SupportsCompile

__all__ = ["compiled", "find_world", "read_autoreset_mode", "read_temperature", "require", "with_precision"]


def find_world(world: World | str | Path | None, device: str | torch.device | None) -> World:
    """Return the world, loaded if it is named; None is the one that ships with dreamenv."""
    if isinstance(world, World):
        return world
    return World.default(device or "cpu") if world is None else World.load(world, device or "cpu")


_ROWS_FOR_BFLOAT16 = {"cpu": 2}  # a single row's products are faster in float32 there, by a third


def with_precision(model: Any, precision: str, device: torch.device, rows: int) -> Any:
    """Return the model, or a copy of it with rounded weights; "auto" takes what is faster for so many rows."""
    require(
        precision in ("auto", "float32", "bfloat16"),
        f"precision must be 'auto', 'float32' or 'bfloat16', not {precision!r}.",
    )
    can = isinstance(model, SupportsBfloat16)
    require(
        precision != "bfloat16" or can,
        f"this world's model ({type(model).__name__}) cannot store its weights in bfloat16; use precision='float32'.",
    )
    if precision == "float32" or not can:
        return model
    if precision == "auto" and (not has_bfloat16(device.type) or rows < _ROWS_FOR_BFLOAT16.get(device.type, 1)):
        return model
    model = copy.deepcopy(model)
    model.store_in_bfloat16()
    return model


def compiled(model: Any) -> Any:
    """Return a copy of the model whose networks are compiled when they are first called."""
    require(
        isinstance(model, SupportsCompile),
        f"this world's model ({type(model).__name__}) has nothing to compile; use compile=False.",
    )
    model = copy.deepcopy(model)
    model.compile_networks()
    return model


def read_temperature(temperature: float | tuple[float, float]) -> tuple[float, float]:
    """Return the lowest and the highest temperature."""
    low, high = (temperature, temperature) if isinstance(temperature, int | float) else temperature
    require(0 <= low <= high < float("inf"), f"temperature must be at least 0, low <= high, not {temperature}.")
    return float(low), float(high)


def read_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Return the mode of that name."""
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        names = [known.value for known in AutoresetMode]
        raise ConfigError(f"autoreset_mode must be one of {names}, not {mode!r}.") from error


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)

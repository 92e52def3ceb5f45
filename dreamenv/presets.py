"""Backbones and their presets by name.

A preset is a function that returns the configuration of a backbone. A backbone's module of presets lists them in a
table, ``PRESETS``, by name, the default first; it is imported when it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from dreamenv.errors import ConfigError, UnknownNameError
from dreamenv.world_model import BackboneConfig

__all__ = ["backbone_names", "make_config", "preset_names", "register_backbone"]

_BACKBONES = {
    "denoising": "dreamenv.backbones.denoising.presets",
    "grid_rssm": "dreamenv.backbones.grid_rssm.presets",
    "persistence": "dreamenv.backbones.persistence",
    "rssm": "dreamenv.backbones.rssm.presets",
    "token_world": "dreamenv.backbones.tokens.presets",
}
"""Name -> module with a table ``PRESETS``."""


def register_backbone(name: str, module: str) -> None:
    """Add a backbone of another package.

    Args:
        name: how it is asked for.
        module: a module with a table ``PRESETS``, name -> function that returns a configuration, the default first.

    Raises:
        ConfigError: the name is taken.
    """
    if _BACKBONES.setdefault(name, module) != module:
        raise ConfigError(f"a backbone named {name!r} is registered already, from {_BACKBONES[name]}.")


def backbone_names() -> list[str]:
    """Return the names of all registered backbones."""
    return sorted(_BACKBONES)


def preset_names(backbone: str) -> tuple[str, ...]:
    """Return the presets of a backbone, the default first.

    Raises:
        UnknownNameError: no such backbone.
    """
    return tuple(_presets(backbone))


def make_config(backbone: str, preset: str | None = None, **settings: Any) -> BackboneConfig:
    """Return a preset, the default if none is named, with single settings replaced.

    Raises:
        UnknownNameError: no such backbone, preset or setting.
        ConfigError: a value that cannot work.
    """
    presets = _presets(backbone)
    chosen = next(iter(presets)) if preset is None else preset
    if not isinstance(chosen, str) or chosen not in presets:
        raise UnknownNameError(f"preset of backbone {backbone!r}", chosen, presets)
    return dataclasses.replace(presets[chosen](), **settings)


def _presets(backbone: str) -> Mapping[str, Callable[[], BackboneConfig]]:
    if not isinstance(backbone, str) or backbone not in _BACKBONES:
        raise UnknownNameError("backbone", backbone, _BACKBONES)
    presets: Mapping[str, Callable[[], BackboneConfig]] = importlib.import_module(_BACKBONES[backbone]).PRESETS
    return presets

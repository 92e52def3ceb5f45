"""The backbones by name: one explicit table from name to configuration class, imported only when asked for.

A backbone's module offers a frozen dataclass, its configuration, with ``build(spec) -> WorldModel``, and its presets as
functions that return such a configuration.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, Protocol

from dreamenv.errors import ConfigError, UnknownNameError
from dreamenv.world_model import WorldModel, WorldModelSpec

__all__ = [
    "BackboneConfig",
    "backbone_names",
    "config_from_json",
    "config_to_json",
    "make_config",
    "preset_names",
    "register_backbone",
]


class BackboneConfig(Protocol):
    """The settings of a backbone: a frozen, keyword-only dataclass of JSON values."""

    def build(self, spec: WorldModelSpec) -> WorldModel:
        """Make the untrained model."""
        ...


_BACKBONES: dict[str, tuple[str, tuple[str, ...]]] = {
    # name: ("module:configuration class", presets, first is the default)
    "denoising": (
        "dreamenv.backbones.denoising.config:DenoisingConfig",
        ("small", "tiny", "diamond", "diffusion_forcing", "chunkwise"),
    ),
    "persistence": ("dreamenv.backbones.persistence:PersistenceConfig", ()),
    "rssm": ("dreamenv.backbones.rssm.config:RSSMConfig", ("small", "tiny", "base")),
}


def register_backbone(name: str, path: str, presets: tuple[str, ...] = ()) -> None:
    """Add a backbone of your own.

    Args:
        name: how it is asked for.
        path: "module:ConfigClass"; presets are functions of that module.
        presets: their names, the default first.
    """
    if name in _BACKBONES and _BACKBONES[name] != (path, presets):
        raise ConfigError(f"a backbone named {name!r} is registered already, as {_BACKBONES[name][0]}.")
    _BACKBONES[name] = (path, presets)


def backbone_names() -> list[str]:
    """Return the names of all registered backbones."""
    return sorted(_BACKBONES)


def preset_names(name: str) -> tuple[str, ...]:
    """Return the presets of a backbone, the default first."""
    return _entry(name)[1]


def make_config(name: str, preset: str | None = None, **settings: Any) -> BackboneConfig:
    """Make the configuration of a backbone: a preset, with single settings replaced.

    Raises:
        UnknownNameError: no such backbone or preset.
        ConfigError: no such setting, or a value that cannot work.
    """
    path, presets = _entry(name)
    module, config_class = path.split(":")
    if preset is not None and preset not in presets:
        raise UnknownNameError(f"preset of backbone {name!r}", preset, presets)
    chosen = preset or (presets[0] if presets else config_class)
    config = getattr(importlib.import_module(module), chosen)()
    unknown = set(settings) - {field.name for field in dataclasses.fields(config)}
    if unknown:
        raise UnknownNameError(
            f"setting of backbone {name!r}", unknown.pop(), [field.name for field in dataclasses.fields(config)]
        )
    result: BackboneConfig = dataclasses.replace(config, **settings)
    return result


def config_to_json(config: BackboneConfig) -> dict[str, Any]:
    """Return {"backbone": name, ...settings} of JSON values.

    A world's hash covers these. So that older worlds keep theirs, a setting that was added after worlds had been saved
    has the field metadata ``{"later": True}``, and is left out where it is at its default.
    """
    for name, (path, _) in _BACKBONES.items():
        if path == f"{type(config).__module__}:{type(config).__qualname__}":
            return {"backbone": name, **_settings(config)}
    raise ConfigError(f"{type(config).__qualname__} is not registered; call register_backbone first.")


def config_from_json(values: dict[str, Any]) -> BackboneConfig:
    """Read back what `config_to_json` wrote."""
    settings: dict[str, Any] = dict(values)
    name = settings.pop("backbone", None)
    if not isinstance(name, str):
        raise ConfigError(f"a backbone configuration needs its 'backbone' name; found the keys {sorted(values)}.")
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return make_config(name, None, **settings)


def _settings(config: BackboneConfig) -> dict[str, Any]:
    values: dict[str, Any] = dataclasses.asdict(config)  # type: ignore[call-overload]
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        if field.metadata.get("later") and values[field.name] == field.default:
            del values[field.name]
    return values


def _entry(name: str) -> tuple[str, tuple[str, ...]]:
    if name not in _BACKBONES:
        raise UnknownNameError("backbone", name, _BACKBONES)
    return _BACKBONES[name]

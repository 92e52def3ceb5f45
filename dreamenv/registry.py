"""The backbones by name: one explicit table from name to configuration class, imported only when asked for.

A backbone's module offers a frozen dataclass, its configuration, with ``build(spec) -> WorldModel``, and its presets as
functions that return such a configuration.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Entry:
    path: str  # "module:configuration class"
    presets: tuple[str, ...]  # the default first
    module: str  # where they are


_BACKBONES: dict[str, _Entry] = {}


def register_backbone(name: str, path: str, presets: tuple[str, ...] = (), *, module: str | None = None) -> None:
    """Add a backbone of your own.

    Args:
        name: how it is asked for.
        path: "module:ConfigClass".
        presets: names of functions that return a configuration, the default first.
        module: where those are; None for the configuration's own module.
    """
    entry = _Entry(path, presets, module or path.split(":")[0])
    if _BACKBONES.setdefault(name, entry) != entry:
        raise ConfigError(f"a backbone named {name!r} is registered already, as {_BACKBONES[name].path}.")


def backbone_names() -> list[str]:
    """Return the names of all registered backbones."""
    return sorted(_BACKBONES)


def preset_names(name: str) -> tuple[str, ...]:
    """Return the presets of a backbone, the default first."""
    return _entry(name).presets


def make_config(name: str, preset: str | None = None, **settings: Any) -> BackboneConfig:
    """Make the configuration of a backbone: a preset, with single settings replaced.

    Raises:
        UnknownNameError: no such backbone or preset.
        ConfigError: no such setting, or a value that cannot work.
    """
    entry = _entry(name)
    if preset is not None and preset not in entry.presets:
        raise UnknownNameError(f"preset of backbone {name!r}", preset, entry.presets)
    module, made_by = entry.path.split(":")
    if preset or entry.presets:
        module, made_by = entry.module, preset or entry.presets[0]
    config = getattr(importlib.import_module(module), made_by)()
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
    for name, entry in _BACKBONES.items():
        if entry.path == f"{type(config).__module__}:{type(config).__qualname__}":
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


def _entry(name: str) -> _Entry:
    if name not in _BACKBONES:
        raise UnknownNameError("backbone", name, _BACKBONES)
    return _BACKBONES[name]


register_backbone(
    "denoising",
    "dreamenv.backbones.denoising.config:DenoisingConfig",
    (
        "small", "small_latents", "tiny", "diamond", "diffusion_forcing", "diffusion_forcing_base", "shortcut", "nwm",
        "framepack", "chunkwise", "holistic", "genie2", "gamefactory",
    ),
    module="dreamenv.backbones.denoising.presets",
)  # fmt: skip
register_backbone("persistence", "dreamenv.backbones.persistence:PersistenceConfig")
register_backbone("rssm", "dreamenv.backbones.rssm.config:RSSMConfig", ("small", "tiny", "base"))

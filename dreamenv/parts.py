"""Parts: the settings that a world is put together from, and how they are written as JSON.

A part is a frozen, keyword-only dataclass with a ``kind``, above the class that it builds, in the same file. It checks
itself and knows nothing of other parts. Defining one registers it::

    @dataclass(frozen=True, kw_only=True)
    class DDIM(Sampler, kind="ddim"):
        eta: float = 0.0

As JSON a part is ``{"kind": "ddim", "eta": 0.0}``, and parts within it likewise. Kinds are unique.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from dreamenv.checks import declared_types, settle_types
from dreamenv.errors import ConfigError, UnknownNameError

__all__ = ["ADDED_LATER", "Part", "Training", "find_part", "part_from_json", "part_to_json"]

ADDED_LATER = {"added_later": True}
"""Metadata of a setting that a part did not always have: it is not written where it is None, so that worlds made before
keep the hash by which their states, policies and clips know them."""

_ROOMS = ("backbones", "heads", "codecs", "denoisers", "diffusion")  # packages whose modules define parts

_REGISTRY: dict[str, type[Part]] = {}
_CHECK = "__post_init__"  # which dataclasses call


@dataclass(frozen=True, kw_only=True)
class Part:
    """Base of all parts; a class with a ``kind`` is a part, one without is a family of parts.

    Raises:
        UnknownNameError: a setting that the part does not have; says which part has it.
        ConfigError: a kind that is taken, or a value of another type than a setting takes.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls, *, kind: str = "", **others: Any) -> None:
        super().__init_subclass__(**others)
        if _CHECK in cls.__dict__:
            setattr(cls, _CHECK, _after_types(cls.__dict__[_CHECK]))
        if not kind:
            return
        known = _REGISTRY.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"the kind {kind!r} is {known.__module__}.{known.__qualname__}; choose another name.")
        cls.kind = kind
        _REGISTRY[kind] = cls

    def __new__(cls, **settings: Any) -> Self:
        """Refuse settings that the part does not have, by name."""
        types = declared_types(cls)
        for name in settings:
            if name not in types:
                raise UnknownNameError(f"setting of {_title(cls)}{_owners(name)}", name, types)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check the settings' types, and make numbers Python's own; what a subclass checks comes after."""
        settle_types(self, where=f" (in {_title(type(self))})")


@dataclass(frozen=True, kw_only=True)
class Training(Part):
    """Family of settings of how something is learned: what has been learned does not depend on them any more."""


def find_part(kind: str) -> type[Part]:
    """Return the class of a kind; modules are imported as needed.

    Raises:
        UnknownNameError: no such kind. A part of another package is known once its module has been imported.
    """
    if kind not in _REGISTRY:
        _import_rooms(kind)
    if kind not in _REGISTRY:
        raise UnknownNameError("part of the kind", kind, _REGISTRY)
    return _REGISTRY[kind]


def part_to_json(part: Part, *, training: bool = True) -> dict[str, Any]:
    """Return ``{"kind": kind, setting: value, ...}`` of JSON values.

    Args:
        part: what to write.
        training: also the parts that configure training; without them it cannot be read back.
    """
    fields = [(field, getattr(part, field.name)) for field in dataclasses.fields(part)]
    values = {field.name: value for field, value in fields if value is not None or field.metadata != ADDED_LATER}
    settings = {
        name: _to_json(value, training) for name, value in values.items() if training or not isinstance(value, Training)
    }
    return {"kind": part.kind, **settings}


def part_from_json(values: Mapping[str, Any]) -> Part:
    """Read back what `part_to_json` wrote.

    Raises:
        ConfigError: values without a kind, or that cannot work.
        UnknownNameError: no such kind, or a setting that it does not have.
    """
    settings = dict(values)
    kind = settings.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError(f"a part needs its 'kind'; found the settings {sorted(values)}.")
    cls = find_part(kind)
    try:
        return cls(**{name: _from_json(value) for name, value in settings.items()})
    except TypeError as error:
        raise ConfigError(f"the settings of {kind!r} cannot be read: {error}.") from error


def _to_json(value: Any, training: bool) -> Any:
    if isinstance(value, Part):
        return part_to_json(value, training=training)
    return [_to_json(one, training) for one in value] if isinstance(value, tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return part_from_json(value)
    return tuple(_from_json(one) for one in value) if isinstance(value, list) else value


def _after_types(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a part's own check, done once the types are known to be right."""

    @functools.wraps(check)
    def both(part: Any) -> None:
        Part.__post_init__(part)
        check(part)

    return both


def _title(cls: type[Part]) -> str:
    return repr(getattr(cls, "kind", cls.__name__))


def _owners(name: str) -> str:
    """Say which other parts have a setting, so that it can be moved to where it belongs."""
    _import_all()
    owners = sorted(
        kind for kind, cls in _REGISTRY.items() if any(field.name == name for field in dataclasses.fields(cls))
    )
    return f" (it is one of {', '.join(map(repr, owners[:4]))})" if owners else ""


def _import_rooms(kind: str) -> None:
    """Import the module that is called as the kind is, or else all modules that define parts."""
    for room in _ROOMS:
        package = importlib.import_module(f"dreamenv.{room}")
        if any(module.name == kind for module in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"dreamenv.{room}.{kind}")
    if kind not in _REGISTRY:
        _import_all()


def _import_all() -> None:
    for room in _ROOMS:
        package = importlib.import_module(f"dreamenv.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)

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
import importlib
import math
import pkgutil
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self

from dreamenv.errors import ConfigError, UnknownNameError

__all__ = ["Part", "Training", "find_part", "part_from_json", "part_to_json"]

_ROOMS = ("backbones", "heads", "codecs", "denoisers", "diffusion")  # packages whose modules define parts

_REGISTRY: dict[str, type[Part]] = {}
_TYPES: dict[type[Part], dict[str, Any]] = {}  # of the settings of each class that was made
_WORDS = {int: "a whole number", float: "a finite number", bool: "True or False", NoneType: "None", str: "a string"}


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
        if not kind:
            return
        known = _REGISTRY.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"the kind {kind!r} is {known.__module__}.{known.__qualname__}; choose another name.")
        cls.kind = kind
        _REGISTRY[kind] = cls

    def __new__(cls, **settings: Any) -> Self:
        """Refuse settings that the part does not have, and values of another type, by name."""
        types = _types(cls)
        for name, value in settings.items():
            if name not in types:
                raise UnknownNameError(f"setting of {_title(cls)}{_owners(name)}", name, types)
            if not _fits(value, types[name]):
                raise ConfigError(f"{name} must be {_describe(types[name])}, not {value!r} (in {_title(cls)}).")
        return super().__new__(cls)


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
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
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


def _types(cls: type[Part]) -> dict[str, Any]:
    if cls not in _TYPES:
        hints = typing.get_type_hints(cls)
        _TYPES[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _TYPES[cls]


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a setting is declared as; words and ranges are checked by the part."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return type(value) in {type(one) for one in inner}
    if origin is tuple:
        each = [inner[0]] * len(value) if inner[1:] == (...,) and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(each) and all(map(_fits, value, each))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    kind = origin or hint
    return isinstance(value, kind) if isinstance(kind, type) else True


def _describe(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return " or ".join(_describe(one) for one in inner)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        return f"a tuple, each {_describe(inner[0])}" if inner[1:] == (...,) else f"a tuple of {len(inner)}"
    if isinstance(hint, type) and issubclass(hint, Part):
        return f"a {hint.__name__} part"
    return _WORDS.get(hint, str(getattr(hint, "__name__", hint)))


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

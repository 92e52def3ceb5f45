"""`TensorDict`, imported without the compiler of torch.

On import, tensordict hands a few functions to `torch.compiler`, which imports ``torch._dynamo`` to mark them: half of
the time that ``from dreamenv import World`` would take. Here they are marked when something imports ``torch._dynamo``,
which most processes never do; nothing else about either library changes. Import tensordict through this module.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch.compiler
from torch import Tensor

__all__ = ["TensorDict", "TensorDictBase", "put_rows", "take_rows"]

_COMPILER = "torch._dynamo"
_NOTED = ("allow_in_graph", "assume_constant_result")  # functions of torch.compiler that only mark what they are given


class _Deferred(importlib.abc.MetaPathFinder):
    """Marks functions as soon as the compiler has been imported."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, Any]] = []

    def mark(self, name: str) -> Callable[[Any], Any]:
        def note(function: Any) -> Any:
            self.marks.append((name, function))
            return function

        return note

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _COMPILER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_mark(module: ModuleType) -> None:
                execute(module)
                for name, function in self.marks:
                    getattr(module, name)(function)

            spec.loader.exec_module = execute_and_mark  # type: ignore[method-assign]
        return spec


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Import what is imported here without the compiler, unless it is there already."""
    if _COMPILER in sys.modules or not all(hasattr(torch.compiler, name) for name in _NOTED):
        yield
        return
    deferred, own = _Deferred(), {name: getattr(torch.compiler, name) for name in _NOTED}
    for name in _NOTED:
        setattr(torch.compiler, name, deferred.mark(name))
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(torch.compiler, name, function)
        if deferred.marks:
            sys.meta_path.insert(0, deferred)


with _without_compiler():
    from tensordict import TensorDict, TensorDictBase


def take_rows(state: TensorDict, rows: Tensor) -> TensorDict:
    """Return ``state[rows]``, for which tensordict first imports what takes half a second (sympy)."""
    taken: TensorDict = state.apply(lambda entry: entry[rows], batch_size=[len(rows)])
    return taken


def put_rows(state: TensorDict, rows: Tensor, values: TensorDict) -> None:
    """Write ``state[rows] = values``, see `take_rows`; both have the same entries."""
    for name, entry in state.items(include_nested=True, leaves_only=True):
        entry[rows] = values.get(name)

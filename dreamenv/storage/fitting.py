"""Build a model only as large as the weights that it is built for.

The settings that a model is built from come from a file, perhaps a stranger's, and may ask for more memory or time than
there is. The weights' file bounds them: it holds every parameter. So parameters are counted as modules get them, which
is before they are initialised, and single tensors before they are allocated.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from dreamenv.errors import DreamenvError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["build_for_weights"]

_SPARE_NUMBERS = 2**16  # of parameters; what is shared may be counted twice
_SPARE_BUFFERS = 2**25  # numbers in tensors that are computed, not stored
_SPARE_OBJECTS = 10_000  # modules and tensors
_OBJECTS_PER_TENSOR = 50

Model = TypeVar("Model", bound="nn.Module")


class _ExceededError(Exception):
    """A model is larger than its weights."""


def build_for_weights(
    build: Callable[[], Model],
    shapes: Mapping[str, tuple[int, ...]],
    tensors_of: Callable[[Model], Mapping[str, Tensor]],
    misfit: Callable[[str], DreamenvError],
) -> Model:
    """Build a model, and check that it has the tensors that it should be given.

    Args:
        build: makes the model.
        shapes: of the weights, by name.
        tensors_of: returns the model's tensors that are stored, by name.
        misfit: makes the error, given what is wrong.

    Raises:
        misfit: the model has other tensors than its weights.
    """
    try:
        with _bounded(sum(map(math.prod, shapes.values())), len(shapes)):
            model = build()
    except _ExceededError:
        raise misfit("its settings make a model that is larger than its weights") from None
    built = {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}
    for name in sorted({*built, *shapes}):
        if name not in built:
            raise misfit(f"{name} is no part of the model")
        if built[name] != shapes.get(name):
            raise misfit(f"{name} should be {built[name]}, and is {shapes.get(name, 'missing')}")
    return model


@contextmanager
def _bounded(numbers: int, tensors: int) -> Iterator[None]:
    """Stop the making of modules in this thread when they have more than so many numbers, in so many tensors."""
    import torch
    from torch.nn.modules import module
    from torch.overrides import TorchFunctionMode

    thread = threading.get_ident()
    left = {
        "parameters": 2 * numbers + _SPARE_NUMBERS,
        "buffers": numbers + _SPARE_BUFFERS,
        "objects": _OBJECTS_PER_TENSOR * tensors + _SPARE_OBJECTS,
    }

    def count(kind: str) -> Callable[[Any, str, Any], None]:
        def counted(_: Any, __: str, value: Any) -> None:
            if threading.get_ident() == thread:
                left["objects"] -= 1
                left[kind] -= value.numel() if isinstance(value, torch.Tensor) else 0
                if min(left.values()) < 0:
                    raise _ExceededError

        return counted

    class Factories(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if _numbers(func, args, kwargs or {}) > 2 * numbers + _SPARE_BUFFERS:
                raise _ExceededError
            return func(*args, **(kwargs or {}))

    hooks = [
        module.register_module_parameter_registration_hook(count("parameters")),
        module.register_module_buffer_registration_hook(count("buffers")),
        module.register_module_module_registration_hook(count("objects")),
    ]
    try:
        with Factories():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _numbers(func: Any, args: Any, kwargs: Mapping[str, Any]) -> float:
    """Return how many numbers a function of torch that makes tensors is asked for."""
    name = getattr(func, "__name__", "")
    if name in ("empty", "zeros", "ones", "rand", "randn", "full"):
        size = kwargs.get("size", args[0] if args and isinstance(args[0], list | tuple) else args)
        return math.prod(side for side in size if isinstance(side, int))
    if name in ("arange", "randperm"):
        return max((abs(value) for value in (*args, *kwargs.values()) if isinstance(value, int | float)), default=0)
    if name in ("linspace", "logspace"):
        return float(kwargs["steps"] if "steps" in kwargs else args[2])
    if name == "eye":
        return float(args[0]) ** 2
    return 0

"""What can be done with the states of `DreamVectorEnv.get_state`: save, load, check, branch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamenv.checks import check_path, check_whole
from dreamenv.errors import SeedError, StateError, StorageError
from dreamenv.randomness import philox4x32
from dreamenv.storage import read_sealed_tensors, refuse_malformed, write_sealed_tensors
from dreamenv.tensordicts import TensorDict, TensorDictBase
from dreamenv.world_model import State, StateBounds

__all__ = [
    "MOST_STEPS",
    "STREAM_BOUNDS",
    "branch_state",
    "check_bounds",
    "check_entries",
    "check_world",
    "load_state",
    "save_state",
]

MOST_STEPS = 2**62
"""The most steps that any counter of a state may hold: far from where int64 overflows."""

STREAM_BOUNDS: StateBounds = {("rng_counter",): (0, MOST_STEPS), ("temperature",): (0, math.inf)}
"""Of the entries that the state of every model has."""

_REMEDY = "Take it from get_state, branch or load_state."
_SEPARATOR = "/"
_WORD = 2**64 - 1
_BRANCH = 0xB7A2  # counter word that sets branches apart from every other use of a row's key


def save_state(state: State, path: str | Path) -> None:
    """Write a state to a file, whole or not at all.

    Raises:
        StateError: it is no state.
        StorageError: the disk refused; what was at ``path`` before is still there.
    """
    if not isinstance(state, TensorDictBase):
        raise StateError(f"a {type(state).__name__} is no state. {_REMEDY}")
    leaves: dict[str, Tensor] = {}
    for key, value in state.items(include_nested=True, leaves_only=True):
        names = key if isinstance(key, tuple) else (key,)
        leaves[_SEPARATOR.join(names)] = value
    write_sealed_tensors(check_path("where to save the state", path, error=StorageError), leaves, "the state")


def load_state(path: str | Path) -> State:
    """Read a state that `save_state` wrote.

    Raises:
        StateError: no such file, or one that is not whole or was altered.
    """
    path = check_path("where a state is", path, error=StateError)
    if not path.exists():
        raise StateError(f"there is no state at {path}; save one with save_state.")
    leaves = read_sealed_tensors(path, StateError, "Save the state again.")
    if not leaves:
        raise StateError(f"{path} holds no state.")
    with refuse_malformed(StateError, f"the state {path}", "Save the state again."):
        state = TensorDict({}, batch_size=[next(iter(leaves.values())).shape[0]])
        for name, value in leaves.items():
            state[tuple(name.split(_SEPARATOR))] = value
    return state


def check_world(state: State, fingerprint: int) -> None:
    """Raise StateError unless all rows of the state were taken in the world of this fingerprint."""
    if not isinstance(state, TensorDictBase) or "world" not in state.keys() or "ended" not in state.keys():
        raise StateError("this is no state of an environment; take it from get_state, branch or load_state.")
    for name, dtype in (("world", torch.int64), ("ended", torch.bool)):
        _check_leaf(name, state[name], torch.zeros(1, dtype=dtype))
    strange = (state["world"] != fingerprint).nonzero()
    if len(strange):
        found = int(state["world"][strange[0]])
        raise StateError(
            f"row {int(strange[0])} of this state is of another world ({found & _WORD:016x}, this one is "
            f"{fingerprint & _WORD:016x}); set it in an environment of the world it was taken from."
        )


def check_entries(state: State, example: State, path: str = "") -> None:
    """Check that a state has the entries of another one, of the same shapes per row and types, and all finite.

    Raises:
        StateError: names the first entry that differs.
    """
    have, want = set(state.keys()), set(example.keys())
    for verb, others in (("lacks", want - have), ("also has", have - want)):
        if others:
            inside = f" in {path}" if path else ""
            raise StateError(
                f"this is no state of a dream here: it {verb} {sorted(map(str, others))}{inside}. {_REMEDY}"
            )
    for name in sorted(want):
        value, wanted, full = state[name], example[name], f"{path}{_SEPARATOR}{name}" if path else name
        if isinstance(wanted, TensorDictBase) and isinstance(value, TensorDictBase):
            check_entries(value, wanted, full)
        else:
            _check_leaf(full, value, wanted)


def check_bounds(state: State, bounds: StateBounds) -> None:
    """Check that the entries at these paths lie in their bounds, both included.

    Raises:
        StateError: names the entry, the row and the value.
    """
    for path, (low, high) in bounds.items():
        value = state[path]
        least, most = (torch.as_tensor(bound, device=value.device) for bound in (low, high))
        wrong = ((value < least) | (value > most)).reshape(len(value), -1)
        rows = wrong.any(dim=1).nonzero()
        if len(rows):
            row = int(rows[0])
            found = value.reshape(len(value), -1)[row][wrong[row]][0].item()
            raise StateError(
                f"{_SEPARATOR.join(path)} of row {row} holds {found}, which must lie in [{low}, {high}]. {_REMEDY}"
            )


def _check_leaf(name: str, value: Any, example: Any) -> None:
    if not isinstance(value, Tensor) or not isinstance(example, Tensor):
        raise StateError(f"{name} of this state must be as it was given: it is a {type(value).__name__}. {_REMEDY}")
    if value.shape[1:] != example.shape[1:] or value.dtype != example.dtype:
        raise StateError(
            f"{name} of this state must be {tuple(example.shape[1:])} {example.dtype} per row, not "
            f"{tuple(value.shape[1:])} {value.dtype}. {_REMEDY}"
        )
    if value.is_floating_point() and not bool(value.isfinite().all()):
        row = int(value.isfinite().reshape(len(value), -1).all(dim=1).to(torch.uint8).argmin())
        raise StateError(f"{name} of row {row} of this state is not finite. {_REMEDY}")


def branch_state(state: State, seed: int) -> State:
    """Return the state with a random stream of its own for every row: a hash of the row's own, the seed and its place.

    Raises:
        SeedError: a seed that is no integer in [0, 2**63).
    """
    seed = check_whole("seed", seed, least=0, most=2**63 - 1, error=SeedError)
    state = state.clone()
    place = torch.arange(state.batch_size[0], device=state["row_key"].device)
    low, high = (torch.full_like(place, word) for word in (seed & 0xFFFFFFFF, seed >> 32))
    counter = torch.stack((place, torch.full_like(place, _BRANCH), low, high))
    for name in ("row_key", ("dream", "rng_key")):
        key = state[name]
        words = philox4x32(counter, torch.stack((key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF)))
        state[name] = words[0] << 32 | words[1]
    return state

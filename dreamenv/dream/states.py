"""What can be done with the states of `DreamVectorEnv.get_state`: save, load, check, branch."""

from __future__ import annotations

from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from dreamenv.errors import SeedError, StateError
from dreamenv.randomness import philox4x32
from dreamenv.storage import read_sealed_tensors, write_sealed_tensors
from dreamenv.world_model import State

__all__ = ["branch_state", "check_world", "load_state", "save_state"]

_SEPARATOR = "/"
_WORD = 2**64 - 1
_BRANCH = 0xB7A2  # counter word that sets branches apart from every other use of a row's key


def save_state(state: State, path: str | Path) -> None:
    """Write a state to a file, whole or not at all.

    Raises:
        StorageError: the disk refused; what was at ``path`` before is still there.
    """
    leaves: dict[str, Tensor] = {}
    for key, value in state.items(include_nested=True, leaves_only=True):
        names = key if isinstance(key, tuple) else (key,)
        leaves[_SEPARATOR.join(names)] = value
    write_sealed_tensors(Path(path), leaves, "the state")


def load_state(path: str | Path) -> State:
    """Read a state that `save_state` wrote.

    Raises:
        StateError: no such file, or one that is not whole or was altered.
    """
    if not Path(path).exists():
        raise StateError(f"there is no state at {path}; save one with save_state.")
    leaves = read_sealed_tensors(Path(path), StateError, "Save the state again.")
    if not leaves:
        raise StateError(f"{path} holds no state.")
    state = TensorDict({}, batch_size=[next(iter(leaves.values())).shape[0]])
    for name, value in leaves.items():
        state[tuple(name.split(_SEPARATOR))] = value
    return state


def check_world(state: State, fingerprint: int) -> None:
    """Raise StateError unless all rows of the state were taken in the world of this fingerprint."""
    if "world" not in state.keys() or "ended" not in state.keys():
        raise StateError("this is no state of an environment; take it from get_state, branch or load_state.")
    strange = (state["world"] != fingerprint).nonzero()
    if len(strange):
        found = int(state["world"][strange[0]])
        raise StateError(
            f"row {int(strange[0])} of this state is of another world ({found & _WORD:016x}, this one is "
            f"{fingerprint & _WORD:016x}); set it in an environment of the world it was taken from."
        )


def branch_state(state: State, seed: int) -> State:
    """Return the state with a random stream of its own for every row: a hash of the row's own, the seed and its place.

    Raises:
        SeedError: a seed that is no integer in [0, 2**63).
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise SeedError(f"seed must be an integer in [0, 2**63), not {seed!r}.")
    state = state.clone()
    place = torch.arange(state.batch_size[0], device=state["row_key"].device)
    low, high = (torch.full_like(place, word) for word in (seed & 0xFFFFFFFF, seed >> 32))
    counter = torch.stack((place, torch.full_like(place, _BRANCH), low, high))
    for name in ("row_key", ("dream", "rng_key")):
        key = state[name]
        words = philox4x32(counter, torch.stack((key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF)))
        state[name] = words[0] << 32 | words[1]
    return state

"""What a world that looks promises, see `dreamenv.capabilities.SupportsGaze`; `WorldModelContract` checks it."""

from __future__ import annotations

from typing import Protocol

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from dreamenv.errors import GazeError
from dreamenv.world_model import Imagined, State

__all__ = ["LookingModel", "check_gaze_contract"]

_CORNER, _OTHER = (0.0, 0.0), (1.0, 1.0)


class LookingModel(Protocol):
    """What is checked of a model."""

    def look(self, state: State, gaze: Tensor) -> State:
        """See `SupportsGaze`."""
        ...

    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        """See `dreamenv.world_model.WorldModel`."""
        ...


def check_gaze_contract(model: LookingModel, state: State, actions: Tensor) -> None:
    """Check that each row looks where it is told, that this lies in its state, and that wrong gazes are refused.

    Args:
        model: that looks.
        state: of at least two rows.
        actions: (b, k, *a) to imagine from it.
    """
    rows = state.batch_size[0]

    def dream(*places: tuple[float, float]) -> State:
        gaze = torch.tensor([places[min(row, len(places) - 1)] for row in range(rows)])
        with torch.no_grad():
            return model.imagine(model.look(state, gaze), actions)[1]

    before = state.clone()
    together, apart = dream(_CORNER), dream(_CORNER, _OTHER)
    _same(before, state)
    _same(together[:1], apart[:1])  # what others look at is nothing to the first row
    differing = [key for key in together.keys() if key != "gaze" and not torch.equal(together[key][1:], apart[key][1:])]
    assert differing, "where it looks changes nothing"
    for key in together.keys():  # as many tokens for every gaze
        assert together[key].shape == apart[key].shape == dream((0.3, 0.8))[key].shape
    looking = model.look(state, torch.full((rows, 2), 0.25))
    stored = load(save({key: value.contiguous() for key, value in looking.items()}))
    with torch.no_grad():
        _same(model.imagine(looking, actions)[1], model.imagine(State(stored, batch_size=[rows]), actions)[1])
        left = model.imagine(model.look(looking, torch.full((rows, 2), torch.nan)), actions[:, :1])[1]
        free = model.imagine(state, actions[:, :1])[1]
    assert set(left.keys()) == set(free.keys())
    for wrong in (torch.full((rows, 2), 1.01), torch.full((rows, 2), -0.01), torch.full((rows, 2), torch.inf)):
        with pytest.raises(GazeError, match="outside the frame"):
            model.look(state, wrong)
    for wrong in (torch.zeros(rows + 1, 2), torch.zeros(rows, 3), torch.zeros(rows, 2).double()):
        with pytest.raises(GazeError, match="float32"):
            model.look(state, wrong)


def _same(left: State, right: State) -> None:
    assert set(left.keys()) == set(right.keys())
    for key in left.keys():
        assert torch.equal(left[key], right[key]), key

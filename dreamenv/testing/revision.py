"""The contract of worlds that revise what they remember, as tests; see `dreamenv.capabilities.SupportsRevise`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dreamenv.capabilities import SupportsRevise
from dreamenv.errors import FrameError, InputError, StateError
from dreamenv.testing.contract import ROWS, WorldModelContract, assert_equal
from dreamenv.world_model import State

__all__ = ["RevisionContract"]

HIDDEN = 2  # steps of a gap


class RevisionContract(WorldModelContract):
    """Inherit this instead of `WorldModelContract` where a backbone supports revision, of 4 steps or more."""

    def test_it_says_how_far_back_it_can_look(self, model: Any) -> None:
        assert isinstance(model, SupportsRevise)
        assert model.revision_steps >= HIDDEN + 2

    def test_a_gap_is_looked_back_on(self, model: Any) -> None:
        """What was hidden is remembered otherwise once a later frame is known, and the memory goes on from there."""
        model = self.disturbed(model)
        state, _ = self.with_gap(model)
        revised = self.look_back(model, state)
        assert not torch.equal(model.recall(revised)[:, -HIDDEN - 1 : -1], model.recall(state)[:, -HIDDEN - 1 : -1])
        assert torch.equal(model.recall(revised)[:, -1], model.recall(state)[:, -1])  # it was seen, and stays

    def test_revising_nothing_changes_nothing(self, model: Any) -> None:
        state, frames = self.with_gap(model)
        before = state.clone()
        with torch.no_grad():
            revised = model.revise(state, frames, torch.zeros(ROWS, frames.shape[1], dtype=torch.bool))
        assert_equal(revised, before)

    def test_a_row_without_frames_stays_bit_for_bit(self, model: Any) -> None:
        state, frames = self.with_gap(model)
        mask = torch.ones(ROWS, frames.shape[1], dtype=torch.bool)
        mask[1] = False
        with torch.no_grad():
            revised = model.revise(state, frames, mask)
        assert_equal(revised[1:2], state[1:2])
        assert not torch.equal(model.embed(revised)[0], model.embed(state)[0])

    def test_revising_with_what_was_observed_changes_almost_nothing(self, model: Any) -> None:
        actions, frames = self.actions(3), self.frames(3)
        with torch.no_grad():
            state = model.observe(self.begin(model), actions, frames)
            revised = model.revise(state, frames, torch.ones(ROWS, 3, dtype=torch.bool))
        for key in state.keys(include_nested=True, leaves_only=True):
            torch.testing.assert_close(revised[key], state[key], rtol=1e-4, atol=1e-5)

    def test_revising_twice_is_revising_once(self, model: Any) -> None:
        state, _ = self.with_gap(model)
        once = self.look_back(model, state)
        twice = self.look_back(model, once)
        for key in once.keys(include_nested=True, leaves_only=True):
            torch.testing.assert_close(twice[key], once[key], rtol=1e-4, atol=1e-5)

    def test_late_frames_are_as_good_as_frames_in_time(self, model: Any) -> None:
        """Had all of them come in time, the memory would be the same."""
        actions, frames = self.actions(3), self.frames(3)
        with torch.no_grad():
            in_time = model.observe(self.begin(model), actions, frames)
            _, state = model.imagine(self.begin(model), actions)
            late = model.revise(state, frames, torch.ones(ROWS, 3, dtype=torch.bool))
        for key in in_time.keys(include_nested=True, leaves_only=True):
            torch.testing.assert_close(late[key], in_time[key], rtol=1e-4, atol=1e-5)

    def test_revised_rows_are_independent(self, model: Any) -> None:
        state, frames = self.with_gap(model)
        mask = torch.ones(ROWS, 1, dtype=torch.bool)
        others = frames[:, -1:].clone()
        others[2] = others[2].flip(-1)
        with torch.no_grad():
            one = model.revise(state, frames[:, -1:], mask)
            other = model.revise(state, others, mask)
            alone = model.revise(state[1:2], frames[1:2, -1:], mask[1:2])
        keep = torch.tensor([0, 1, 3])
        assert_equal(one[keep], other[keep])
        for key in one.keys(include_nested=True, leaves_only=True):
            torch.testing.assert_close(alone[key], one[1:2][key], rtol=1e-4, atol=1e-4)

    def test_a_restored_state_is_revised_alike(self, model: Any) -> None:
        state, frames = self.with_gap(model)
        kept, mask = state.clone(), torch.ones(ROWS, frames.shape[1], dtype=torch.bool)
        with torch.no_grad():
            first = model.revise(state, frames, mask)
            assert_equal(state, kept)  # what was given is not changed
            assert_equal(model.revise(kept, frames, mask), first)
        assert torch.equal(first["rng_counter"], state["rng_counter"])

    def test_a_revised_state_is_its_own_memory(self, model: Any) -> None:
        state, frames = self.with_gap(model)
        with torch.no_grad():
            revised = model.revise(state, frames, torch.ones(ROWS, frames.shape[1], dtype=torch.bool))
        entries = [tensor for tensor in revised.values(True, True) if tensor.numel()]
        places = [tensor.untyped_storage().data_ptr() for tensor in (*entries, frames)]
        assert len(set(places)) == len(places)

    def test_revisions_that_cannot_be_are_refused(self, model: Any) -> None:
        state, frames = self.with_gap(model)
        mask = torch.ones(ROWS, frames.shape[1], dtype=torch.bool)
        with pytest.raises(FrameError, match="frames must be"):
            model.revise(state, frames[..., :-1], mask)
        with pytest.raises(FrameError, match="float64"):
            model.revise(state, frames.double(), mask)
        with pytest.raises(InputError, match="mask must be"):
            model.revise(state, frames, mask[:, 1:])
        with pytest.raises(InputError, match="mask must be"):
            model.revise(state, frames, mask.float())
        steps = model.revision_steps + 1
        with pytest.raises(InputError, match=f"{steps} steps cannot be revised"):
            model.revise(state, self.frames(steps), torch.ones(ROWS, steps, dtype=torch.bool))
        with torch.no_grad():
            young = model.observe(self.begin(model), self.actions(1), self.frames(1))
        with pytest.raises(InputError, match="began 1 steps ago"):
            model.revise(young, frames[:, :2], mask[:, :2])
        with pytest.raises(StateError, match="rows"):
            model.revise(state[:2], frames, mask)

    # What the tests are made of

    def with_gap(self, model: Any) -> tuple[State, Tensor]:
        """Return the state after a step that was seen, two that were not, one that was; and the frames of all."""
        actions, frames = self.actions(HIDDEN + 2), self.frames(HIDDEN + 2)
        with torch.no_grad():
            state = model.observe(self.begin(model), actions[:, :1], frames[:, :1])
            _, state = model.imagine(state, actions[:, 1 : 1 + HIDDEN])
            state = model.observe(state, actions[:, -1:], frames[:, -1:])
        return state, frames

    def look_back(self, model: Any, state: State) -> State:
        """Revise with the newest frame alone."""
        with torch.no_grad():
            revised: State = model.revise(state, self.frames(HIDDEN + 2)[:, -1:], torch.ones(ROWS, 1, dtype=torch.bool))
        return revised

    def disturbed(self, model: Any) -> Any:
        """Return a model of which whatever begins as zeros has been trained a little."""
        generator = torch.Generator().manual_seed(6)
        with torch.no_grad():
            for parameter in model.parameters():
                if not bool(parameter.any()):
                    parameter.add_(torch.randn(parameter.shape, generator=generator))
        return model

"""The states that dreams start from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drifting import CONTEXT, Drifting, make_starts, make_world

from dreamenv.dream import starting
from dreamenv.dream.starting import StartStates
from dreamenv.errors import ConfigError, FrameError
from dreamenv.frames import frames_to_model

CPU = torch.device("cpu")


def test_a_start_is_the_state_after_observing_its_segment():
    world = make_world()
    states = StartStates(world.model, world.starts, CPU)
    for segment in (0, 1, 6, 7):
        length = segment % (CONTEXT + 1)
        state = world.model.start(
            frames_to_model(torch.from_numpy(world.starts.first_frames[[segment]])), torch.tensor([segment])
        )
        if length:
            state = world.model.observe(
                state,
                torch.from_numpy(world.starts.actions[[segment], :length]),
                frames_to_model(torch.from_numpy(world.starts.frames[[segment], :length])),
            )
        assert (states(np.array([segment])) == state).all()


def test_a_start_does_not_depend_on_the_others_in_its_batch():
    world = make_world(starts=40)
    one, all_of_them = StartStates(world.model, world.starts, CPU), StartStates(world.model, world.starts, CPU)
    every = all_of_them(np.arange(40))
    for segment in (39, 0, 17):
        state = one(np.array([segment]))
        for name, value in state.items():
            assert torch.equal(value[0], every[name][segment])


def test_a_start_is_filtered_once(monkeypatch):
    world = make_world()
    states = StartStates(world.model, world.starts, CPU)
    states(np.arange(20))

    def refuse(*_):
        raise AssertionError("filtered again")

    monkeypatch.setattr(Drifting, "start", refuse)
    states(np.array([3, 3, 19]))


def test_states_too_large_to_cache_are_made_when_needed(monkeypatch):
    world = make_world()
    remembered = StartStates(world.model, world.starts, CPU)
    monkeypatch.setattr(starting, "_CACHE_BYTES", 10)
    states = StartStates(world.model, world.starts, CPU)
    for entries in (np.array([4, 7, 4]), np.array([22])):
        assert (states(entries) == remembered(entries)).all()
    assert states._states is None


def test_changing_a_state_does_not_change_the_saved_one():
    world = make_world()
    states = StartStates(world.model, world.starts, CPU)
    taken = states(np.array([5]))
    taken["level"][:] = 99.0
    assert (states(np.array([5]))["level"] != 99.0).all()


def test_starts_that_do_not_fit_the_world_are_refused():
    world = make_world()
    with pytest.raises(FrameError, match=r"\(32, 32, 3\); the world's \(16, 16, 3\)"):
        StartStates(world.model, make_starts(size=32), CPU)
    with pytest.raises(ConfigError, match="at least one start"):
        StartStates(world.model, make_starts()[:0], CPU)

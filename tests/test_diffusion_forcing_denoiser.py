"""Diffusion Forcing's denoiser agrees with the public code, and with itself when it caches."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_diffusion_forcing import FRAMES, ROWS, SPEC, awake, pooled, sequence, tiny_network


@pytest.fixture
def float64():
    """Let everything be made and computed in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
def test_outputs_are_those_of_the_public_code():
    """Written down when the public network, given the same weights in float64, gave the same but for 2e-15.

    Weights and inputs are the same on every processor, and float64 has 16 digits, of which a thousand additions in
    another order leave 12 or more; 12 are written down.
    """
    given = sequence().noisy
    with torch.no_grad():
        output = tiny_network(context=FRAMES - 1).forward_sequence(given, given)
    expected = torch.tensor(
        [[0.160870140459, -0.006664636567, 0.180807615966], [-0.029239318017, 0.443280790202, 0.376892688196]]
    )
    torch.testing.assert_close(output[:, ::2, 1, 3, 5], expected, rtol=0, atol=1e-11)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("pooling", ["window", "past"])
@pytest.mark.parametrize("context", [2, 4])
def test_a_cached_step_equals_one_over_the_whole_sequence(pooling, context):
    """While the window stands; with what is kept, also while it slides."""
    network, given = tiny_network(pooling=pooling, context=context), sequence()
    with torch.no_grad():
        cache = network.init_cache(given.context.frames[:, 0])
        for i in range(1, FRAMES):
            cache = network.update_cache(cache, given.past(i - 1, i))
            found = network.forward_cached(cache, given.now(i))
            mixed = given.mixed(max(0, i - context) if pooling == "window" else 0, i)
            whole = network.forward_sequence(mixed, mixed)
            torch.testing.assert_close(found, whole[:, -1:], rtol=1e-9, atol=1e-9)
    assert cache["length"].tolist() == [min(context, FRAMES - 1)] * ROWS
    assert "keys" in cache if pooling == "past" else "keys" not in cache


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("pooling", ["window", "past"])
def test_several_frames_are_taken_in_together_as_one_by_one(pooling):
    network, given = tiny_network(pooling=pooling), sequence()
    with torch.no_grad():
        together = network.update_cache(network.init_cache(given.context.frames[:, 0]), given.context)
        cache = network.init_cache(given.context.frames[:, 0])
        for i in range(FRAMES):
            cache = network.update_cache(cache, given.past(i, i + 1))
    assert together.keys() == cache.keys()
    for name, value in cache.items():
        torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("pooling", ["window", "past"])
def test_rows_with_more_or_less_of_a_past_are_predicted_alike_in_company(pooling):
    network, given = tiny_network(pooling=pooling), sequence()
    caches, alone = [], []
    with torch.no_grad():
        for row, frames in enumerate((1, 3)):
            at = slice(row, row + 1)
            cache = network.init_cache(given.context.frames[at, 0])
            cache = network.update_cache(cache, given.past(0, frames, at))
            caches.append(cache)
            alone.append(network.forward_cached(cache, given.now(0, at)))
        cache = {name: torch.cat([one[name] for one in caches]) for name in caches[0]}
        found = network.forward_cached(cache, given.now(0))
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-9, atol=1e-9)


def test_as_published_a_later_frame_changes_earlier_ones_and_with_the_past_alone_it_does_not():
    changed, given = {}, sequence().noisy
    other = given.frames.clone()
    other[:, 2] += 1
    for pooling in ("window", "past"):
        network = tiny_network(pooling=pooling)
        with torch.no_grad():
            before, after = (
                network.forward_sequence(given, dataclasses.replace(given, frames=frames))
                for frames in (given.frames, other)
            )
        changed[pooling] = [bool((before[:, i] != after[:, i]).any()) for i in range(FRAMES)]
    assert changed == {"window": [True] * FRAMES, "past": [False, False, True, True, True]}


@pytest.mark.parametrize("pooling", ["window", "past"])
def test_every_weight_learns(pooling):
    network, given = tiny_network(pooling=pooling), sequence().noisy
    network.forward_sequence(given, given)[:, 1:].square().sum().backward()
    without = [name for name, one in network.named_parameters() if one.grad is None or not one.grad.any()]
    assert without == []


@pytest.mark.parametrize("pooling", ["window", "past"])
def test_rounded_weights_predict_almost_the_same_with_a_float32_cache(pooling):
    found = []
    for rounded in (False, True):
        model = awake(pooled(pooling))
        if rounded:
            model.store_in_bfloat16()
        first, nothing = torch.rand(1, *SPEC.frame_shape, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 2)
        with torch.no_grad():
            state = model.start(first, torch.zeros(1, dtype=torch.int64))
            imagined, state = model.imagine(state, nothing.long())
        assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
        found.append(imagined.frames)
    assert 0 < float((found[1] - found[0]).abs().mean()) < 0.1 * float(found[0].std())

"""Rounded weights: faster dreams that stay close to the exact ones."""

from __future__ import annotations

import copy

import gymnasium as gym
import pytest
import torch
from torch import nn

from dreamenv.backbones.rssm import RSSM
from dreamenv.backbones.rssm.presets import tiny
from dreamenv.capabilities import SupportsBfloat16
from dreamenv.nn import attention, precision
from dreamenv.nn.attention import attend
from dreamenv.nn.categorical import CategoricalLinear
from dreamenv.nn.recurrence import GRU
from dreamenv.presets import make_config
from dreamenv.world_model import WorldModelSpec

SPEC = WorldModelSpec(frame_shape=(3, 16, 16), action_space=gym.spaces.Discrete(3), frame_rate=10.0)


@pytest.fixture
def model() -> RSSM:
    torch.manual_seed(0)
    return tiny().build(SPEC).eval()


def test_rounded_weights_dream_nearly_the_same(model: RSSM) -> None:
    rounded = copy.deepcopy(model)
    assert isinstance(rounded, SupportsBfloat16)
    rounded.store_in_bfloat16()
    actions = torch.zeros(64, 1, dtype=torch.int64)
    with torch.no_grad():
        state = model.start(torch.rand(64, 3, 16, 16), torch.arange(64))
        exact, after = model.imagine(state, actions)
        fast, after_fast = rounded.imagine(state, actions)
    assert exact.frames is not None
    assert fast.frames is not None
    assert 0 < float((after["deter"] - after_fast["deter"]).abs().max()) < 0.02
    assert float((exact.termination - fast.termination).abs().max()) < 0.02
    same = (after["stoch"] == after_fast["stoch"]).float().mean()
    assert float(same) > 0.97  # a draw changes only where it fell next to a boundary
    alike = (after["stoch"] == after_fast["stoch"]).all(dim=1)
    assert float((exact.frames - fast.frames)[alike].abs().max()) < 0.02


def test_only_weights_of_products_are_rounded(model: RSSM) -> None:
    model.store_in_bfloat16()
    for part in model.modules():
        products = isinstance(part, nn.Linear | nn.Conv2d | CategoricalLinear)
        for name, parameter in part.named_parameters(recurse=False):
            exact = not products or (isinstance(part, CategoricalLinear) and name == "bias")
            assert parameter.dtype == (torch.float32 if exact else torch.bfloat16)
    assert model.autoencoder.mean_frame.dtype == torch.float32


def test_the_state_keeps_float32(model: RSSM) -> None:
    model.store_in_bfloat16()
    with torch.no_grad():
        state = model.start(torch.rand(2, 3, 16, 16), torch.arange(2))
        imagined, state = model.imagine(state, torch.zeros(2, 3, dtype=torch.int64))
    assert state["deter"].dtype == torch.float32
    assert imagined.rewards.dtype == imagined.termination.dtype == torch.float32


@pytest.mark.parametrize("preset", ["rssm:tiny", "denoising:diffusion_forcing_like"])
@pytest.mark.parametrize("native", [True, False])
def test_features_have_the_precision_of_training(preset: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: native)
    torch.manual_seed(0)
    stages = make_config(*preset.split(":")).build(SPEC).eval().stages()
    encode = next(stage.precompute for stage in stages if stage.precompute is not None)
    frames = torch.rand(8, 3, 16, 16)
    with torch.no_grad():
        found = encode(frames)
        monkeypatch.setattr(precision, "has_bfloat16", lambda _: False)
        exact = encode(frames)
    assert found.dtype == torch.float32
    assert torch.equal(found, exact) != native
    assert torch.allclose(found, exact, rtol=0.05, atol=0.05)


def test_the_recurrence_has_the_equations_of_torch() -> None:
    ours, project, theirs = GRU(7), nn.Linear(5, 21), nn.GRU(5, 7, batch_first=True)
    with torch.no_grad():
        weights = (project.weight, ours.hidden_proj.weight, project.bias, ours.hidden_proj.bias)
        for parameter, weight in zip(theirs.all_weights[0], weights, strict=True):
            parameter.copy_(weight)
        inputs = torch.randn(3, 6, 5)
        expected, _ = theirs(inputs)
        memory = torch.zeros(3, 7)
        for i in range(6):
            memory = ours.step(project(inputs[:, i]), memory)
        torch.testing.assert_close(ours(project(inputs)), expected)
        torch.testing.assert_close(memory, expected[:, -1])


def test_looking_classes_up_is_the_product_with_their_one_hot_vectors() -> None:
    layer, index = CategoricalLinear(4, 3, 5), torch.randint(3, (6, 4))
    one_hot = nn.functional.one_hot(index, 3).float()
    torch.testing.assert_close(layer.look_up(index), layer(one_hot))


@pytest.mark.parametrize("few", [0, 1 << 24])  # torch's own kernel, and products
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_bfloat16_agrees_with_float32(masked: bool, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_FEW_SCORES", few)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 16, generator=generator) for n in (5, 9, 9))
    mask = torch.rand(2, 1, 5, 9, generator=generator) < 0.5 if masked else None
    if mask is not None:
        mask[..., 0] = True  # somebody must be attended to
    said = attend(query, key, value, mask)
    with torch.no_grad():
        rounded = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask)
        with torch.autocast("cpu", torch.bfloat16):
            cast = attend(query, key, value, mask)
    assert rounded.dtype == cast.dtype == torch.bfloat16
    for other in (rounded, cast):
        assert (other - said).abs().max() < 0.03 * said.abs().max()

"""Oasis's networks agree with the public code, and every setting has an effect."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import pytest
import torch
from tiny_oasis import DENOISER, SIZE, VAE, randomised, restarting, sequence, shape, tiny_network, tiny_world
from torch import Tensor

from dreamenv.codecs.oasis_vae import OasisVAEConfig
from dreamenv.denoisers.oasis import OasisConfig
from dreamenv.nn.pair_rotary import time_speeds
from dreamenv.world_model import Batch


@pytest.fixture
def float64():
    """Let everything be made and computed in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# What it computes


@pytest.mark.usefixtures("float64")
def test_outputs_are_those_of_the_public_code():
    """Written down when the public modules, given the same weights in float64, gave the same.

    The network's differed by 1.5e-8 of the largest value, because they take some positions in float32. Weights and
    inputs are the same on every processor, and of the 16 digits of float64 a thousand additions in another order, in
    four layers that make their errors greater, leave 10 or more.
    """
    network, autoencoder = tiny_network(), randomised(VAE.build((3, *SIZE)), 1)
    given = sequence().given(0, 7)
    with torch.no_grad():
        output = network.forward_sequence(given, given)
        mean, _ = autoencoder._encode(torch.linspace(-1, 1, 3 * 16 * 32).reshape(1, 3, 16, 32)).chunk(2, dim=1)
        pictures = autoencoder._decode(mean)
    golden = (
        (output[1, 3, 2, 1, :4], [-0.7713103413058, -2.2991571564042, 0.2083389076816, -0.6446465482763]),
        (mean[0, :, 1, 2], [-2.2730339655792, 0.2068275823899, 0.2479023939537, -0.5574352985275]),
        (pictures[0, 1, 4, :4], [0.5750630745500, 0.7511914381027, 1.1927073437158, -1.3002728884486]),
    )
    for found, expected in golden:
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("context", [3, 8])
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_cached_step_equals_one_over_the_whole_sequence(context, at_once):
    """Also while the window slides, with attention that reaches as far back in every layer."""
    network, given = tiny_network(context=context), sequence()
    with torch.no_grad():
        cache = network.init_cache(given.clean[:, 0])
        for i in range(at_once, 7, at_once):
            cache = network.update_cache(cache, given.context(i - at_once, i))
            cached = network.forward_cached(cache, given.given(i, i + 1))
            whole = network.forward_sequence(given.context(0, i + 1), given.mixed(0, i))
            torch.testing.assert_close(cached, whole[:, -1:], rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_a_restarted_window_forgets_earlier_frames():
    """As the public code: the kept frames and the new one are all that there is; rows go by themselves."""
    context, given = 3, sequence()
    network = tiny_network(context=context, window="restarts")
    with torch.no_grad():
        cache = network.init_cache(given.clean[:, 0])
        late = network.init_cache(given.clean[:1, 0])  # the first row restarts at frame 4
        for i in range(1, 7):
            cache = network.update_cache(cache, given.context(i - 1, i))
            if i == 4:
                cache = {name: torch.cat((late[name], value[1:])) for name, value in cache.items()}
            begins = [4 if i >= 4 else 0, 0]
            cached = network.forward_cached(cache, given.given(i, i + 1))
            for row, begin in enumerate(begins):
                one, start = slice(row, row + 1), max(begin, i - context)
                mixed = given.mixed(start, i, one)
                whole = network.forward_sequence(mixed, mixed)
                torch.testing.assert_close(cached[one], whole[:, -1:], rtol=1e-9, atol=1e-9)


def test_both_windows_agree_until_they_are_full_and_differ_after_it():
    world = tiny_world("vector", context=3)
    other = restarting(world)
    frame, seed = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)), torch.zeros(1, dtype=torch.int64)
    actions = torch.zeros(1, 5, 25)
    with torch.no_grad():
        long = [one.model.imagine(one.model.start(frame, seed), actions)[1]["keys"] for one in (world, other)]
        short = [one.model.imagine(one.model.start(frame, seed), actions[:, :2])[1]["keys"] for one in (world, other)]
    torch.testing.assert_close(*short, rtol=1e-5, atol=1e-5)
    assert float((long[0] - long[1]).abs().max()) > 1e-3


def test_the_position_of_speeds_is_that_of_the_paper():
    torch.testing.assert_close(time_speeds(4), torch.tensor([1.0, 0.1, 0.01, 0.001]))


def test_learning_reaches_every_parameter_that_counts():
    world = tiny_world(context=3)
    model, generator = world.model, torch.Generator().manual_seed(0)
    frames = torch.rand((2, 4, 3, *SIZE), generator=generator)
    batch = Batch(
        first_frame=frames[:, 0], frames=frames[:, 1:], actions=torch.randint(13, (2, 3), generator=generator),
        rewards=torch.zeros(2, 3), terminated=torch.zeros(2, 3, dtype=torch.bool), weight=torch.ones(2, 3),
        generator=generator,
    )  # fmt: skip
    for loss, part in ((model.denoising_loss, model.denoiser), (model.codec_loss, model.codec)):
        loss(batch)[0].backward()
        assert [name for name, one in part.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0] == []
    assert [stage.steps for stage in model.stages() if stage.name == "codec"] == [0]


CHANGES = {
    "context": 2, "width": 32, "depth": 1, "heads": 1, "patch": 4, "window": "restarts",
    "action_table": ((1.0,) * 25,),
}  # fmt: skip
CODEC_CHANGES = {
    "patch": 8, "latent_channels": 3, "encoder_width": 16, "encoder_depth": 2, "encoder_heads": 1,
    "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(OasisConfig)])
def test_every_setting_of_the_network_has_an_effect(name):
    def made(config: OasisConfig) -> tuple[dict[str, torch.Size], Tensor]:
        network, encoder = config.build(shape()), config.action_encoder(gym.spaces.Discrete(1))
        tensors = {**network.init_cache(torch.zeros(1, 4, 4, 8)), **network.state_dict()}
        return {key: value.shape for key, value in tensors.items()}, encoder(torch.zeros(1))

    config = dataclasses.replace(DENOISER, action_table=((0.0,) * 25,))
    before, after = made(config), made(dataclasses.replace(config, **{name: CHANGES[name]}))
    assert before[0] != after[0] or not torch.equal(before[1], after[1])


@pytest.mark.parametrize("name", CODEC_CHANGES)
def test_every_setting_of_the_autoencoder_has_an_effect(name):
    pictures = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    outputs = []
    for config in (VAE, dataclasses.replace(VAE, **{name: CODEC_CHANGES[name]})):
        autoencoder = randomised(config.build((3, *SIZE)), 0)
        with torch.no_grad():
            mean, _ = autoencoder.encode(pictures)
            outputs.append((mean, autoencoder.decode(mean)))
    assert any(one.shape != other.shape or not torch.equal(one, other) for one, other in zip(*outputs, strict=True))
    assert {*CODEC_CHANGES, "training"} == {field.name for field in dataclasses.fields(OasisVAEConfig)}

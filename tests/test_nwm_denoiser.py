"""Navigation World Models' denoiser: its cache, its moves, and its settings."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from public import filled
from tiny_nwm import CONTEXT, SHAPE, SIDE, TINY, TINY_CODEC, tiny_world
from torch import Tensor

from dreamenv.backbones.denoising import DenoisingConfig
from dreamenv.codecs.sd_vae import SDVAEConfig
from dreamenv.denoisers.base import DenoiserInput
from dreamenv.denoisers.nwm import HIGHEST, LOWEST, Moves, NWMConfig
from dreamenv.diffusion.process import EDM
from dreamenv.diffusion.target import EDMPreconditioned
from dreamenv.errors import ActionError, ConfigError
from dreamenv.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return tiny_world()


def started(model: Any, frames: Tensor, moves: Tensor) -> Any:
    return model.observe(model.start(frames[:, 0], torch.arange(len(frames))), moves, frames[:, 1:])


def test_the_denoiser_predicts_the_same_as_when_it_was_verified(world: World) -> None:
    denoiser: Any = world.model.denoiser  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(5)
    latents, noisy = (torch.randn(1, n, 4, 8, 8, generator=generator) for n in (CONTEXT, 1))
    moves = torch.tensor([[[0.5, -0.25, 0.1]]])
    with torch.no_grad():
        cache = denoiser.update_cache(denoiser.init_cache(noisy[:, 0]), context(latents))
        shift = torch.tensor([[3.0]])
        output = denoiser.forward_cached(cache, DenoiserInput(noisy, torch.tensor([[421.0]]), moves, time_shift=shift))
    assert output.shape == (1, 1, 8, 8, 8)
    found = torch.stack((output.mean(), output.std(), output[0, 0, 0, 0, 0], output[0, 0, 7, 7, 7]))
    torch.testing.assert_close(found, torch.tensor([0.039826, 1.210261, 0.516700, -0.476336]), rtol=0, atol=1e-5)


def context(frames: Tensor) -> DenoiserInput:
    """Clean frames, to be taken into a cache; the moves that led to them are not looked at."""
    return DenoiserInput(frames, torch.zeros(frames.shape[:2]), torch.zeros(*frames.shape[:2], 3))


def test_a_step_from_the_cache_is_that_of_the_whole_sequence(world: World) -> None:
    denoiser: Any = world.model.denoiser  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(2)
    clean, noisy = (torch.randn(2, 6, 4, 8, 8, generator=generator) for _ in range(2))
    moves, time = torch.randn(2, 6, 3, generator=generator), torch.rand(2, 6, generator=generator).mul(999).floor()
    for shift in (1, 3):
        shifts = torch.full((2, 6), float(shift))
        with torch.no_grad():
            together = denoiser.forward_sequence(context(clean), DenoiserInput(noisy, time, moves, time_shift=shifts))
            for frame in range(shift, 6):
                cache = denoiser.init_cache(clean[:, 0])
                for before in range(frame - shift + 1):
                    cache = denoiser.update_cache(cache, context(clean[:, before : before + 1]))
                one = slice(frame, frame + 1)
                given = DenoiserInput(noisy[:, one], time[:, one], moves[:, one], time_shift=shifts[:, one])
                torch.testing.assert_close(together[:, one], denoiser.forward_cached(cache, given), rtol=0, atol=1e-5)


def test_an_empty_cache_is_a_dropped_context_and_looks_at_no_frame(world: World) -> None:
    denoiser: Any = world.model.denoiser  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(4)
    clean, noisy = (torch.randn(2, 3, 4, 8, 8, generator=generator) for _ in range(2))
    moves, time, last = torch.randn(2, 3, 3, generator=generator), torch.full((2, 3), 300.0), slice(2, 3)
    drop = torch.tensor([True, False])
    with torch.no_grad():
        together = denoiser.forward_sequence(context(clean), DenoiserInput(noisy, time, moves, drop_context=drop))
        given = DenoiserInput(noisy[:, last], time[:, last], moves[:, last])
        empty = denoiser.init_cache(clean[:, 0])
        alone = denoiser.forward_cached(empty, given)
        elsewhere = denoiser.forward_cached({**empty, "frames": clean}, given)
        seen = denoiser.forward_cached(denoiser.update_cache(empty, context(clean[:, :2])), given)
    torch.testing.assert_close(together[:1, last], alone[:1], rtol=0, atol=1e-5)
    torch.testing.assert_close(together[1:, last], seen[1:], rtol=0, atol=1e-5)
    assert torch.equal(alone, elsewhere)
    assert not torch.allclose(alone, seen, atol=1e-3)


def test_moves_are_scaled_as_in_the_networks_training(world: World) -> None:
    denoiser: Any = world.model.denoiser  # type: ignore[attr-defined]
    moves = torch.tensor([[-2.5, 4.0, 0.5], [5.0, -4.0, -3.0], [0.0, 0.0, 0.0]])
    given = Moves(gym.spaces.Box(np.float32(LOWEST), np.float32(HIGHEST)))(moves) + denoiser.still
    expected = torch.tensor([[-1.0, 1.0, 0.5], [1.0, -1.0, -3.0], [-1 / 3, 0.0, 0.0]])
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)


def test_a_frame_further_ahead_is_given_the_whole_move_and_the_time_it_takes(world: World) -> None:
    model: Any = world.model
    denoiser, generator = model.denoiser, torch.Generator().manual_seed(3)
    frames, moves = torch.rand(2, 3, 3, SIDE, SIDE, generator=generator), torch.randn(2, 4, 3, generator=generator)
    state = started(model, frames, moves[:, :2])
    given = []

    def listen(_: Any, inputs: tuple[Tensor, ...]) -> None:
        given.append(inputs[0].clone())

    hooks = [part.register_forward_pre_hook(listen) for part in (*denoiser.moves, denoiser.time_shift)]
    with torch.no_grad():
        model.predict_ahead(state, moves)
    for hook in hooks:
        hook.remove()
    *move, ahead = (one[:, 0] for one in given[:4])
    total = moves.sum(1) * torch.tensor([2 / 7.5, 2 / 8, 1.0]) + torch.tensor([-1 / 3, 0.0, 0.0])
    torch.testing.assert_close(torch.stack(move, dim=-1), total)
    torch.testing.assert_close(ahead, torch.full((2,), 4 / 128))
    with pytest.raises(ActionError, match="64 steps ahead at most"):
        model.predict_ahead(state, torch.zeros(2, 65, 3))


def test_before_there_are_enough_frames_the_first_one_stands_for_them(world: World) -> None:
    denoiser: Any = world.model.denoiser  # type: ignore[attr-defined]
    frames = torch.randn(2, 2, 4, 8, 8)
    cache = denoiser.update_cache(denoiser.init_cache(frames[:, 0]), context(frames))
    assert torch.equal(cache["frames"], frames[:, [0, 0, 1]])
    assert cache["length"].tolist() == [2, 2]


def test_latents_are_sampled_from_the_rows_own_stream(world: World) -> None:
    model: Any = world.model
    frame = torch.rand(1, 3, SIDE, SIDE).expand(2, -1, -1, -1)
    with torch.no_grad():
        same, other = (model.start(frame, torch.tensor(seeds))["frames"] for seeds in ([7, 7], [7, 8]))
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], other[0])
    assert not torch.equal(other[0], other[1])


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 heads"):
        NWMConfig(embed_dim=24, heads=5)
    with pytest.raises(ConfigError, match="made for 'vp' noise, not 'edm'"):
        DenoisingConfig(denoiser=NWMConfig(), process=EDM(), target=EDMPreconditioned())
    with pytest.raises(ConfigError, match="max_time_shift at most 16"):
        NWMConfig(pace=4)
    with pytest.raises(ConfigError, match="max_time_shift must be at least 1"):
        NWMConfig(max_time_shift=0)
    with pytest.raises(ConfigError, match="Box of 3 numbers"):
        NWMConfig().action_encoder(gym.spaces.Discrete(3))
    with pytest.raises(ConfigError, match="3 numbers, not 6"):
        TINY.build(dataclasses.replace(SHAPE, actions_per_frame=2))
    with pytest.raises(ConfigError, match="patch of 3 does not divide"):
        dataclasses.replace(TINY, patch=3).build(SHAPE)
    with pytest.raises(ConfigError, match="32 groups"):
        SDVAEConfig(channels=(20,))


def test_every_setting_of_the_denoiser_changes_what_it_predicts() -> None:
    generator = torch.Generator().manual_seed(6)
    frames, noisy = (torch.randn(1, 4, 4, 8, 8, generator=generator) for _ in range(2))
    given = DenoiserInput(noisy[:, :1], torch.full((1, 1), 200.0), torch.ones(1, 1, 3))

    def predicted(config: NWMConfig) -> Tensor:
        denoiser = config.build(SHAPE)
        filled(denoiser)
        with torch.no_grad():
            cache = denoiser.update_cache(denoiser.init_cache(noisy[:, 0]), context(frames))
            return denoiser.forward_cached(cache, given)

    changes = {"context": 2, "embed_dim": 36, "depth": 1, "heads": 3, "patch": 4, "pace": 2}
    assert {field.name for field in dataclasses.fields(NWMConfig)} == {*changes, "max_time_shift"}
    base = dataclasses.replace(TINY, max_time_shift=8)
    for name, value in changes.items():
        assert not torch.equal(predicted(dataclasses.replace(base, **{name: value})), predicted(base)), name
    assert (TINY.shift_range, base.shift_range) == (64, 8)


def test_every_setting_of_the_codec_changes_what_is_built() -> None:
    def built(config: SDVAEConfig) -> str:
        return str(config.build((3, SIDE, SIDE)))

    base = SDVAEConfig(channels=TINY_CODEC)
    changes = {"channels": (32, 64), "blocks": 1, "latent_channels": 8, "groups": 16}
    assert {field.name for field in dataclasses.fields(SDVAEConfig)} == {*changes, "training"}
    for name, value in changes.items():
        assert built(dataclasses.replace(base, **{name: value})) != built(base), name

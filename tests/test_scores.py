"""Scores are the likelihoods that they say they are, and bits count what they should."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from dreamenv.backbones.grid_rssm import presets as grid_rssm
from dreamenv.backbones.rssm import RSSM
from dreamenv.backbones.rssm import presets as rssm
from dreamenv.backbones.rssm.pixel_likelihood import pixel_nats
from dreamenv.capabilities import SupportsScore
from dreamenv.errors import ConfigError
from dreamenv.metrics.bits import TwoPartCode, bits_per_dim, to_bits
from dreamenv.testing import ROWS, SPEC, STEPS
from dreamenv.world_model import BackboneConfig, Batch, WorldModel


def built(config: BackboneConfig) -> WorldModel:
    torch.manual_seed(0)
    model = config.build(SPEC)
    for parameter in model.parameters():  # some begin as zeros
        parameter.data.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


def recorded() -> tuple[Tensor, Tensor, Tensor]:
    """First frames, actions, frames."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(256, (ROWS, STEPS + 1, *SPEC.frame_shape), generator=generator) / 255
    return frames[:, 0], torch.randint(3, (ROWS, STEPS), generator=generator), frames[:, 1:]


def batch(features: Tensor | None = None) -> Batch:
    first, actions, frames = recorded()
    return Batch(
        first_frame=first, frames=frames, actions=actions, rewards=torch.zeros(ROWS, STEPS),
        terminated=torch.zeros(ROWS, STEPS, dtype=torch.bool), weight=torch.ones(ROWS, STEPS), features=features,
        generator=torch.Generator().manual_seed(2),
    )  # fmt: skip


def score(model: WorldModel) -> Tensor:
    assert isinstance(model, SupportsScore)
    first, actions, frames = recorded()
    with torch.no_grad():
        return model.score(model.start(first, torch.arange(ROWS)), actions, frames)


def test_the_score_of_a_grid_is_the_loss_that_its_prior_learns() -> None:
    model = built(dataclasses.replace(grid_rssm.tiny(), groups=1))  # of several, the loss draws one at random
    stage = model.stages()[1]
    first, _, frames = recorded()
    assert stage.precompute is not None
    with torch.no_grad():
        codes = stage.precompute(torch.cat((first[:, None], frames), dim=1).flatten(0, 1)).unflatten(0, (ROWS, -1))
        _, terms = stage.objectives[0].loss(batch(codes))
    torch.testing.assert_close(score(model).mean(), terms["prior"], rtol=1e-4, atol=1e-4)


def test_a_grids_tokens_have_probabilities_that_add_up_to_one() -> None:
    """Of one place, all others as they are: by the last group, whose places see all others decoded."""
    model = built(grid_rssm.tiny())
    prior, autoencoder = model.prior, model.autoencoder  # type: ignore[union-attr]
    first, _, frames = recorded()
    codes = autoencoder.encode(frames[:, 0])[:1].repeat(prior.tokens, 1, 1, 1)  # type: ignore[operator]
    tokens = prior.tokens_of(codes)  # type: ignore[operator]
    tokens[:, prior.places[-1, 0]] = torch.arange(prior.tokens)  # type: ignore[index, arg-type]
    codes = prior.codes_of(tokens)  # type: ignore[operator]
    before = autoencoder.values(autoencoder.encode(first[:1])).repeat(prior.tokens, 2, 1, 1)  # type: ignore[operator]
    with torch.no_grad():
        nats = model._nats(torch.zeros(len(codes), model.config.deter), before, codes, autoencoder.values(codes))  # type: ignore
    others = torch.logsumexp(-nats, dim=0)  # the others' share, common to all
    group = torch.full((1,), prior.groups - 1)  # type: ignore[arg-type]
    context = prior.context(torch.zeros(1, model.config.deter), before[:1])  # type: ignore
    with torch.no_grad():
        probs = prior(context, autoencoder.values(codes[:1]), group)[0, 0]  # type: ignore
    torch.testing.assert_close((-nats - others).exp(), probs, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(probs.sum(), torch.tensor(1.0), rtol=1e-4, atol=1e-5)


def test_the_bound_of_an_rssm_has_the_divergence_that_its_prior_learns() -> None:
    model = built(rssm.tiny())
    assert isinstance(model, RSSM)
    model.autoencoder.unimix = 0.0
    model.autoencoder.posterior.weight.data.mul_(1e4)  # so that a latent is what it is, whoever draws it
    stage = model.stages()[1]
    first, actions, frames = recorded()
    assert stage.precompute is not None
    with torch.no_grad():
        posterior = stage.precompute(torch.cat((first[:, None], frames), dim=1).flatten(0, 1)).clamp_min(-80)
        _, terms = stage.objectives[0].loss(batch(posterior.unflatten(0, (ROWS, -1))))
        state = model.start(first, torch.arange(ROWS))
        latents = []
        for i in range(STEPS):
            state = model.observe(state, actions[:, i : i + 1], frames[:, i : i + 1])
            latents.append(state["stoch"])
        pixels = pixel_nats(model.autoencoder.decode(torch.cat(latents)).unflatten(0, (STEPS, ROWS)).transpose(0, 1),
                            frames)  # fmt: skip
    torch.testing.assert_close((score(model) - pixels).mean(), terms["dynamics"], rtol=1e-2, atol=0.2)


def test_the_likelihood_of_pixels_adds_up_to_one_over_all_frames() -> None:
    every = torch.arange(256) / 255
    for shown in (0.0, 0.3, 1.0):
        nats = pixel_nats(torch.full((256, 1, 1, 1, 1), shown), every[:, None, None, None, None])
        torch.testing.assert_close((-nats).exp().sum(), torch.tensor(1.0), rtol=1e-4, atol=1e-5)


def test_a_frame_as_it_is_shown_costs_little_and_another_more() -> None:
    frame = torch.randint(256, (1, 1, 3, 16, 16), generator=torch.Generator().manual_seed(0)) / 255
    exact, near, far = (float(pixel_nats((frame + error).clamp(0, 1), frame)) for error in (0.0, 0.02, 0.3))
    assert exact < 40 < near < far < 768 * math.log(256) * 1.2


def test_a_world_that_cannot_say_how_probable_a_frame_is_has_no_score() -> None:
    from dreamenv.backbones.persistence import PersistenceConfig

    assert not isinstance(PersistenceConfig().build(SPEC), SupportsScore)


def test_bits_are_counted_by_frame_by_value_and_with_the_model() -> None:
    assert to_bits(math.log(2)) == pytest.approx(1.0)
    assert bits_per_dim(98_304, (3, 64, 64)) == pytest.approx(8.0)
    code = TwoPartCode(model_bytes=1000, bits_per_frame=10.0)
    assert code.total_bits(3) == 8030
    found = code.break_even_frames(30.0)
    assert found == 401  # at 400 frames both take 12,000 bits
    assert code.total_bits(found) < found * 30.0
    assert code.total_bits(found - 1) >= (found - 1) * 30.0
    assert code.break_even_frames(10.0) is None
    with pytest.raises(ConfigError, match="model_bytes"):
        TwoPartCode(model_bytes=-1, bits_per_frame=1.0)

"""The grid RSSM: its codec keeps small things, and what it draws group by group is one exact distribution."""

from __future__ import annotations

import dataclasses
import math

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from dreamenv.backbones.grid_rssm import GridRSSM, GridRSSMConfig, GridRSSMTraining
from dreamenv.backbones.grid_rssm.presets import tiny
from dreamenv.backbones.grid_rssm.prior import GridPrior
from dreamenv.codecs.fsq import FSQConfig
from dreamenv.codecs.rate import CodeRate
from dreamenv.errors import ConfigError
from dreamenv.parts import part_to_json
from dreamenv.testing import SPEC
from dreamenv.world_model import Batch, DataStatistics, WorldModelSpec


def make_prior(groups: int, grid: tuple[int, int, int] = (4, 3, 5)) -> GridPrior:
    torch.manual_seed(0)
    prior = GridPrior(grid, 5, deter=8, channels=16, blocks=1, groups=groups, unimix=0.0)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # what begins at 0 would hide a mistake
    return prior.eval()


def places_of(prior: GridPrior, index: int) -> Tensor:
    return prior.places[index, : prior.sizes[index]]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_group_depends_on_those_before_it_alone(groups: int) -> None:
    prior = make_prior(groups, (2, 3, 5))
    deter, before, frame = torch.randn(2, 8), torch.randn(2, 4, 3, 5), torch.randn(2, 2, 3, 5)
    context = prior.context(deter, before)
    for index in range(groups):
        group = torch.full((2,), index)
        given = prior(context, frame, group)[:, : prior.sizes[index]]
        other = torch.where(prior.group < index, frame, torch.randn_like(frame))
        assert torch.equal(prior(context, other, group)[:, : prior.sizes[index]], given)
        assert index == 0 or not torch.allclose(
            prior(context, -frame, group)[:, : prior.sizes[index]], given, atol=1e-3
        )
        assert torch.allclose(given.sum(dim=-1), torch.ones(2, prior.sizes[index]))


@pytest.mark.parametrize("groups", [2, 4])
def test_neighbours_are_in_different_groups_and_every_place_is_in_one(groups: int) -> None:
    prior = make_prior(groups)
    assert bool((prior.group[:, 1:] != prior.group[:, :-1]).all())
    assert bool((prior.group[1:] != prior.group[:-1]).all())
    every = torch.cat([places_of(prior, index) for index in range(groups)])
    assert sorted(every.tolist()) == list(range(15))
    assert all(bool((prior.group.flatten()[places_of(prior, index)] == index).all()) for index in range(groups))


def test_tokens_stand_for_the_scalars_of_a_place() -> None:
    prior = make_prior(2)
    codes = torch.randint(5, (7, *prior.grid))
    tokens = prior.tokens_of(codes)
    assert tokens.shape == (7, 15)
    assert int(tokens.max()) < prior.tokens == 625
    assert torch.equal(prior.codes_of(tokens), codes)


def test_more_groups_than_the_grid_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"groups must be at most 2 on a grid of \(1, 1, 2\), not 3"):
        GridPrior((1, 1, 2), 5, deter=8, channels=8, blocks=1, groups=3, unimix=0.0)


def test_more_tokens_than_a_layer_should_have_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"8 scalars of 5 levels are 390625 tokens, more than 4096; take fewer"):
        GridPrior((8, 2, 2), 5, deter=8, channels=8, blocks=1, groups=2, unimix=0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 4}, "levels must be odd and at least 3, not 4"),
        ({"levels": 1}, "levels must be odd and at least 3, not 1"),
        ({"scalars": 0}, "scalars must be at least 1, not 0"),
        ({"channels": ()}, "channels must be positive sizes"),
    ],
)
def test_a_codec_that_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FSQConfig(**settings)  # type: ignore[arg-type]


def test_a_frame_that_places_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"multiples of 8, not 12x16; resize them"):
        FSQConfig().build((3, 12, 16))


def test_values_are_rounded_to_levels_and_gradients_pass() -> None:
    torch.manual_seed(0)
    codec = FSQConfig(channels=(8, 8)).build((3, 16, 16))
    frames = torch.rand(5, 3, 16, 16)
    codes = codec.encode(frames)
    assert codes.shape == (5, 4, 2, 2)
    assert codes.dtype == torch.int64
    assert int(codes.min()) >= 0
    assert int(codes.max()) <= 4
    assert set(codec.values(torch.arange(5).view(5, 1, 1, 1)).flatten().tolist()) == {-1.0, -0.5, 0.0, 0.5, 1.0}
    values = codec.rounded(frames)
    assert torch.allclose(values, codec.values(codes), atol=1e-6)
    loss, _ = codec.loss(frames, values)
    loss.backward()
    assert all(
        parameter.grad is not None and bool(parameter.grad.abs().sum() > 0) for parameter in codec.down[-1].parameters()
    )


def test_the_codec_keeps_a_small_moving_thing() -> None:
    """A square of 2 x 2 pixels, anywhere: smoothed away, the error of the mean frame would stay."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    codec = FSQConfig(patch=2, channels=(24, 32)).build((1, 16, 16))
    optimizer = torch.optim.Adam(codec.parameters(), 3e-3)
    codec.mean_frame.fill_(4 / 256)
    for _ in range(300):
        frames = squares(64, generator)
        loss, logged = codec.loss(frames, codec.rounded(frames), foreground_weight=20.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    frames = squares(64, generator)
    with torch.no_grad():
        decoded = codec.decode(codec.values(codec.encode(frames)))
    inside = decoded[frames == 1]
    assert float(inside.mean()) > 0.7
    assert float((decoded[frames == 0] > 0.5).float().mean()) < 0.005
    assert float(logged["psnr_db"]) > 25


def test_edges_weigh_as_much_as_they_are_asked_to() -> None:
    """A blurred edge costs more than the same squared error spread over the frame."""
    torch.manual_seed(0)
    codec = FSQConfig(channels=(8, 8)).build((1, 16, 16))
    torch.nn.init.zeros_(codec.up[-2].bias)
    frames = torch.zeros(2, 1, 16, 16)
    codec.mean_frame.fill_(0.0)
    codec.mean_frame[..., 8:] = 0.5  # what is decoded, with an edge that the frames do not have
    with torch.no_grad():
        codec.up[-2].weight.zero_()
        values = codec.rounded(frames)
        plain, _ = codec.loss(frames, values)
        sharp, _ = codec.loss(frames, values, edge_weight=2.0)
    assert float(sharp - plain) == pytest.approx(2.0 * 16 * 0.25)
    with pytest.raises(ConfigError, match="edge_weight must be at least 0, not -1"):
        GridRSSMTraining(edge_weight=-1)


def test_the_rate_is_that_of_a_distribution_over_levels() -> None:
    """One scalar at one place: the probabilities of its five levels add up to 1, whatever the frame before."""
    torch.manual_seed(0)
    rate = CodeRate(1, 5)
    for parameter in rate.parameters():
        torch.nn.init.normal_(parameter)
    levels = torch.linspace(-1, 1, 5).view(5, 1, 1, 1)
    for before in levels:
        nats = rate(before.expand(5, 1, 1, 1), levels).detach()
        assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-4)


def test_a_codec_that_pays_for_its_rate_leaves_out_what_cannot_be_foretold() -> None:
    """Two frames of stripes that stay, under noise that does not: dearer codes are fewer nats, and keep the stripes."""
    spec = WorldModelSpec(frame_shape=(1, 16, 16), action_space=gym.spaces.Discrete(2), frame_rate=10.0)
    terms = {}
    for weight in (0.0, 0.2):
        torch.manual_seed(0)
        training = dataclasses.replace(tiny().training, rate_weight=weight, edge_weight=0.0, bfloat16=False)
        stage = dataclasses.replace(tiny(), training=training).build(spec).stages()[0]
        optimizer = torch.optim.Adam(stage.objectives[0].parameters, 3e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(150):
            loss, terms[weight] = stage.objectives[0].loss(noisy_stripes(spec, generator))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    untrained = math.log(5) * 16  # of four scalars at four places, foretold by chance
    assert float(terms[0.2]["rate"].detach()) < 0.7 * untrained
    assert "rate" not in terms[0.0]
    assert float(terms[0.2]["psnr_db"]) > float(terms[0.0]["psnr_db"]) - 1.0


def noisy_stripes(spec: WorldModelSpec, generator: torch.Generator) -> Batch:
    """Sixteen windows of one step, each of stripes of its own two shades."""
    shades = torch.rand(16, 1, 1, 1, 1, generator=generator)
    frames = (torch.arange(16) // 4 % 2 * (shades - 0.5) + 0.25).expand(16, 2, *spec.frame_shape)
    frames = frames + 0.1 * torch.randn(frames.shape, generator=generator)
    zeros = torch.zeros(16, 1)
    return Batch(
        first_frame=frames[:, 0], frames=frames[:, 1:], actions=zeros.long(), rewards=zeros, terminated=zeros.bool(),
        weight=torch.ones(16, 1), generator=generator,
    )  # fmt: skip


def test_a_frame_that_ends_an_episode_has_no_rate() -> None:
    spec = WorldModelSpec(frame_shape=(1, 16, 16), action_space=gym.spaces.Discrete(2), frame_rate=10.0)
    model = tiny().build(spec).eval()
    for parameter in model.stages()[0].objectives[0].parameters:
        torch.nn.init.normal_(parameter, std=0.3)
    loss = model.stages()[0].objectives[0].loss
    batch = noisy_stripes(spec, torch.Generator().manual_seed(0))
    ended = torch.arange(16)[:, None] < 8
    other = torch.where(ended[..., None, None, None], torch.rand(16, 1, *spec.frame_shape), batch.frames)
    _, terms = loss(dataclasses.replace(batch, terminated=ended))
    _, same = loss(dataclasses.replace(batch, terminated=ended, frames=other))
    assert torch.equal(terms["rate"], same["rate"])
    assert not torch.equal(terms["rate"], loss(batch)[1]["rate"])


def squares(count: int, generator: torch.Generator) -> Tensor:
    """White squares of 2 x 2 pixels on black, (n, 1, 16, 16)."""
    frames = torch.zeros(count, 1, 16, 16)
    for frame, (y, x) in zip(frames, torch.randint(15, (count, 2), generator=generator).tolist(), strict=True):
        frame[:, y : y + 2, x : x + 2] = 1
    return frames


def test_groups_make_what_lies_side_by_side_agree() -> None:
    """Every next frame is all black or all white, by chance: scalars drawn independently would mix both."""
    spec = WorldModelSpec(frame_shape=(1, 16, 16), action_space=gym.spaces.Discrete(2), frame_rate=10.0)
    agreement = {groups: share_of_plain_frames(spec, groups) for groups in (1, 4)}
    assert agreement[4] > 0.7
    assert agreement[1] < 0.6


def share_of_plain_frames(spec: WorldModelSpec, groups: int) -> float:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    # Where codes are dear, one place may tell the coin's side for all, and none has to agree with another.
    training = dataclasses.replace(tiny().training, rate_weight=0.0)
    config = dataclasses.replace(tiny(), groups=groups, codec=FSQConfig(channels=(8, 8)), training=training)
    model = config.build(spec)
    assert isinstance(model, GridRSSM)
    model.calibrate(DataStatistics(torch.full(spec.frame_shape, 0.5), 0.0, 0.0, 0.0, 0.0, 0.0))
    codec, dynamics = model.stages()
    model.train()
    for stage, steps in ((codec, 100), (dynamics, 150)):
        optimizer = torch.optim.Adam(stage.objectives[0].parameters, 5e-3)
        for _ in range(steps):
            batch = coin_flips(spec, generator)
            if stage.precompute is not None:
                frames = torch.cat((batch.first_frame[:, None], batch.frames), dim=1)
                batch = dataclasses.replace(
                    batch, features=model.autoencoder.encode(frames.flatten(0, 1)).unflatten(0, (-1, 5))
                )
            loss, _ = stage.objectives[0].loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        state = model.start(torch.zeros(200, *spec.frame_shape), torch.arange(200))
        imagined, _ = model.imagine(state, torch.zeros(200, 1, dtype=torch.int64))
    assert imagined.frames is not None
    bright = imagined.frames.flatten(1).mean(dim=1)
    return float(((bright < 0.1) | (bright > 0.9)).float().mean())


def coin_flips(spec: WorldModelSpec, generator: torch.Generator) -> Batch:
    """Eight episodes of four steps, whose frames are black or white by chance."""
    plain = torch.randint(2, (8, 5, 1, 1, 1), generator=generator).float().expand(8, 5, *spec.frame_shape).contiguous()
    zeros = torch.zeros(8, 4)
    return Batch(
        first_frame=plain[:, 0], frames=plain[:, 1:], actions=zeros.long(), rewards=zeros, terminated=zeros.bool(),
        weight=torch.ones(8, 4), generator=generator,
    )  # fmt: skip


def test_the_exact_prior_is_estimated_without_bias() -> None:
    """Training draws one group per frame; over many draws its mean is the sum over groups."""
    torch.manual_seed(0)
    model = (
        GridRSSMConfig(
            deter=16,
            hidden=16,
            codec=FSQConfig(channels=(8, 8)),
            prior_channels=8,
            prior_blocks=1,
            groups=4,
            unimix=0.1,
        )
        .build(SPEC)
        .eval()
    )
    prior = model.prior
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    deter, codes = torch.randn(1, 16), torch.randint(5, (1, *prior.grid))
    before = torch.randn(1, 2 * prior.grid[0], *prior.grid[1:])
    values = model.autoencoder.values(codes)
    with torch.no_grad():
        context, exact = prior.context(deter, before), 0.0
        for index in range(prior.groups):
            log_probs = prior(context, values, torch.tensor([index]))[0, : prior.sizes[index]].log()
            tokens = prior.tokens_of(codes)[0, places_of(prior, index)]
            exact -= float(log_probs.gather(-1, tokens[:, None]).sum())
        n = 4000
        losses = model.stages()[1].objectives[0].loss.__self__
        drawn = losses._nats(
            deter.expand(n, -1),
            before.expand(n, -1, -1, -1),
            codes.expand(n, -1, -1, -1),
            torch.Generator().manual_seed(0),
        )
    assert abs(float(drawn.mean()) / exact - 1) < 0.03


@pytest.mark.parametrize(("share", "learned"), [(0.25, 8), (0.001, 1), (1.0, 32)])
def test_the_prior_learns_a_share_of_the_steps_and_is_judged_on_all(share: float, learned: int) -> None:
    spec = WorldModelSpec(frame_shape=(1, 16, 16), action_space=gym.spaces.Discrete(2), frame_rate=10.0)
    config = dataclasses.replace(tiny(), training=dataclasses.replace(tiny().training, prior_share=share))
    model = config.build(spec)
    losses = model.stages()[1].objectives[0].loss.__self__  # type: ignore[attr-defined]
    batch = coin_flips(spec, torch.Generator().manual_seed(0))
    assert len(losses._learned(batch).unique()) == learned
    model.eval()
    assert len(losses._learned(batch).unique()) == 32


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=rf"prior_share must be in \(0, 1\], not {share}"):
        GridRSSMTraining(prior_share=share)


def test_min_p_leaves_out_unlikely_tokens() -> None:
    spec = WorldModelSpec(frame_shape=(1, 16, 16), action_space=gym.spaces.Discrete(2), frame_rate=10.0)
    torch.manual_seed(0)
    model = tiny().build(spec).eval()
    greedy = dataclasses.replace(tiny(), min_p=1.0).build(spec).eval()
    assert isinstance(model, GridRSSM)
    with torch.no_grad():
        for parameter in model.prior.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        greedy.load_state_dict(model.state_dict())
        state, actions = model.start(torch.rand(50, *spec.frame_shape), torch.arange(50)), torch.zeros(50, 1).long()
        drawn = model.imagine(state, actions)[1]["codes"]
        likeliest = model.imagine(state.replace(temperature=torch.zeros(50)), actions)[1]["codes"]
        assert torch.equal(greedy.imagine(state, actions)[1]["codes"], likeliest)
    assert not torch.equal(drawn, likeliest)
    with pytest.raises(ConfigError, match=r"min_p must be in \[0, 1\], not 1.5"):
        dataclasses.replace(tiny(), min_p=1.5)


def test_rounded_weights_dream_nearly_the_same() -> None:
    torch.manual_seed(0)
    model, rounded = tiny().build(SPEC).eval(), tiny().build(SPEC).eval()
    rounded.load_state_dict(model.state_dict())
    assert isinstance(rounded, GridRSSM)
    rounded.store_in_bfloat16()
    with torch.no_grad():
        state, actions = model.start(torch.rand(64, *SPEC.frame_shape), torch.arange(64)), torch.zeros(64, 1).long()
        exact, after = model.imagine(state, actions)
        fast, after_fast = rounded.imagine(state, actions)
    assert 0 < float((after["deter"] - after_fast["deter"]).abs().max()) < 0.02
    assert after_fast["deter"].dtype == fast.rewards.dtype == torch.float32
    assert float((exact.termination - fast.termination).abs().max()) < 0.02
    assert float((after["codes"] == after_fast["codes"]).float().mean()) > 0.95  # others fell next to a boundary


def test_a_weight_of_training_is_no_part_of_a_dream() -> None:
    """What dreams depend on is told by a hash of the settings without those of training."""
    other = dataclasses.replace(tiny(), training=dataclasses.replace(tiny().training, foreground_weight=1.0))
    assert part_to_json(tiny(), training=False) == part_to_json(other, training=False)
    with pytest.raises(ConfigError, match="foreground_weight must be at least 0, not -1"):
        dataclasses.replace(tiny().training, foreground_weight=-1.0)

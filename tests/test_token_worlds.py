"""Token worlds: what is cached agrees with what is not, nothing is seen before it is drawn, and draws are as scored."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import pytest
import torch
from multi_scale import PyramidConfig
from torch import Tensor

from dreamenv.backbones.rssm.stream import RowStreams
from dreamenv.backbones.tokens import TokenWorld, TokenWorldConfig, TokenWorldTraining, dynamics
from dreamenv.backbones.tokens.action_tokens import GroupedActionTokensConfig, OneActionTokenConfig
from dreamenv.backbones.tokens.diagonal import DiagonalOrderConfig
from dreamenv.backbones.tokens.masked import MaskedOrderConfig
from dreamenv.backbones.tokens.next_scale import NextScaleOrderConfig
from dreamenv.backbones.tokens.order import OrderConfig
from dreamenv.backbones.tokens.presets import iris, mineworld, tiny
from dreamenv.backbones.tokens.raster import RasterOrderConfig
from dreamenv.backbones.tokens.sampling import TokenSampling
from dreamenv.backbones.tokens.transformer import TokenTransformerConfig
from dreamenv.codecs.context_tokens import ContextTokenizerConfig
from dreamenv.codecs.fsq import FSQConfig
from dreamenv.codecs.fsq_tokens import FSQTokenizerConfig
from dreamenv.codecs.grid import ConvGridConfig
from dreamenv.codecs.multi_scale import MultiScaleTokenizerConfig
from dreamenv.errors import ConfigError, InputError, StateError
from dreamenv.testing import SPEC
from dreamenv.world_model import Batch

FLAT = FSQTokenizerConfig(codec=FSQConfig(scalars=2, levels=3, channels=(8,)))  # 4 x 4 tokens of 9
GRID = ConvGridConfig(channels=(8, 16))  # 2 x 2
ORDERS = {
    "raster": RasterOrderConfig(),
    "diagonal": DiagonalOrderConfig(delay=2),
    "masked": MaskedOrderConfig(groups=4),
    "next scale": NextScaleOrderConfig(),
}
ROWS, CONTEXT = 3, 2


def make(order: str, **settings: object) -> TokenWorld:
    torch.manual_seed(0)
    config = dataclasses.replace(
        tiny(),
        tokenizer=PyramidConfig() if order == "next scale" else FLAT,
        order=ORDERS[order],
        transformer=dataclasses.replace(tiny().transformer, context=CONTEXT),
        **settings,
    )
    model = config.build(SPEC)
    for parameter in model.dynamics.parameters():  # larger than untrained, so that everything has its effect
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def recorded(steps: int, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    """First frames, actions and frames."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(rows, steps + 1, *SPEC.frame_shape, generator=generator)
    return frames[:, 0], torch.randint(3, (rows, steps), generator=generator), frames[:, 1:]


@pytest.mark.parametrize(
    ("tokenizer", "order"),
    [
        (ContextTokenizerConfig(grid=ConvGridConfig(channels=(8, 16))), RasterOrderConfig()),
        (
            MultiScaleTokenizerConfig(grid=ConvGridConfig(channels=(8, 16)), scales=(1, 2), phis=2),
            NextScaleOrderConfig(),
        ),
    ],
    ids=["context", "next_scale"],
)
def test_worlds_of_other_tokenizers_dream_in_bfloat16(tokenizer, order) -> None:
    config = dataclasses.replace(tiny(), tokenizer=tokenizer, order=order)
    model = config.build(SPEC).eval()
    model.store_in_bfloat16()
    first, actions, frames = recorded(2)
    state = model.observe(model.start(first, torch.arange(ROWS)), actions, frames)
    imagined, _ = model.imagine(state, actions)
    assert imagined.frames.shape == frames.shape
    assert bool(imagined.frames.isfinite().all())


@pytest.mark.parametrize("order", ORDERS)
def test_a_cache_that_slides_agrees_with_one_pass_over_everything(order: str) -> None:
    model, steps = make(order), 4 * CONTEXT
    first, actions, frames = recorded(steps)
    state = model.start(first, torch.arange(ROWS))
    tokens = torch.cat((state["tokens"][:, None], model.frames.encode(frames, actions, None)), dim=1)
    uncached = whole_pass(model, actions, tokens).sum(dim=-1)
    torch.testing.assert_close(model.score(state, actions, frames), uncached, rtol=1e-4, atol=1e-4)
    for index in range(steps):
        now = slice(index, index + 1)
        one = model.score(state, actions[:, now], frames[:, now])
        torch.testing.assert_close(one, uncached[:, now], rtol=1e-4, atol=1e-4)
        state = model.observe(state, actions[:, now], frames[:, now])
    assert bool((state["length"] == model.dynamics.cached).all())


@pytest.mark.parametrize("order", ORDERS)
def test_long_clips_are_scored_in_stretches(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(order)
    first, actions, frames = recorded(7)
    state = model.start(first, torch.arange(ROWS))
    whole, after = model.score(state, actions, frames), model.observe(state, actions, frames)
    monkeypatch.setattr(dynamics, "_STRETCH", 3 * model.dynamics.layout.slots)
    torch.testing.assert_close(model.score(state, actions, frames), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.observe(state, actions, frames)["keys"], after["keys"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_rows_of_any_age_are_scored_as_if_alone(order: str) -> None:
    model = make(order)
    first, actions, frames = recorded(5)
    old = model.observe(model.start(first, torch.arange(ROWS)), actions[:, :4], frames[:, :4])
    young = model.start(first, torch.arange(ROWS))
    mixed = old.clone()
    mixed[1:2] = young[1:2]
    last = actions[:, 4:], frames[:, 4:]
    scores = model.score(mixed, *last)
    torch.testing.assert_close(scores[[0, 2]], model.score(old, *last)[[0, 2]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores[1], model.score(young, *last)[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_a_dream_of_any_length_goes_on_as_it_began(order: str) -> None:
    """Positions are relative: a million steps later the same frames are as likely."""
    model = make(order)
    first, actions, frames = recorded(6)
    state = model.observe(model.start(first, torch.arange(ROWS)), actions[:, :3], frames[:, :3])
    began, later = model.dynamics.begin(state["tokens"]), model.dynamics.begin(state["tokens"])
    later = dataclasses.replace(later, position=later.position + 1_000_000)
    if model.dynamics.layout.opens:  # keys of the opening were rotated by where they stood
        later = dataclasses.replace(later, length=torch.zeros_like(later.length))
        began = dataclasses.replace(began, length=torch.zeros_like(began.length))
    tokens = model.frames.encode(frames, actions, None)
    scores = [model.dynamics.nats(one, state["tokens"], model.frames.acted(actions, None), tokens) for one in
              (began, later)]  # fmt: skip
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("order", ORDERS)
def test_no_token_is_predicted_from_itself_or_what_comes_later(order: str) -> None:
    """Another token changes what is predicted in later passes alone, and all of that."""
    model = make(order)
    layout = model.dynamics.layout
    drawn_in = torch.empty(model.frames.tokenizer.tokens_per_frame, dtype=torch.int64)
    for number, one in enumerate(layout.passes):
        drawn_in[one.drawn] = number
    tokens = torch.randint(9, (1, 3, len(drawn_in)))
    actions = torch.randint(3, (1, 2))
    for at in range(len(drawn_in)):
        other = tokens.clone()
        other[0, 1, at] = (other[0, 1, at] + 1) % 9
        rounds = range(model.dynamics.order.rounds)
        probs, others = (
            sum(predicted_probs(model, actions, one, index) for index in rounds) for one in (tokens, other)
        )
        changed = ((probs - others).abs().amax(dim=-1) > 1e-7)[0]  # t l
        assert not bool(changed[0, drawn_in <= drawn_in[at]].any())
        assert bool(changed[0, drawn_in > drawn_in[at]].all())
        assert bool(changed[1].all())


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_what_is_drawn_is_as_likely_as_it_is_scored(order: str) -> None:
    """By the chain rule, the mean score of a dream's own tokens is the mean of the entropies it was drawn with."""
    model, rows = make(order), 400
    first, actions, _ = recorded(3, rows)
    state = model.start(first[:1].expand(rows, -1, -1, -1).contiguous(), torch.arange(rows))
    acted = model.frames.acted(actions[:1].expand(rows, -1), None)
    imagined, after = model.imagine(state, actions[:1].expand(rows, -1).contiguous())
    memory = dynamics.StreamMemory(*(state[name] for name in ("keys", "values", "length", "position", "passed")))
    streams = [model._drawer(RowStreams.of(state), step) for step in range(3)]
    _, tokens, _, entropy = model.dynamics.dream(memory, state["tokens"], acted, lambda step: streams[step])
    assert torch.equal(tokens[:, -1], after["tokens"])
    assert imagined.uncertainty is not None
    torch.testing.assert_close(imagined.uncertainty, entropy)
    nats = model.dynamics.nats(memory, state["tokens"], acted, tokens)
    expected = entropy.mean() * tokens.shape[-1]
    assert abs(float(nats.mean() / expected) - 1) < 0.03


@pytest.mark.parametrize("order", ORDERS)
def test_a_step_takes_as_many_passes_as_its_order_has(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes = make(order), []
    run = model.dynamics.transformer.forward

    def counted(tokens: Tensor, *others: object) -> Tensor:
        passes.append(tokens.shape[1])
        return run(tokens, *others)

    monkeypatch.setattr(model.dynamics.transformer, "forward", counted)
    first, actions, _ = recorded(3 * CONTEXT)
    state = model.start(first, torch.arange(ROWS))
    counts = []
    for action in actions.split(1, dim=1):
        passes.clear()
        _, state = model.imagine(state, action)
        counts.append(tuple(passes))
    assert len(set(counts)) == 1
    assert len(counts[0]) == {"raster": 16, "diagonal": 10, "masked": 4, "next scale": 3}[order]


def test_a_dream_does_not_depend_on_how_much_is_asked_for_at_once() -> None:
    model = make("raster")
    first, actions, _ = recorded(5)
    state = model.start(first, torch.arange(ROWS))
    whole, _ = model.imagine(state, actions)
    one, state = model.imagine(state, actions[:, :2])
    two, _ = model.imagine(state, actions[:, 2:])
    torch.testing.assert_close(whole.frames, torch.cat((one.frames, two.frames), dim=1))


# Sampling


LOGITS = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]]).log()


def drawn(sampling: TokenSampling, temperature: float = 1.0, count: int = 2000) -> list[float]:
    """Return the share of each token among many draws."""
    uniform = (torch.arange(count) + 0.5)[:, None] / count
    tokens = sampling.draw(LOGITS.expand(count, -1, -1), torch.full((count,), temperature), uniform)
    return (torch.bincount(tokens.flatten(), minlength=4) / count).tolist()


@pytest.mark.parametrize(
    ("sampling", "temperature", "shares"),
    [
        (TokenSampling(), 1.0, [0.1, 0.2, 0.3, 0.4]),
        (TokenSampling(), 0.0, [0, 0, 0, 1]),
        (TokenSampling(temperature=0.0), 1.0, [0, 0, 0, 1]),
        (TokenSampling(temperature=0.5), 1.0, [1 / 30, 4 / 30, 9 / 30, 16 / 30]),
        (TokenSampling(), 0.5, [1 / 30, 4 / 30, 9 / 30, 16 / 30]),
        (TokenSampling(top_k=2), 1.0, [0, 0, 3 / 7, 4 / 7]),
        (TokenSampling(top_k=9), 1.0, [0.1, 0.2, 0.3, 0.4]),
        (TokenSampling(top_p=0.65), 1.0, [0, 0, 3 / 7, 4 / 7]),
        (TokenSampling(top_p=0.75), 1.0, [0, 2 / 9, 3 / 9, 4 / 9]),
        (TokenSampling(top_p=1e-6), 1.0, [0, 0, 0, 1]),
    ],
)
def test_tokens_are_drawn_with_their_shares(sampling: TokenSampling, temperature: float, shares: list[float]) -> None:
    assert drawn(sampling, temperature) == pytest.approx(shares, abs=2e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, which is all tokens, not 0.0"),
        ({"top_p": 1.5}, "not 1.5"),
        ({"top_k": -1}, "top_k must be at least 1, or 0 for all tokens, not -1"),
        ({"temperature": -0.1}, "temperature must be at least 0, not -0.1"),
        ({"top_p": float("nan")}, "top_p must be a finite number"),
    ],
)
def test_sampling_out_of_range_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenSampling(**settings)


# What does not go together


@pytest.mark.parametrize(
    ("order", "tokenizer", "message"),
    [
        (NextScaleOrderConfig(), FLAT, "needs a tokenizer of several scales, and this one has 1"),
        (DiagonalOrderConfig(), PyramidConfig(), "needs tokens on one grid, and this tokenizer has 3"),
        (MaskedOrderConfig(), PyramidConfig(), "needs tokens on one grid, and this tokenizer has 3"),
        (DiagonalOrderConfig(delay=5), FLAT, "delay must be at most the 4 columns of a frame, not 5"),
        (MaskedOrderConfig(groups=17), FLAT, r"groups must be at most \d+ on a grid of \(4, 4\), not 17"),
    ],
)
def test_tokens_that_cannot_be_had_in_an_order_are_refused(order: OrderConfig, tokenizer: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(tiny(), order=order, tokenizer=tokenizer).build(SPEC)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kv_heads": 3}, "kv_heads must divide the 4 heads, which 3 do not"),
        ({"context": 0}, "context must be at least 1, not 0"),
        ({"width": 30}, "a width of 30 cannot be 4 heads"),
    ],
)
def test_a_transformer_that_cannot_be_is_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenTransformerConfig(**settings)


def test_shares_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"token_noise must be in \[0, 1\), not 1"):
        TokenWorldTraining(token_noise=1.0)


def test_tokens_of_another_codebook_are_refused() -> None:
    model = make("raster")
    first, actions, _ = recorded(1)
    state = model.start(first, torch.arange(ROWS))
    state["tokens"] = state["tokens"] + 9
    with pytest.raises(InputError, match="tokens must be from 0 to 8, not 1"):
        model.embed(state)
    assert model.state_bounds()[("tokens",)] == (0, 8)
    with pytest.raises(StateError, match="another world: it lacks"):
        model.imagine(state.exclude("keys"), actions)


# Actions, heads and presets


def test_grouped_tokens_are_one_per_choice_between_two_brackets() -> None:
    space = gym.spaces.MultiDiscrete([2, 3, 5])
    tokens = GroupedActionTokensConfig().build(space, 8)
    assert tokens.count == 5
    one, other = (tokens(torch.tensor(action)) for action in ([0, 1, 4], [0, 2, 4]))
    assert (one - other).abs().amax(dim=-1).gt(0).tolist() == [False, False, True, False, False]
    assert OneActionTokenConfig().build(space, 8)(torch.tensor([[0, 1, 4]])).shape == (1, 1, 8)
    assert GroupedActionTokensConfig().build(gym.spaces.Box(-1, 1, (2,)), 8).count == 4


def test_a_world_without_a_head_predicts_no_rewards() -> None:
    with pytest.raises(ConfigError, match=r"dropout=0.2 .* without a head has no effect"):
        make("raster", head=None)
    model = make("raster", head=None, training=dataclasses.replace(tiny().training, dropout=0.0))
    assert not model.spec.predicts_rewards
    first, actions, _ = recorded(2)
    imagined, _ = model.imagine(model.start(first, torch.arange(ROWS)), actions)
    assert not imagined.rewards.any()
    assert not imagined.termination.any()
    assert "termination" not in {name for stage in model.stages() for name in losses(model, stage)}


def test_what_is_shown_is_disturbed_in_training_alone() -> None:
    model = make("raster", training=dataclasses.replace(tiny().training, token_noise=0.5, dropout=0.0))
    stage = model.stages()[1]
    quiet = [losses(model, stage)["tokens"] for _ in range(2)]
    assert torch.equal(*quiet)
    model.train()
    assert not torch.equal(losses(model, stage)["tokens"], quiet[0])


def test_iris_has_its_published_sizes() -> None:
    with torch.device("meta"):
        config = dataclasses.replace(iris(), head=None, training=dataclasses.replace(iris().training, dropout=0.0))
        model = config.build(dataclasses.replace(SPEC, frame_shape=(3, 64, 64)))
    tokenizer, dynamics_ = model.frames.tokenizer, model.dynamics
    assert (tokenizer.tokens_per_frame, tokenizer.vocabulary) == (16, 512)
    assert (dynamics_.layout.slots, dynamics_.cached) == (17, 19 * 17)
    layers = sum(one.numel() for one in dynamics_.transformer.layers.parameters())
    assert layers / (10 * 12 * 256**2) == pytest.approx(1.0, abs=0.01)  # 4 w^2 of attention, 8 w^2 of feeding forward


def test_mineworld_has_its_published_sizes() -> None:
    config: TokenWorldConfig = mineworld()
    assert config.transformer == TokenTransformerConfig(
        context=15, width=1024, depth=20, heads=16, kv_heads=4, hidden=4096, places=False
    )


# What the tests are made of


def whole_pass(model: TokenWorld, actions: Tensor, tokens: Tensor) -> Tensor:
    """Return the nats of tokens (b, t, l) without a cache."""
    with torch.no_grad():
        acted, rounds = model.frames.acted(actions, None), model.dynamics.order.rounds
        total = torch.zeros(tokens[:, 1:].shape)
        for index in range(rounds):
            draws = iter([torch.full(actions.shape, index)])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch, "randint", lambda *_, draws=draws, **__: next(draws))
                total += model.dynamics.learned_nats(acted, tokens, tokens, None)[0] / rounds
    return total


def predicted_probs(model: TokenWorld, actions: Tensor, tokens: Tensor, index: int) -> Tensor:
    """Return the probabilities (b, t, l, vocabulary) of the tokens that are predicted in a round, else 0."""
    module = model.dynamics
    with torch.no_grad():
        memory, acted = module.begin(tokens[:, 0]), model.frames.acted(actions, None)
        round_of = torch.full(actions.shape, index)
        inputs = module._inputs(tokens[:, 0], acted, tokens[:, 1:], round_of)
        _, outputs = module._extend(memory, inputs, range(module.layout.slots))
        probs = module.logits(outputs[:, :, module.layout.predicting]).softmax(dim=-1)
        predicted = module.order.predicted_in(round_of.flatten())
    return probs if predicted is None else probs * predicted.view(*probs.shape[:3], 1)


def losses(model: TokenWorld, stage) -> dict[str, Tensor]:
    first, actions, frames = recorded(4)
    features = None
    if stage.precompute is not None:
        features = stage.precompute(torch.cat((first[:, None], frames), dim=1).flatten(0, 1)).unflatten(0, (ROWS, 5))
    batch = Batch(
        first_frame=first, frames=frames, actions=actions, rewards=torch.zeros(ROWS, 4),
        terminated=torch.zeros(ROWS, 4, dtype=torch.bool), weight=torch.ones(ROWS, 4), features=features,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return stage.objectives[0].loss(batch)[1]

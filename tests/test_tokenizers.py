"""Tokenizers: round trips, rows apart, codebooks that learn, scales that add up, context, saving, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from dreamenv.codecs.codebook import Codebook, CodebookConfig, perplexity, straight_through
from dreamenv.codecs.context_tokens import ContextTokenizerConfig
from dreamenv.codecs.fsq import FSQConfig, from_digits, to_digits
from dreamenv.codecs.fsq_tokens import FSQTokenizerConfig
from dreamenv.codecs.grid import ConvGridConfig
from dreamenv.codecs.ldm_grid import LDMGridConfig
from dreamenv.codecs.multi_scale import MultiScaleTokenizer, MultiScaleTokenizerConfig
from dreamenv.codecs.tokenizer import FrameContext, Tokenizer, TokenizerConfig, TokenizerTraining, tokenizer_stage
from dreamenv.codecs.tokenizer_files import load_tokenizer, save_tokenizer
from dreamenv.codecs.vq import VQTokenizerConfig
from dreamenv.codecs.vqgan import VQGANTokenizer, VQGANTokenizerConfig
from dreamenv.errors import (
    ActionError,
    ConfigError,
    FrameError,
    InputError,
    WorldDamagedError,
    WorldNotFoundError,
)
from dreamenv.nn import precision
from dreamenv.nn.actions import ActionVector
from dreamenv.parts import Part, part_from_json, part_to_json
from dreamenv.world_model import Batch, DataStatistics

SHAPE = (3, 16, 16)
ACTION = ActionVector(gym.spaces.Discrete(3))
TRAINING = TokenizerTraining(batch_size=8, learning_rate=3e-3)
GRID = ConvGridConfig(patch=2, channels=(16, 24))  # places of 4 x 4 pixels
BOOK = CodebookConfig(vocabulary=32, width=8)
CONFIGS: dict[str, TokenizerConfig] = {
    "fsq": FSQTokenizerConfig(codec=FSQConfig(scalars=3, levels=5, patch=2, channels=(16, 24)), training=TRAINING),
    "fsq_rate": FSQTokenizerConfig(
        codec=FSQConfig(scalars=3, levels=5, patch=2, channels=(16, 24)), rate_weight=2.0, training=TRAINING
    ),
    "vq": VQTokenizerConfig(grid=GRID, codebook=BOOK, training=TRAINING),
    "vqgan": VQGANTokenizerConfig(
        grid=GRID, codebook=BOOK, critic_channels=(8, 8), critic_start=0, training=TRAINING
    ),
    "multi_scale": MultiScaleTokenizerConfig(grid=GRID, codebook=BOOK, scales=(1, 2, 4), phis=2, training=TRAINING),
    "ldm": MultiScaleTokenizerConfig(
        grid=LDMGridConfig(channels=(8, 16, 16), blocks=1, groups=8), codebook=BOOK, scales=(1, 2, 4), phis=2
    ),
    "context": ContextTokenizerConfig(
        grid=ConvGridConfig(patch=2, channels=(16, 24, 24)), scalars=3, training=TRAINING
    ),
}  # fmt: skip


def clips(n: int, length: int, seed: int) -> Tensor:
    """(n, length, 3, 16, 16): a bright square of 5 pixels glides over a dim ground; colours are random."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand((n, 1, 2), generator=generator) * 22
    speed = torch.rand((n, 1, 2), generator=generator) * 4 - 2
    corner = (place + speed * torch.arange(length)[:, None]) % 22
    corner = (11 - (corner - 11).abs())[..., None]
    inside = (torch.arange(16) >= corner) & (torch.arange(16) < corner + 5)
    square = (inside[:, :, 0, :, None] & inside[:, :, 1, None, :])[:, :, None]
    colours = torch.rand((2, n, 1, 3, 1, 1), generator=generator)
    return torch.where(square, 0.5 + 0.5 * colours[0], 0.3 * colours[1])


def batch_of(frames: Tensor, seed: int = 0) -> Batch:
    n, steps = frames.shape[0], frames.shape[1] - 1
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        first_frame=frames[:, 0],
        frames=frames[:, 1:],
        actions=torch.randint(3, (n, steps), generator=generator),
        rewards=torch.zeros(n, steps),
        terminated=torch.zeros(n, steps, dtype=torch.bool),
        weight=torch.ones(n, steps),
        generator=generator,
    )


def made(config: TokenizerConfig, seed: int = 0) -> Tokenizer:
    """A tokenizer whose every weight is random, also those that begin as 0."""
    torch.manual_seed(seed)
    tokenizer = config.build(SHAPE, ACTION.size)
    for parameter in tokenizer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tokenizer.eval().requires_grad_(False)


def trained(config: TokenizerConfig, steps: int, data: Tensor) -> Tokenizer:
    torch.manual_seed(0)
    tokenizer, generator = config.build(SHAPE, ACTION.size), torch.Generator().manual_seed(0)
    stage = tokenizer_stage(tokenizer, ACTION)
    optimizers = [torch.optim.Adam(one.parameters, lr=stage.learning_rate) for one in stage.objectives]
    for step in range(steps):
        rows = torch.randint(len(data), (stage.batch_size,), generator=generator)
        batch = batch_of(data[rows, : stage.sequence_length + 1], seed=step)
        for objective, optimizer in zip(stage.objectives, optimizers, strict=True):
            loss, _ = objective.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return tokenizer.eval().requires_grad_(False)


def context_of(frames: Tensor, action: int = 1) -> FrameContext:
    return FrameContext(frames, ACTION(torch.full((len(frames),), action)))


def psnr(frames: Tensor, truth: Tensor) -> float:
    return float(-10 * (frames - truth).square().mean().clamp_min(1e-9).log10())


@pytest.fixture(params=list(CONFIGS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return made(CONFIGS[request.param])


def test_frames_become_tokens_and_tokens_frames(tokenizer: Tokenizer) -> None:
    first, frames = clips(5, 2, seed=1).unbind(1)
    tokens = tokenizer.encode(frames, context_of(first))
    places = sum(y * x for y, x in tokenizer.scales)
    assert tokens.shape == (5, places) == (5, tokenizer.tokens_per_frame)
    assert tokens.dtype == torch.int64
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < tokenizer.vocabulary
    assert len(tokens.unique()) > 1
    decoded = tokenizer.decode(tokens, context_of(first))
    assert decoded.shape == frames.shape
    assert decoded.dtype == torch.float32
    assert 0 <= float(decoded.min()) <= float(decoded.max()) <= 1
    codes = tokenizer.codes(tokens)
    assert codes.shape == (5, places, tokenizer.width)
    assert codes.dtype == torch.float32
    assert tokenizer.bits_per_frame == pytest.approx(places * torch.tensor(tokenizer.vocabulary).log2().item())


def test_rows_are_coded_by_themselves_and_always_alike(tokenizer: Tokenizer) -> None:
    first, frames = clips(6, 2, seed=2).unbind(1)
    tokens = tokenizer.encode(frames, context_of(first))
    decoded = tokenizer.decode(tokens, context_of(first))
    assert torch.equal(tokenizer.encode(frames, context_of(first)), tokens)
    one = slice(2, 3)
    assert torch.equal(tokenizer.encode(frames[one], context_of(first[one])), tokens[one])
    torch.testing.assert_close(tokenizer.decode(tokens[one], context_of(first[one])), decoded[one], rtol=0, atol=1e-4)


def test_what_is_known_before_a_scale_does_not_depend_on_it_or_on_later_ones(tokenizer: Tokenizer) -> None:
    tokens = torch.randint(tokenizer.vocabulary, (3, tokenizer.tokens_per_frame))
    whole = tokenizer.next_scale_inputs(tokens)
    assert whole.shape == (3, tokenizer.tokens_per_frame, tokenizer.width)
    known = 0
    for k, (y, x) in enumerate(tokenizer.scales):
        part = tokenizer.next_scale_inputs(tokens[:, :known])
        torch.testing.assert_close(part, whole[:, : known + y * x])
        assert bool((part == 0).all()) == (k == 0)
        known += y * x


def test_digits_of_a_token_are_its_levels() -> None:
    levels = torch.tensor([[3, 1, 0], [0, 4, 2]])
    tokens = from_digits(levels, 5)
    assert tokens.tolist() == [3 + 5 * 1, 5 * 4 + 25 * 2]
    assert torch.equal(to_digits(tokens, 5, 3), levels)


def test_a_multi_scale_frame_is_the_sum_of_its_scales() -> None:
    tokenizer = made(CONFIGS["multi_scale"])
    assert isinstance(tokenizer, MultiScaleTokenizer)
    maps = torch.randn(2, tokenizer.width, 4, 4)
    tokens, _ = tokenizer._quantize(maps)
    alone = [tokenizer._enlarged(part, k) for k, part in enumerate(tokens.split([1, 4, 16], dim=1))]
    sums = list(tokenizer._sums(tokens))
    torch.testing.assert_close(sums[0], alone[0])
    torch.testing.assert_close(sums[1], alone[0] + alone[1])
    torch.testing.assert_close(sums[2], alone[0] + alone[1] + alone[2])
    shown = tokenizer.grid.decode(alone[0] + alone[1] + alone[2]).clamp(0, 1)
    torch.testing.assert_close(tokenizer.decode(tokens), shown)


def test_the_nearest_code_is_the_nearest() -> None:
    book = CodebookConfig(vocabulary=7, width=3).build(10)
    vectors = torch.randn(20, 3)
    assert torch.equal(book.nearest(vectors), torch.cdist(vectors, book.codes).argmin(dim=1))
    torch.testing.assert_close(book(torch.arange(7)), book.codes)


def test_codes_move_to_the_means_of_their_vectors_and_none_is_left_unused() -> None:
    torch.manual_seed(0)
    book = CodebookConfig(vocabulary=8, width=2, decay=0.8).build(64)
    generator = torch.Generator().manual_seed(0)
    data = 5 + torch.randn(64, 2, generator=generator)  # far from all codes at first

    def error() -> float:
        return float((book(book.nearest(data)) - data).square().sum(dim=1).mean())

    before = error()
    for _ in range(40):
        book.learn(data, book.nearest(data), generator)
    tokens = book.nearest(data)
    assert error() < 0.02 * before
    assert len(tokens.unique()) == 8
    for token in range(8):
        torch.testing.assert_close(book.codes[token], data[tokens == token].mean(dim=0), atol=0.05, rtol=0.0)


def test_a_codebook_learns_the_same_with_the_same_generator_and_leaves_the_global_stream_alone() -> None:
    books: list[Codebook] = []
    for seed in (1, 2):
        torch.manual_seed(0)
        book = CodebookConfig(vocabulary=64, width=2).build(100)
        torch.manual_seed(seed)
        vectors = torch.linspace(-2, 2, 200).view(100, 2)
        book.learn(vectors, book.nearest(vectors), torch.Generator().manual_seed(5))
        after = torch.rand(1)
        torch.manual_seed(seed)
        assert torch.equal(after, torch.rand(1))
        books.append(book)
    assert torch.equal(books[0].codes, books[1].codes)
    held = books[0].codes.clone()
    books[0].eval().learn(vectors, books[0].nearest(vectors), None)
    assert torch.equal(books[0].codes, held)


def test_codes_that_were_loaded_stay_where_they_are_as_training_goes_on() -> None:
    book = CodebookConfig(vocabulary=4, width=2).build(40)
    codes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    book.load(codes)
    torch.testing.assert_close(book.codes, codes)
    book.learn(codes.repeat(10, 1), book.nearest(codes.repeat(10, 1)), None)
    torch.testing.assert_close(book.codes, codes, atol=1e-3, rtol=1e-3)
    with pytest.raises(ConfigError, match=r"codes must be \(4, 2\), not \(5, 2\)"):
        book.load(torch.zeros(5, 2))


def test_gradients_pass_the_rounding() -> None:
    vectors = torch.randn(3, requires_grad=True)
    codes = torch.zeros(3)
    rounded = straight_through(vectors, codes)
    assert torch.equal(rounded.detach(), codes)
    rounded.sum().backward()
    assert torch.equal(vectors.grad, torch.ones(3)) if vectors.grad is not None else False


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    tokenizer = CONFIGS[name].build(SHAPE, ACTION.size)
    for parameter in tokenizer.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape))
    if isinstance(tokenizer, VQGANTokenizer):
        tokenizer.critic.last.bias.data.fill_(1.5)  # else real and decoded frames pull at it alike
    stage = tokenizer_stage(tokenizer, ACTION)
    reached: set[int] = set()
    for objective in stage.objectives:
        tokenizer.zero_grad()
        loss, logs = objective.loss(batch_of(clips(8, stage.sequence_length + 1, seed=3)))
        loss.backward()
        assert torch.isfinite(loss)
        assert all(value.ndim == 0 and not value.requires_grad for value in logs.values())
        reached |= {id(one) for one in objective.parameters if one.grad is not None and bool(one.grad.any())}
    missed = [key for key, one in tokenizer.named_parameters() if id(one) not in reached]
    assert missed == []
    assert {id(one) for objective in stage.objectives for one in objective.parameters} == {
        id(one) for one in tokenizer.parameters()
    }


@pytest.mark.parametrize("name", ["fsq", "vq", "vqgan", "multi_scale"])
def test_a_tokenizer_learns_and_its_codes_are_used(name: str) -> None:
    data = clips(64, 2, seed=4)
    before, after = made(CONFIGS[name]), trained(CONFIGS[name], 60, data)
    held = clips(32, 1, seed=5)[:, 0]
    mean = psnr(data.flatten(0, 1).mean(dim=0).expand_as(held), held)
    assert psnr(after.reconstruct(held), held) > max(mean, psnr(before.reconstruct(held), held)) + 2
    assert float(perplexity(after.encode(held), after.vocabulary)) > 8


def test_tokens_that_cost_their_rate_change_less_from_frame_to_frame() -> None:
    data, held = clips(64, 2, seed=4), clips(64, 2, seed=5)
    kept = []
    for name in ("fsq", "fsq_rate"):
        tokenizer = trained(CONFIGS[name], 100, data)
        before, after = tokenizer.encode(held.flatten(0, 1)).unflatten(0, (64, 2)).unbind(1)
        kept.append(float((before == after).float().mean()))
        assert psnr(tokenizer.reconstruct(held[:, 1]), held[:, 1]) > 10
    assert kept[1] > kept[0] + 0.05


@pytest.fixture(scope="module")
def given_context() -> Tokenizer:
    """A tokenizer that has seen squares glide, and stand still."""
    data = clips(64, 3, seed=6)
    return trained(CONFIGS["context"], 150, torch.cat((data, data[:32, :1].expand(32, 3, *SHAPE))))


def test_a_still_clip_needs_few_tokens_where_the_frame_before_is_known(given_context: Tokenizer) -> None:
    alone = trained(CONFIGS["fsq"], 100, clips(64, 2, seed=6))
    still = clips(32, 1, seed=7)[:, 0]
    assert given_context.tokens_per_frame < alone.tokens_per_frame / 2
    shown = psnr(given_context.reconstruct(still, context_of(still)), still)
    assert shown > psnr(alone.reconstruct(still), still) + 5


def test_tokens_tell_what_the_frame_before_does_not(given_context: Tokenizer) -> None:
    first, second = clips(64, 2, seed=9).unbind(1)
    shown = psnr(given_context.reconstruct(second, context_of(first)), second)
    tokens = given_context.encode(second, context_of(first))
    others = psnr(given_context.decode(tokens.roll(1, 0), context_of(first)), second)  # tokens of another frame
    assert shown > psnr(first, second)
    assert shown > others


def test_the_critic_is_heard_after_its_start_alone() -> None:
    config = VQGANTokenizerConfig(grid=GRID, codebook=BOOK, critic_channels=(8, 8), critic_start=1, training=TRAINING)
    plain = VQTokenizerConfig(grid=GRID, codebook=BOOK, training=TRAINING)
    tokenizer, other = made(config).train(), made(plain).eval()
    assert isinstance(tokenizer, VQGANTokenizer)
    other.load_state_dict(tokenizer.state_dict(), strict=False)
    frames = clips(4, 1, seed=10)[:, 0]
    expected, _ = other.loss(frames, None, None)
    tokenizer.codebook.eval()
    first, _ = tokenizer.loss(frames, None, None)
    second, _ = tokenizer.loss(frames, None, None)
    torch.testing.assert_close(first, expected, rtol=0.02, atol=0.0)  # products of training are in bfloat16
    assert abs(float(second - first)) > 0.01
    assert int(tokenizer.steps_done) == 2


def test_a_frame_that_ends_an_episode_and_padding_teach_nothing(tokenizer: Tokenizer) -> None:
    stage = tokenizer_stage(tokenizer, ACTION)
    frames = clips(4, stage.sequence_length + 1, seed=11)
    batch = batch_of(frames)
    batch.terminated[0, -1] = True
    batch.weight[1, -1] = 0.0
    losses = []
    for _ in range(2):
        assert batch.generator is not None
        batch.generator.manual_seed(3)
        losses.append(stage.objectives[0].loss(batch)[0])
        batch.frames[:2, -1] = 1.0
    assert torch.equal(losses[0], losses[1])


def statistics() -> DataStatistics:
    return DataStatistics(
        frame_mean=torch.rand(SHAPE), reward_mean=0.0, reward_std=1.0, reward_min=0.0, reward_max=1.0,
        termination_rate=0.1,
    )  # fmt: skip


def settings_of(part: Part, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        found += settings_of(value, (*path, field.name)) if isinstance(value, Part) else [(*path, field.name)]
    return found


def changed(part: Any, path: tuple[str, ...]) -> Any:
    name, *rest = path
    value = getattr(part, name)
    if rest:
        return dataclasses.replace(part, **{name: changed(value, tuple(rest))})
    if isinstance(value, bool):
        other: Any = not value
    elif isinstance(value, tuple):
        other = tuple(2 * one for one in value) if name == "scales" else (*value[:-1], 2 * value[-1])
    elif isinstance(value, str):
        other = {"coarsest": "middle"}[value]
    elif isinstance(value, int):
        other = 2 * value + 1 if name == "levels" else 2 * value or 1
    else:
        other = 0.999 if name == "decay" else value / 2 or 0.25
    return dataclasses.replace(part, **{name: other})


def seen_of(config: TokenizerConfig) -> list[Any]:
    """What can be seen of a tokenizer: its plan, its tokens, and what it learns in two steps."""
    torch.manual_seed(0)
    tokenizer = config.build(SHAPE, ACTION.size)
    stage = tokenizer_stage(tokenizer, ACTION)
    seen: list[Any] = [stage.steps, stage.batch_size, stage.learning_rate, tokenizer.scales, tokenizer.vocabulary]
    generator = torch.Generator().manual_seed(1)
    for parameter in tokenizer.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    tokenizer.calibrate(statistics())
    batch = batch_of(clips(8, stage.sequence_length + 1, seed=12))
    for _ in range(3):
        seen += [objective.loss(batch)[0].detach() for objective in stage.objectives]
    return [*seen, *tokenizer.state_dict().values()]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        pytest.param(name, path, id=f"{name}-{'.'.join(path)}")
        for name, one in CONFIGS.items()
        for path in settings_of(one)
    ],
)
def test_a_changed_setting_has_an_effect_or_is_refused(
    name: str, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)
    config = CONFIGS[name]
    if path == ("codebook", "revive_below"):
        config = dataclasses.replace(config, codebook=dataclasses.replace(BOOK, revive_below=0.9))  # type: ignore[call-arg]
    if path == ("code_noise",):
        config = dataclasses.replace(config, code_noise=0.5)  # type: ignore[call-arg]
    try:
        other = seen_of(changed(config, path))
    except ConfigError:
        return
    same = [
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(seen_of(config), other, strict=False)
    ]
    assert not all(same)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_configuration_is_read_back_from_json(name: str) -> None:
    assert part_from_json(part_to_json(CONFIGS[name])) == CONFIGS[name]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_tokenizer_is_read_back_from_its_folder(name: str, tmp_path: Path) -> None:
    tokenizer = made(CONFIGS[name])
    save_tokenizer(tokenizer, tmp_path / "tokens")
    again = load_tokenizer(tmp_path / "tokens")
    assert again.config == CONFIGS[name]
    first, frames = clips(3, 2, seed=13).unbind(1)
    tokens = tokenizer.encode(frames, context_of(first))
    assert torch.equal(again.encode(frames, context_of(first)), tokens)
    assert torch.equal(again.decode(tokens, context_of(first)), tokenizer.decode(tokens, context_of(first)))


def test_a_folder_that_is_no_tokenizer_or_was_altered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorldNotFoundError, match="no tokenizer"):
        load_tokenizer(tmp_path / "none")
    save_tokenizer(made(CONFIGS["vq"]), tmp_path / "tokens")
    path = tmp_path / "tokens" / "tokenizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WorldDamagedError, match=r"tokenizer\.safetensors"):
        load_tokenizer(tmp_path / "tokens")


def test_frames_that_cannot_be_coded_are_refused(tokenizer: Tokenizer) -> None:
    frames = torch.zeros(2, *SHAPE)
    context = context_of(frames)
    for wrong in (frames[0], frames[..., :8], frames.double(), (255 * frames).byte(), frames[None]):
        with pytest.raises(FrameError, match=r"frames must be \(n, 3, 16, 16\) float32"):
            tokenizer.encode(wrong, context)


def test_tokens_of_another_tokenizer_are_refused(tokenizer: Tokenizer) -> None:
    length, context = tokenizer.tokens_per_frame, context_of(torch.zeros(2, *SHAPE))
    for wrong in (
        torch.zeros(2, length + 1, dtype=torch.int64),
        torch.zeros(2, length),
        torch.zeros(length, dtype=torch.int64),
    ):
        with pytest.raises(InputError, match=rf"tokens must be \(n, {length}\) int64"):
            tokenizer.decode(wrong, context)
    for odd in (-1, tokenizer.vocabulary):
        tokens = torch.zeros(2, length, dtype=torch.int64)
        tokens[1, -1] = odd
        for use in (lambda tokens: tokenizer.decode(tokens, context), tokenizer.codes, tokenizer.next_scale_inputs):
            with pytest.raises(InputError, match=f"from 0 to {tokenizer.vocabulary - 1}, not {odd}"):
                use(tokens)
    with pytest.raises(InputError, match="tokens must be"):
        tokenizer.next_scale_inputs(torch.zeros(2, length - 1, dtype=torch.int64))


def test_a_context_that_does_not_fit_is_refused() -> None:
    tokenizer, frames = made(CONFIGS["context"]), torch.zeros(2, *SHAPE)
    assert tokenizer.uses_context
    with pytest.raises(FrameError, match=r"pass context=FrameContext"):
        tokenizer.encode(frames)
    with pytest.raises(FrameError, match="the context's frames must be"):
        tokenizer.encode(frames, FrameContext(frames[..., :8], torch.zeros(2, 3)))
    with pytest.raises(ActionError, match="a context of 2 rows"):
        tokenizer.encode(frames, FrameContext(frames[:1], torch.zeros(1, 3)))
    with pytest.raises(ActionError, match="must be 3 wide, not 4"):
        tokenizer.encode(frames, FrameContext(frames, torch.zeros(2, 4)))
    with pytest.raises(ConfigError, match="action_size must be"):
        CONFIGS["context"].build(SHAPE)
    with pytest.raises(ConfigError, match="action encoder"):
        tokenizer_stage(tokenizer).objectives[0].loss(batch_of(clips(2, 3, seed=0)))
    with pytest.raises(FrameError, match="windows must be of 2 steps, not 1"):
        tokenizer_stage(tokenizer, ACTION).objectives[0].loss(batch_of(clips(2, 2, seed=0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenizerTraining(steps=-1), "steps must be at least 0"),
        (lambda: TokenizerTraining(learning_rate=0.0), "learning_rate must be above 0"),
        (lambda: TokenizerTraining(edge_weight=-1.0), "edge_weight must be at least 0"),
        (lambda: CodebookConfig(vocabulary=1), "vocabulary must be at least 2"),
        (lambda: CodebookConfig(decay=1.0), "decay must be between 0 and 1"),
        (lambda: CodebookConfig(revive_below=1.0), "revive_below"),
        (lambda: CodebookConfig(commitment=-0.1), "commitment"),
        (lambda: ConvGridConfig(patch=0), "patch must be at least 1"),
        (lambda: ConvGridConfig(channels=()), "channels must be positive"),
        (lambda: LDMGridConfig(channels=(10,)), "32 groups do not divide 10 channels"),
        (lambda: FSQTokenizerConfig(codec=FSQConfig(scalars=9, levels=9)), "take fewer scalars or levels"),
        (lambda: FSQTokenizerConfig(code_noise=1.0), "code_noise"),
        (lambda: MultiScaleTokenizerConfig(scales=(1, 1, 2)), "scales must grow"),
        (lambda: MultiScaleTokenizerConfig(phis=9), "phis must be from 1 to the number of scales, 6"),
        (lambda: MultiScaleTokenizerConfig(phi_ratio=0.0), "phi_ratio"),
        (lambda: MultiScaleTokenizerConfig(scales=(1, 2, 3, 4)).build((3, 64, 64)), "the height of the grid, 8"),
        (lambda: VQGANTokenizerConfig(adversarial_weight=-1.0), "adversarial_weight"),
        (lambda: VQGANTokenizerConfig(adversarial_weight=0.0, perceptual_weight=0.0), "have no effect; take a vq_tok"),
        (lambda: VQGANTokenizerConfig(critic_channels=(8,) * 5).build(SHAPE), "give critic_channels fewer layers"),
        (lambda: VQTokenizerConfig().build((3, 60, 64)), "multiples of 8, not 60x64"),
        (lambda: ContextTokenizerConfig(levels=4), "levels odd"),
        (lambda: ContextTokenizerConfig(own_context=1.1), "own_context"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_tall_frame_has_tall_scales() -> None:
    config = dataclasses.replace(CONFIGS["multi_scale"], scales=(1, 2, 8))  # type: ignore[call-arg]
    assert config.build((3, 32, 16)).scales == ((1, 1), (2, 1), (8, 4))

"""Random streams: the published generator, one stream per row, good statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from dreamenv.randomness import (
    categorical,
    categorical_of,
    host_philox,
    normal,
    philox4x32,
    seed_keys,
    uniform,
    uniform_numpy_seed,
)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that Salmon et al. publish with their Random123 library for philox4x32, 10 rounds
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_generator_gives_the_published_numbers(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    words = philox4x32(torch.tensor(counter)[:, None], torch.tensor(key)[:, None])
    assert words[:, 0].tolist() == list(expected)
    assert host_philox(np.array(counter, np.uint64), np.array(key, np.uint64)).tolist() == list(expected)


def test_the_generator_for_devices_agrees_with_the_one_for_the_host() -> None:
    rng = np.random.default_rng(0)
    counter, key = (rng.integers(0, 2**32, (words, 7, 3)) for words in (4, 2))
    there = philox4x32(torch.from_numpy(counter), torch.from_numpy(key)).numpy()
    assert (there == host_philox(counter.astype(np.uint64), key.astype(np.uint64))).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_numbers_are_the_same_on_a_gpu() -> None:
    key, counter = seed_keys(torch.arange(64)), torch.arange(64) * 7
    there = uniform(key.cuda(), counter.cuda(), (33,), stream=5)
    assert torch.equal(uniform(key, counter, (33,), stream=5), there.cpu())


def test_a_row_samples_the_same_in_any_batch() -> None:
    key, counter = seed_keys(torch.arange(8)), torch.arange(8)
    together = uniform(key, counter, (5, 3))
    alone = uniform(key[3:4], counter[3:4], (5, 3))
    assert torch.equal(together[3:4], alone)


def test_longer_samples_start_as_shorter_ones() -> None:
    key, counter = seed_keys(torch.arange(4)), torch.zeros(4, dtype=torch.int64)
    assert torch.equal(uniform(key, counter, (100,))[:, :7], uniform(key, counter, (7,)))


def test_seeds_steps_and_streams_draw_different_numbers() -> None:
    key, zero = seed_keys(torch.arange(2)), torch.zeros(2, dtype=torch.int64)
    draws = [
        uniform(key, zero, (64,)),
        uniform(key, zero + 1, (64,)),
        uniform(key, zero + 2**32, (64,)),
        uniform(key, zero, (64,), stream=1),
    ]
    values = torch.stack(draws).flatten()
    assert len(values.unique()) > 0.999 * len(values)


def test_a_hundred_thousand_seeds_have_distinct_keys() -> None:
    assert len(seed_keys(torch.arange(100_000)).unique()) == 100_000


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    rows, size = 256, 512
    values = uniform(seed_keys(torch.arange(rows)), torch.zeros(rows, dtype=torch.int64), (size,)).numpy()
    assert values.min() > 0
    assert values.max() < 1
    assert stats.kstest(values.ravel(), "uniform").pvalue > 1e-3
    assert stats.chisquare(np.histogram(values, bins=256, range=(0, 1))[0]).pvalue > 1e-3
    for neighbours in (np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel()),  # along a row
                       np.corrcoef(values[:-1].ravel(), values[1:].ravel())):  # across neighbouring seeds  # fmt: skip
        assert abs(neighbours[0, 1]) < 4 / np.sqrt(rows * size)


def test_successive_steps_of_a_row_are_uncorrelated() -> None:
    steps = 65_536
    key = seed_keys(torch.tensor([7])).expand(steps)
    values = uniform(key, torch.arange(steps)).numpy()
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 4 / np.sqrt(steps)


def test_every_output_bit_is_fair() -> None:
    counter = torch.stack((torch.arange(65_536), *(torch.zeros(65_536, dtype=torch.int64) for _ in range(3))))
    words = philox4x32(counter, torch.tensor([[1], [2]]))
    share = torch.stack([(words >> bit & 1).float().mean(dim=1) for bit in range(32)])
    assert float((share - 0.5).abs().max()) < 5 * 0.5 / 256  # five standard errors of 65,536 coin tosses


def test_normals_are_normal() -> None:
    values = normal(seed_keys(torch.arange(64)), torch.zeros(64, dtype=torch.int64), (1001,)).numpy()
    assert values.shape == (64, 1001)
    assert stats.kstest(values.ravel(), "norm").pvalue > 1e-3


def test_categories_come_at_their_probabilities() -> None:
    rows, share = 40_000, torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = share.log().expand(rows, 1, 4)
    key, counter = seed_keys(torch.arange(rows)), torch.zeros(rows, dtype=torch.int64)
    drawn = categorical(logits, torch.ones(rows), key, counter)
    counts = torch.bincount(drawn.flatten(), minlength=4)
    assert stats.chisquare(counts.numpy(), (share * rows).numpy()).pvalue > 1e-3


def test_temperature_sharpens_and_flattens() -> None:
    rows = 4_000
    logits = torch.tensor([2.0, 0.0]).expand(rows, 1, 2)
    key, counter = seed_keys(torch.arange(rows)), torch.zeros(rows, dtype=torch.int64)

    def share_of_first(temperature: float) -> float:
        return float((categorical(logits, torch.full((rows,), temperature), key, counter) == 0).float().mean())

    assert share_of_first(0.0) == 1.0
    assert abs(share_of_first(1.0) - 0.8808) < 0.02  # 1 / (1 + exp(-2))
    assert abs(share_of_first(2.0) - 0.7311) < 0.03  # 1 / (1 + exp(-1))


@pytest.mark.parametrize("temperature", [1.0, 0.0, 0.5, 1.7])
@pytest.mark.parametrize("classes", [625, 12, 7, 1])
def test_probabilities_draw_what_their_logarithms_draw(classes: int, temperature: float) -> None:
    """The same numbers choose the same classes, but for those that lie within rounding of the next."""
    rows = 500
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, 6, classes, generator=generator)
    key, counter = seed_keys(torch.arange(rows)), torch.zeros(rows, dtype=torch.int64)
    at = torch.full((rows,), temperature)
    at[0] = 1.0
    drawn = categorical_of(logits.softmax(dim=-1), at, key, counter)
    assert drawn.dtype == torch.int64
    assert float((drawn == categorical(logits, at, key, counter)).float().mean()) > 0.999


def test_a_row_is_drawn_the_same_whatever_the_temperatures_of_others() -> None:
    rows = 2000
    probabilities = (3 * torch.randn(rows, 32, 625, generator=torch.Generator().manual_seed(0))).softmax(dim=-1)
    key, counter = seed_keys(torch.arange(rows)), torch.zeros(rows, dtype=torch.int64)
    plain, mixed = torch.ones(rows), torch.ones(rows)
    mixed[::2] = 0.7
    alone = categorical_of(probabilities, plain, key, counter)
    together = categorical_of(probabilities, mixed, key, counter)
    assert torch.equal(alone[1::2], together[1::2])
    assert not torch.equal(alone[::2], together[::2])


def test_a_class_of_probability_0_is_never_drawn() -> None:
    """Neither at the beginning of a block of classes nor at its end, where rounding could choose it."""
    rows = 20_000
    probabilities = torch.zeros(rows, 1, 625)
    probabilities[..., [24, 25, 49, 50, 312, 623]] = torch.tensor([0.3, 0.1, 0.2, 0.1, 0.1, 0.2])
    key, counter = seed_keys(torch.arange(rows)), torch.zeros(rows, dtype=torch.int64)
    drawn = categorical_of(probabilities, torch.ones(rows), key, counter)
    assert set(drawn.flatten().tolist()) == {24, 25, 49, 50, 312, 623}


def test_a_seed_for_other_libraries_follows_the_stream() -> None:
    key, counter = seed_keys(torch.tensor([3])), torch.tensor([0])
    seed = uniform_numpy_seed(key, counter)
    assert 0 <= seed < 2**63
    assert seed == uniform_numpy_seed(key, counter)
    assert seed != uniform_numpy_seed(key, counter + 1)

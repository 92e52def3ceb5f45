"""The random numbers an environment samples for its rows."""

from __future__ import annotations

import numpy as np
import torch

from dreamenv.dream.streams import TERMINATION_STREAM, RowStreams
from dreamenv.frames import frames_from_model, frames_to_model
from dreamenv.randomness import seed_keys, uniform

ROWS = np.arange(5)


def started(seeds=(1, 2, 3, 4, 5)) -> tuple[RowStreams, np.ndarray]:
    streams = RowStreams(5)
    streams.seed(ROWS, np.array(seeds))
    return streams, streams.begin(ROWS).key


def test_samples_are_the_rows_uniform_numbers_step_by_step():
    streams, keys = started()
    for step in range(200):
        expected = uniform(torch.from_numpy(keys), torch.full((5,), step), stream=TERMINATION_STREAM)
        np.testing.assert_array_equal(streams.sample(), expected.numpy())


def test_restarting_one_row_does_not_touch_the_others():
    streams, _ = started()
    undisturbed, _ = started()
    for step in range(300):
        if step % 7 == 3:
            streams.begin(np.array([2]))
        left, right = streams.sample(), undisturbed.sample()
        np.testing.assert_array_equal(np.delete(left, 2), np.delete(right, 2))


def test_a_rows_dreams_do_not_depend_on_when_the_others_begin_theirs():
    streams, first = started()
    keys = [first[1], *(streams.begin(np.array([1])).key[0] for _ in range(3))]
    other, _ = started((9, 2, 9, 9, 9))
    for row in (0, 3, 0, 4):
        other.begin(np.array([row]))
    assert [other.begin(np.array([1])).key[0] for _ in range(3)] == keys[1:]
    assert len(set(keys)) == 4


def test_restored_streams_continue_exactly():
    streams, _ = started()
    streams.begin(np.array([3]))
    for _ in range(70):
        streams.sample()
    key = streams._key.copy()
    other = RowStreams(5)
    other.restore(streams.row_key, streams.dreams, key, np.full(5, 70))
    for _ in range(100):
        np.testing.assert_array_equal(streams.sample(), other.sample())
    assert (streams.begin(ROWS).key == other.begin(ROWS).key).all()


def test_seeding_again_begins_the_same_dreams():
    streams, keys = started()
    streams.begin(ROWS)
    streams.seed(np.array([1, 4]), np.array([2, 5]))
    again = streams.begin(np.array([1, 4]))
    assert again.key.tolist() == keys[[1, 4]].tolist()
    assert streams.row_key[1] == int(seed_keys(torch.tensor([2]))[0])


def test_starts_and_temperatures_are_spread_evenly():
    streams = RowStreams(20_000)
    rows = np.arange(20_000)
    streams.seed(rows, rows)
    beginnings = streams.begin(rows)
    counts = np.bincount(beginnings.choose(10), minlength=10)
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi-squared with 9 degrees of freedom, p = 0.001
    assert abs(beginnings.temperature.mean() - 0.5) < 4 / np.sqrt(12 * 20_000)
    assert len(np.unique(beginnings.key)) == 20_000


def test_every_pixel_value_survives_the_way_into_a_model_and_back():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(2, 1, 1, 3)
    pixels[..., 1] = 255 - pixels[..., 1]
    assert torch.equal(frames_from_model(frames_to_model(pixels)), pixels)


def test_frames_are_rounded_to_the_nearest_in_every_memory_layout():
    frames = torch.rand(3, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    expected = np.rint(frames.numpy().transpose(0, 2, 3, 1).astype(np.float64) * 255)
    for layout in (
        frames,
        frames.to(memory_format=torch.channels_last),
        frames.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    ):
        made = frames_from_model(layout)
        assert made.is_contiguous()
        np.testing.assert_array_equal(made.numpy(), expected)
    flat = torch.full((2, 1, 1, 1), 0.5).expand(2, 3, 8, 6)
    assert (frames_from_model(flat) == 128).all()

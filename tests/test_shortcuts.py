"""Shortcuts: steps of several sizes, of which the longer ones arrive where two of half the size do."""

from __future__ import annotations

import pytest
import torch
from gaussian import MEAN, STD
from torch import Tensor

from dreamenv.diffusion.preconditioning import per_frame
from dreamenv.diffusion.shortcut import Shortcut, shortcut_error, shortcut_step
from dreamenv.errors import ConfigError


def knowing(frames: Tensor):
    """A network that knows the frame: every step then lies on the straight way."""
    return lambda noisy, signal, size, rows: frames[rows].expand_as(noisy)


def test_a_network_that_knows_the_frame_makes_no_error_at_any_step_size():
    frames = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0))
    noise, uniform = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(1)), torch.rand(6, 2)
    coarse = torch.tensor([0, 0, 1, 2, 3, 3])
    error = shortcut_error(knowing(frames), frames, noise, uniform, finest=8, coarse=coarse)
    assert error.shape == (6, 2)
    assert float(error.max()) < 1e-9
    assert (shortcut_error(knowing(frames + 1), frames, noise, uniform, finest=8, coarse=coarse)[:2] > 0).all()


def test_half_steps_are_predicted_for_rows_that_learn_from_them_alone():
    frames, noise, uniform = torch.randn(4, 2, 5), torch.randn(4, 2, 5), torch.rand(4, 2)
    given = []

    def network(noisy, signal, size, rows):
        given.append(rows.tolist())
        return frames[rows]

    shortcut_error(network, frames, noise, uniform, finest=8, coarse=torch.tensor([0, 2, 0, 1]))
    assert given == [[0, 1, 2, 3], [1, 3], [1, 3]]
    given.clear()
    shortcut_error(network, frames, noise, uniform, finest=8, coarse=torch.zeros(4, dtype=torch.int64))
    assert given == [[0, 1, 2, 3]]


def test_a_doubled_step_learns_to_arrive_where_two_halves_do():
    """With the best denoiser of Gaussian data for half steps, the target of a whole step is that of two Euler steps."""
    given = []

    def network(noisy, signal, size, rows=None):
        given.append((signal.clone(), size.clone()))
        gain = per_frame(signal * STD**2 / (signal**2 * STD**2 + (1 - signal) ** 2), noisy)
        return MEAN + gain * (noisy - per_frame(signal, noisy) * MEAN)

    frames, noise = torch.zeros(1, 1, 3), torch.tensor([[[-1.0, 0.5, 2.0]]])
    uniform = torch.tensor([[0.3]])
    error = shortcut_error(network, frames, noise, uniform, finest=4, coarse=torch.tensor([1]))
    assert [(float(s), float(d)) for s, d in given] == [(0.0, 0.5), (0.0, 0.25), (0.25, 0.25)]
    quarter = torch.full((1, 1), 0.25)
    middle = shortcut_step(network, noise, torch.zeros(1, 1), quarter)
    end = shortcut_step(network, middle, quarter, quarter)
    whole = shortcut_step(network, noise, torch.zeros(1, 1), 2 * quarter)
    torch.testing.assert_close(error[0, 0], 0.1 * (((whole - end) * 2) ** 2).mean())


def test_a_small_network_learns_to_sample_in_one_step_what_it_samples_in_eight():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU(), torch.nn.Linear(64, 1)
    )

    def predict(noisy, signal, size, rows=None):
        inputs = torch.stack([noisy[..., 0], signal, size.log2()], dim=-1)
        return network(inputs)

    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(1500):
        sign = torch.randint(2, (256, 1, 1)) * 2.0 - 1
        frames = sign + 0.05 * torch.randn(256, 1, 1)
        coarse = (
            torch.randint(4, (256,)) * (torch.rand(256) < 0.5) if step > 300 else torch.zeros(256, dtype=torch.long)
        )
        error = shortcut_error(predict, frames, torch.randn(256, 1, 1), torch.rand(256, 1), finest=8, coarse=coarse)
        optimizer.zero_grad()
        error.mean().backward()
        optimizer.step()
    start = torch.randn(2000, 1, 1)
    with torch.no_grad():
        sampled = {}
        for steps in (1, 8):
            x = start
            for number in range(steps):
                signal = torch.full((2000, 1), number / steps)
                x = shortcut_step(predict, x, signal, torch.full((2000, 1), 1 / steps))
            sampled[steps] = x.flatten()
    for steps, values in sampled.items():
        assert float((values.abs() - 1).abs().mean()) < 0.35, steps  # 1 if it sampled the mean, 0
    assert float((sampled[1].sign() == sampled[8].sign()).float().mean()) > 0.9


def test_sizes_of_steps_are_shares_of_the_way():
    sampler = Shortcut(steps=2, max_steps=8)
    assert (sampler.step_size, sampler.finest_step_size) == (0.5, 0.125)


def error_of(*, finest, doubled):
    frames = torch.zeros(1, 1, 3)
    return shortcut_error(
        knowing(frames), frames, frames, torch.zeros(1, 1), finest=finest, coarse=torch.tensor([doubled])
    )


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Shortcut(steps=3, max_steps=8), "learned for 1, 2, 4, 8 steps, not for 3"),
        (lambda: Shortcut(steps=16, max_steps=8), "not for 16"),
        (lambda: Shortcut(steps=1, max_steps=12), "power of two, not 12"),
        (lambda: Shortcut(steps=1, max_steps=0), "power of two, not 0"),
        (lambda: error_of(finest=12, doubled=0), "power of two, not of 12"),
        (lambda: error_of(finest=4, doubled=3), r"doubled 0 to 2 times, not \[3\]"),
    ],
)
def test_steps_that_are_not_learned_are_refused(make, named):
    with pytest.raises(ConfigError, match=named):
        make()

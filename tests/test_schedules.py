"""Schedules say who is denoised when; context is presented, and guidance pushes, as their sources say."""

from __future__ import annotations

import pytest
import torch
from gaussian import PROCESSES, best, denoise_all, exact, pure_noise

from dreamenv.diffusion.context_noise import NoiseAugmentation, Stabilization
from dreamenv.diffusion.guidance import Guidance, guide
from dreamenv.diffusion.process import VariancePreserving
from dreamenv.diffusion.sampler import DPMSolver
from dreamenv.diffusion.schedule import (
    Backwards,
    Chunkwise,
    EndsFirst,
    FullSequence,
    NextFrame,
    Pyramid,
    Trapezoid,
)
from dreamenv.errors import ConfigError


def left(schedule, steps):
    return schedule.matrix(steps).left.tolist()


def test_matrices_say_who_is_denoised_when():
    assert left(NextFrame(frames=3), 2) == [
        [2, 2, 2],
        [1, 2, 2],
        [0, 2, 2],
        [0, 1, 2],
        [0, 0, 2],
        [0, 0, 1],
        [0, 0, 0],
    ]
    assert left(FullSequence(frames=3), 2) == [[2, 2, 2], [1, 1, 1], [0, 0, 0]]
    assert left(Pyramid(frames=3), 2) == [[2, 2, 2], [1, 2, 2], [0, 1, 2], [0, 0, 1], [0, 0, 0]]
    assert left(Trapezoid(frames=4), 2) == [[2, 2, 2, 2], [1, 2, 2, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert left(EndsFirst(frames=3), 2) == [[2, 2, 2], [2, 2, 1], [2, 2, 0], [1, 1, 0], [0, 0, 0]]
    assert left(Backwards(frames=2), 2) == [[2, 2], [2, 1], [2, 0], [1, 0], [0, 0]]
    grouped = Chunkwise(frames=4, group=2, in_flight=2)
    assert left(grouped, 2) == [[2, 2, 2, 2], [1, 1, 2, 2], [0, 0, 1, 1], [0, 0, 0, 0]]
    in_turn = NextFrame(frames=5)
    assert left(Pyramid(frames=5, delay=3), 3) == left(in_turn, 3) == left(Chunkwise(frames=5), 3)
    schedules = (in_turn, Pyramid(frames=5), FullSequence(frames=5))
    assert [schedule.matrix(3).evaluations for schedule in schedules] == [15, 7, 3]


def test_frames_see_each_other_both_ways_in_full_sequences_and_groups_alone():
    schedules = (NextFrame(frames=4), Pyramid(frames=4), FullSequence(frames=4), Chunkwise(frames=4, group=2))
    assert [schedule.group_size for schedule in schedules] == [1, 1, 4, 2]


@pytest.mark.parametrize(
    "schedule",
    [
        NextFrame(frames=4),
        Pyramid(frames=4),
        Trapezoid(frames=4),
        EndsFirst(frames=4),
        Backwards(frames=4),
        Chunkwise(frames=4, group=2, in_flight=2),
    ],
    ids=lambda one: one.kind,
)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_every_schedule_denoises_every_frame(schedule, process):
    noisy = pure_noise(process, 2, 4)
    clean = denoise_all(schedule.matrix(40), process, DPMSolver(), best(process), noisy)
    top = process.sampling_levels(1)[:1].expand(2, 4)
    error = (clean - exact(process, noisy, top, torch.full((2, 4), process.clean))).abs()
    assert float(error.max()) < 0.15  # of values that span about 2
    together = denoise_all(FullSequence(frames=4).matrix(40), process, DPMSolver(), best(process), noisy)
    torch.testing.assert_close(clean, together)  # frames are independent here, so the schedule cannot matter


def test_context_is_scaled_or_only_labelled():
    process, frames = VariancePreserving(schedule="sigmoid"), torch.ones(2, 3, 4)
    scaled, levels = Stabilization(stabilization_level=14).present(process, frames)
    labelled, same = Stabilization(stabilization_level=14, context_noise_mode="labelled").present(process, frames)
    assert torch.equal(levels, same)
    assert torch.equal(labelled, frames)
    torch.testing.assert_close(scaled, frames * process.alpha_sigma(torch.tensor(14.0))[0])
    assert float(scaled.max()) < 1


def test_guidance_pushes_away_from_the_unconditional():
    without, action, memory = torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    guided = guide(without, {"action": action, "memory": memory}, {"action": 1.0, "memory": 3.0})
    assert guided.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: NextFrame(frames=0), "frames must be at least 1, not 0"),
        (lambda: NextFrame(frames=4).matrix(0), "at least one step"),
        (lambda: FullSequence(frames=1), "'full_sequence' orders several frames.*not 1. Use 'next_frame'"),
        (lambda: Chunkwise(frames=10, group=3), "group of 3 does not divide 10"),
        (lambda: Chunkwise(frames=12, group=3, in_flight=3).matrix(4), "3 groups in flight do not divide 4"),
        (lambda: Chunkwise(frames=4, in_flight=0), "in_flight must be at least 1, not 0"),
        (lambda: Pyramid(frames=4, delay=-1), "at least 1 row, not -1"),
        (lambda: Pyramid(frames=4, delay=0), "not 0; use 'full_sequence'"),
        (lambda: Trapezoid(frames=4, delay=0), "not 0; use 'full_sequence'"),
        (lambda: Pyramid(frames=4, delay=3).matrix(2), "delay of 3 rows is longer than the 2 steps.*make it 2"),
        (lambda: Trapezoid(frames=4, delay=3).matrix(2), "delay of 3 rows is longer than the 2 steps.*make it 2"),
        (lambda: Stabilization(context_noise_mode="hidden"), "'scaled' or 'labelled', not 'hidden'"),
        (lambda: NoiseAugmentation(max_std=0.0), "max_std must be positive, not 0.0; leave noise augmentation out"),
        (lambda: Guidance(action_dropout=1.0), r"action_dropout must be in \[0, 1\), not 1.0"),
        (lambda: Guidance(context_dropout=-0.1), r"context_dropout must be in \[0, 1\), not -0.1"),
        (lambda: guide(torch.zeros(1), {"action": torch.ones(1)}, {"text": 2.0}), "action.*text"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(make, named):
    with pytest.raises(ConfigError, match=named):
        make()

"""Frames are converted in one place: every uint8 survives the way into a model and back."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamenv.frames import frames_from_model, frames_to_model, frames_to_numpy, quantize_uint8, to_float, to_uint8

LEVELS = np.arange(256, dtype=np.uint8)


def pictures(*lead: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*lead, 5, 4, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_frames_come_back_from_a_model_as_they_went_in(lead, channels_last, channels):
    frames = pictures(*lead, channels=channels)
    inside = frames_to_model(frames, channels_last=channels_last)
    assert inside.shape == (*lead, channels, 5, 4)
    assert inside.dtype == torch.float32
    assert inside.is_contiguous() != (channels_last and channels > 1)
    np.testing.assert_array_equal(inside.numpy(), np.moveaxis(frames, -1, -3).astype(np.float32) / np.float32(255))
    assert torch.equal(inside, frames_to_model(torch.from_numpy(frames), "cpu"))
    for back in (frames_from_model(inside).numpy(), frames_to_numpy(inside)):
        assert back.flags.c_contiguous
        np.testing.assert_array_equal(back, frames)


def test_frames_that_cannot_be_written_or_lie_backwards_are_read():
    frames = pictures(2)
    still = frames.copy()
    still.flags.writeable = False
    assert torch.equal(frames_to_model(still), frames_to_model(frames))
    assert torch.equal(frames_to_model(frames[:, ::-1]), frames_to_model(frames).flip(-2))
    inside = frames_to_model(frames, channels_last=True)
    inside.zero_()
    assert frames.any()  # the frames that came in are nobody's to write into


def test_values_outside_the_range_are_clipped_for_display():
    frames = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 7.0]).reshape(1, 1, 6).requires_grad_()
    assert frames_to_numpy(frames).tolist() == [[[0], [0], [0], [1], [255], [255]]]


def test_every_level_survives_and_between_two_the_nearer_is_taken():
    floats = to_float(torch.from_numpy(LEVELS))
    assert (floats.min(), floats.max(), floats.dtype) == (0.0, 1.0, torch.float32)
    assert torch.equal(to_uint8(floats), torch.from_numpy(LEVELS))
    assert torch.equal(quantize_uint8(floats), floats)
    between = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    exact = between.double() * 255
    assert torch.equal(to_uint8(between).double(), exact.round())
    assert torch.equal(quantize_uint8(between), to_float(to_uint8(between)))
    assert torch.equal(quantize_uint8(between, floor=True).mul(255).round().double(), exact.floor())


ROOT = Path(__file__).resolve().parents[1]
# The first layer of a policy's network takes the division into its weights; statistics are of sums of pixels.
OWN_REASONS = {"agents/networks.py", "dreamenv/data/store.py"}
# The denoising worlds convert by themselves still.
SOURCES = [
    path
    for folder in ("dreamenv", "agents", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if (name := str(path.relative_to(ROOT))) != "dreamenv/frames.py" and name not in OWN_REASONS
]


def scales_pixels(node: ast.AST) -> bool:
    """Whether the expression multiplies or divides by 255."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        parts = [node.left, node.right]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".")[-1].rstrip("_") in {"div", "mul"}:
        parts = node.args
    else:
        return False
    return any(isinstance(part, ast.Constant) and part.value == 255 for part in parts)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_frames_converts_pixels(path):
    found = [node for node in ast.walk(ast.parse(path.read_text())) if scales_pixels(node)]
    assert [f"{path}:{node.lineno} {ast.unparse(node)}" for node in found] == []


def test_many_frames_are_converted_as_each_is_alone():
    frames = torch.rand(131, 8, 8, 3, generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)
    alone = torch.cat([frames_from_model(one) for one in frames.split(1)])
    assert torch.equal(frames_from_model(frames), alone)
    assert torch.equal(frames_from_model(frames.contiguous()), alone)

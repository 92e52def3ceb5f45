"""Fréchet video distance in a fixed random encoder (rFVD): how far dreamt clips are from real ones, as a distribution.

The encoder is a 3-D convolutional network whose weights are random numbers of a fixed seed; nothing was trained. Its
features tell sharp from blurred, moving from frozen and whole from broken clips, and know nothing of what things are.
The Fréchet distance between Gaussians fitted to features is that of FID (Heusel et al., 2017) and FVD (Unterthiner et
al., 2018), whose encoder was trained on videos of people. So values can be compared with each other, at the same number
of clips, and never with published FVDs. Read them next to the floor, the distance between real clips and other real
clips.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dreamenv.errors import FrameError, InputError
from dreamenv.frames import frames_to_model

__all__ = ["CLIP_FRAMES", "clip_features", "frechet_distance"]

CLIP_FRAMES = 16
"""Frames of a clip."""

_SIZE = 64  # pixels; larger frames are shrunk, smaller ones enlarged
_WIDTHS = (16, 32, 64)
_FEATURES = 48
_SEED = 0x5EED
_BATCH = 16  # clips at a time


def clip_features(clips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return features (n, 48) of clips (n, `CLIP_FRAMES`, h, w, 3 or 1) uint8.

    Raises:
        FrameError: clips of another shape.
    """
    if clips.ndim != 5 or clips.shape[1] != CLIP_FRAMES or clips.shape[-1] not in (1, 3):
        raise FrameError(f"clips must be (n, {CLIP_FRAMES}, h, w, 3), not {tuple(clips.shape)}.")
    encoder = _encoder()
    parts = []
    with torch.inference_mode():
        for first in range(0, len(clips), _BATCH):
            frames = frames_to_model(clips[first : first + _BATCH])
            n, t, _, h, w = frames.shape
            if (h, w) != (_SIZE, _SIZE):
                frames = nn.functional.interpolate(frames.flatten(0, 1), (_SIZE, _SIZE), mode="area")
                frames = frames.unflatten(0, (n, t))
            parts.append(encoder(frames.expand(n, t, 3, _SIZE, _SIZE).movedim(2, 1)))
    return torch.cat(parts).double().numpy()


def frechet_distance(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to features (n, d) and (m, d).

    Raises:
        InputError: fewer than two rows, or features of another width or that are not finite.
    """
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or min(len(one), len(other)) < 2:
        raise InputError(f"features must be (n, d) and (m, d) with at least 2 rows, not {one.shape}, {other.shape}.")
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise InputError("features must be finite.")
    means = np.square(one.mean(0) - other.mean(0)).sum()
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    # The trace of sqrt(first second) is the sum of singular values of sqrt(first) sqrt(second).
    root = np.linalg.svd(_root(first) @ _root(second), compute_uv=False).sum()
    return max(0.0, float(means + np.trace(first) + np.trace(second) - 2 * root))


def _root(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    values, vectors = np.linalg.eigh(np.atleast_2d(matrix))
    root: npt.NDArray[np.float64] = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root


class _Encoder(nn.Module):
    """Clips (n, 3, t, h, w) in [0, 1] -> (n, `_FEATURES`): means and spreads over space and time, projected."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(_SEED)  # numpy's streams are the same on every machine and version
        widths = (3, *_WIDTHS)
        self.layers = nn.ModuleList()
        for narrow, wide in itertools.pairwise(widths):
            layer = nn.Conv3d(narrow, wide, 3, stride=(1 if narrow == 3 else 2, 2, 2), padding=1)
            scale = np.sqrt(2 / (27 * narrow))
            layer.weight = _fixed(random.normal(0, scale, (wide, narrow, 3, 3, 3)))
            layer.bias = _fixed(random.normal(0, 0.1, wide))
            self.layers.append(layer)
        total = 2 * sum(_WIDTHS)
        self.projection = _fixed(random.normal(0, 1, (total, _FEATURES)) / np.sqrt(total))

    def forward(self, clips: Tensor) -> Tensor:
        """Return the features."""
        values, pooled = (clips - 0.5) * 4, []
        for layer in self.layers:
            values = nn.functional.leaky_relu(layer(values), 0.2)
            # Logarithms, because contrast differs far more between scenes than a blur changes it.
            pooled += [_log_spread(values), _log_spread(values.diff(dim=2))]
        return torch.cat(pooled, dim=1) @ self.projection


def _log_spread(values: Tensor) -> Tensor:
    spread = values.flatten(2).square().mean(-1) - values.flatten(2).mean(-1).square()
    return (spread.clamp_min(0) + 1e-4).log()


@functools.cache
def _encoder() -> _Encoder:
    return _Encoder().eval()


def _fixed(values: npt.NDArray[np.float64]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(values.astype(np.float32)), requires_grad=False)

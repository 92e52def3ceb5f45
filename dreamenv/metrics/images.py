"""Image metrics, frame by frame: PSNR, SSIM, brightness, contrast, sharpness and gradient energy.

Frames are float32 in [0, 1], (..., c, h, w); every function returns one value per frame, (...).
"""

from __future__ import annotations

import torch
from einops import pack, unpack
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from dreamenv.errors import FrameError

__all__ = ["PSNR_CEILING", "brightness", "contrast", "gradient_energy", "psnr", "sharpness", "ssim"]

PSNR_CEILING = 100.0
"""Decibels assigned to equal frames, whose ratio would be infinite."""

_WINDOW, _SIGMA = 11, 1.5  # pixels; Wang et al., "Image quality assessment" (2004)


def psnr(frames: Tensor, targets: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in decibels, at most `PSNR_CEILING`."""
    _check_pair(frames, targets)
    error = (frames.double() - targets.double()).square().mean(dim=(-3, -2, -1))
    return (-10.0 * error.clamp_min(10 ** (-PSNR_CEILING / 10)).log10()).float()


def ssim(frames: Tensor, targets: Tensor) -> Tensor:
    """Return the structural similarity in [-1, 1] (Gaussian window of 11 pixels, or the largest odd size that fits)."""
    _check_pair(frames, targets)
    flat, leading = pack([frames], "* c h w")
    others, _ = pack([targets], "* c h w")
    largest = min(flat.shape[-2:])
    window = min(_WINDOW, largest - 1 + largest % 2)
    values = structural_similarity_index_measure(
        flat,
        others,
        gaussian_kernel=True,
        sigma=_SIGMA,
        kernel_size=window,
        data_range=1.0,
        reduction="none",
    )
    assert isinstance(values, Tensor)
    return unpack(values.reshape(-1), leading, "*")[0]


def brightness(frames: Tensor) -> Tensor:
    """Return the mean value, in [0, 1]."""
    return frames.mean(dim=(-3, -2, -1))


def contrast(frames: Tensor) -> Tensor:
    """Return the standard deviation over pixels, in [0, 0.5]."""
    return frames.flatten(-2).std(dim=-1, correction=0).mean(dim=-1)


def sharpness(frames: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels, in [0, 1]; blur lowers it."""
    across = frames.diff(dim=-1).abs().mean(dim=(-3, -2, -1))
    down = frames.diff(dim=-2).abs().mean(dim=(-3, -2, -1))
    return (across + down) / 2


def gradient_energy(frames: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels, in [0, 1]; blurred edges lower it most."""
    across = frames.diff(dim=-1).square().mean(dim=(-3, -2, -1))
    down = frames.diff(dim=-2).square().mean(dim=(-3, -2, -1))
    return (across + down) / 2


def _check_pair(frames: Tensor, targets: Tensor) -> None:
    if frames.shape != targets.shape or frames.ndim < 3:
        raise FrameError(
            f"frames and targets must share one shape (..., c, h, w), not {tuple(frames.shape)} and "
            f"{tuple(targets.shape)}."
        )
    if not torch.is_floating_point(frames) or not torch.is_floating_point(targets):
        raise FrameError(f"frames must be floats in [0, 1], not {frames.dtype} and {targets.dtype}.")

"""The likelihood of a frame's 8-bit levels, given the frame that a decoder shows.

A decoder that learned from squared errors says what it expects, not how far off it is. So a frame is judged by a
mixture of a few discretised Laplace distributions about what is shown, all of whose pixels have the same width; which
width is part of the mixture, in which all have equal shares. That is a proper likelihood, it has no parameter to be
fitted, and it costs at most the logarithm of the number of widths, 3 nats a frame, more than the best of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["pixel_nats"]

_WIDTHS = tuple(2.0 ** (half / 2) for half in range(-6, 15))  # of the distributions, in levels: 1/8 to 128
_MOST = 255


def pixel_nats(shown: Tensor, frames: Tensor) -> Tensor:
    """Return minus the log-likelihood of frames (b, t, c, h, w) in [0, 1] about those shown, (b, t) nats."""
    levels, mean = (frames * _MOST).round().flatten(2), shown.flatten(2) * _MOST
    by_width = torch.stack([_log_share(levels, mean, width).sum(dim=-1) for width in _WIDTHS])
    return math.log(len(_WIDTHS)) - by_width.logsumexp(dim=0)


def _log_share(levels: Tensor, mean: Tensor, width: float) -> Tensor:
    """Return the log-probability of levels under a Laplace distribution, cut into levels; the ends hold its tails."""
    distance = (levels - mean).abs()
    half = 0.5 / width
    # Beside the mean's own level: exp(-distance / width) sinh(half). Within it, one less the tails on both sides.
    beside = -distance / width + math.log(math.sinh(half))
    within = torch.log1p(-torch.exp(torch.full_like(distance, -half)) * torch.cosh(distance.clamp_max(0.5) / width))
    inner = torch.where(distance > 0.5, beside, within)
    outward = torch.where(levels <= 0, mean - levels, levels - mean)  # from the mean to a level at an end
    tail = _log_tail(outward - 0.5, width)
    return torch.where((levels <= 0) | (levels >= _MOST), tail, inner)


def _log_tail(distance: Tensor, width: float) -> Tensor:
    """Return the logarithm of the share of a Laplace distribution that lies beyond a distance from its mean."""
    far = -distance / width - math.log(2)
    near = torch.log1p(-torch.exp(distance.clamp_max(0) / width) / 2)
    return torch.where(distance > 0, far, near)

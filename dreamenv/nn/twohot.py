"""Regression as classification: a scalar of any scale as a mixture of two neighbouring bins.

Bins are equally spaced in symlog, sign(x) log(1 + |x|), and a value is spread over its two neighbours (DreamerV3,
Hafner et al. 2023). Rare large rewards then do not swamp common small ones, and there is no scale to tune.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TwoHot", "symexp", "symlog"]

_LEAST_SPAN = 1.0  # bins of a constant reward still need a width
_UNIFORM_SHARE = 0.5  # of `TwoHot.initial_logits`, at most: the larger, the sooner other rewards are learned
_LEAST_SHARE = 1e-8  # of a bin there, so that its logarithm is finite


def symlog(x: Tensor) -> Tensor:
    """Squash symmetrically: sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Undo `symlog`."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """A distribution over a scalar, given as logits (..., bins).

    Args:
        bins: how many.
        low, high: the scalar's range; `set_range` narrows it to that of the data. The mean never leaves it.
    """

    centers: Tensor

    def __init__(self, bins: int = 65, low: float = -1000.0, high: float = 1000.0) -> None:
        super().__init__()
        self.bins = bins
        self.register_buffer("centers", torch.empty(bins))
        self.set_range(low, high)

    def set_range(self, low: float, high: float) -> None:
        """Space the bins from low to high, in the scalar's own units."""
        if high - low < _LEAST_SPAN:
            middle = (low + high) / 2
            low, high = middle - _LEAST_SPAN / 2, middle + _LEAST_SPAN / 2
        ends = symlog(torch.tensor([low, high], dtype=torch.float64))
        self.centers.copy_(symexp(torch.linspace(float(ends[0]), float(ends[1]), self.bins, dtype=torch.float64)))

    def mean(self, logits: Tensor) -> Tensor:
        """Expected value (...,), in the scalar's own units."""
        return (logits.softmax(dim=-1) * self.centers).sum(dim=-1)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy (...,) in nats against the two-hot target (...,)."""
        return -(self.encode(target) * logits.log_softmax(dim=-1)).sum(dim=-1)

    def encode(self, target: Tensor) -> Tensor:
        """Spread (...,) over its two neighbours (..., bins), so that `mean` of the result gives the target back.

        The shares interpolate in the scalar's own units, so the mean of a learned mixture is unbiased.
        """
        target = target.clamp(self.centers[0], self.centers[-1])
        below = (torch.searchsorted(self.centers, target.contiguous(), right=True) - 1).clamp(0, self.bins - 2)
        left, right = self.centers[below], self.centers[below + 1]
        upper = (target - left) / (right - left)
        encoded = torch.zeros(*target.shape, self.bins, device=target.device)
        encoded.scatter_(-1, below[..., None], (1.0 - upper)[..., None])
        return encoded.scatter_(-1, below[..., None] + 1, upper[..., None])

    def initial_logits(self, value: float) -> Tensor:
        """Return logits (bins,) whose mean is ``value``, within the range: for a head to start from.

        They mix the two bins next to the value with a uniform distribution. The mean of all bins can be far off and
        would bias every reward, so the uniform share is only as large as the two bins can compensate.
        """
        low, high, middle = float(self.centers[0]), float(self.centers[-1]), float(self.centers.mean())
        value = min(max(value, low), high)
        room = (high - value) / (high - middle) if value > middle else (value - low) / (middle - low)
        share = min(_UNIFORM_SHARE, room)
        neighbours = self.encode(self.centers.new_tensor((value - share * middle) / (1 - share)))
        return ((1 - share) * neighbours + share / self.bins).clamp_min(_LEAST_SHARE).log()

"""The probability of a pixel's levels: a mixture of discretised logistic distributions, one channel after the other.

As in PixelCNN++ (Salimans et al. 2017): a component is shared by a pixel's channels, and the mean of a later channel
moves with what the earlier ones turned out to be. It moves with their distance from the component's anchor, a guess
that all channels share, so that grey stays grey whatever else is learned: then no offset and a slope of 1 are exact. A
little of the uniform distribution is mixed into every channel's, so that no level is impossible.

Letters: ``m`` components, ``c`` channels, ``p`` pixels; a distribution has leading axes ``...`` before ``p``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LEVELS", "LogisticMixture"]

LEVELS = 256
_UNIFORM = 2.0**-14  # share of the uniform distribution; it costs 0.0001 bits a level
_LEAST = 1e-30  # keeps logarithms and shares finite
_LEAST_SCALE, _MOST_SCALE = 0.03, 64.0  # of a logistic distribution, in levels


@dataclass(frozen=True, eq=False)
class LogisticMixture:
    """The mixtures of p pixels.

    Attributes:
        weights: (..., m, p) float32, the components' shares, which add up to 1.
        means: (..., m, c, p) float32, in levels.
        scales: (..., m, c, p) float32, in levels.
        slopes: (..., m, s, p) float32 with s = c (c - 1) / 2: how far a channel's mean moves for each earlier channel.
        anchors: (..., m, c, p) float32, in levels.
    """

    weights: Tensor
    means: Tensor
    scales: Tensor
    slopes: Tensor
    anchors: Tensor

    @classmethod
    def of(
        cls, logits: Tensor, offsets: Tensor, log_scales: Tensor, slopes: Tensor, anchors: Tensor
    ) -> LogisticMixture:
        """Return the mixtures of a network's outputs.

        Args:
            logits: logarithms of weights, not normalised.
            offsets: of means from anchors, in levels.
            log_scales: logarithms of scales.
            slopes, anchors: see above.
        """
        scales = log_scales.exp().clamp(_LEAST_SCALE, _MOST_SCALE)
        return cls(logits.softmax(dim=-2), anchors + offsets, scales, slopes, anchors)

    def bits(self, levels: Tensor) -> Tensor:
        """Return what levels (..., c, p), whole numbers in [0, 255], cost: (..., c, p) bits."""
        costs, weights = [], self.weights
        for channel in range(self.means.shape[-2]):
            share = self._share(channel, levels)
            costs.append(-torch.log2((1 - _UNIFORM) * (weights * share).sum(dim=-2) + _UNIFORM / LEVELS))
            weights = _posterior(weights, share)
        return torch.stack(costs, dim=-2)

    def probabilities(self, channel: int, levels: Tensor) -> Tensor:
        """Return the probabilities of a channel's levels, (..., p, 256) float32, given the channels before it.

        Args:
            channel: which.
            levels: (..., c, p), of which those of earlier channels are looked at.
        """
        weights = self.weights
        for earlier in range(channel):
            weights = _posterior(weights, self._share(earlier, levels))
        mean, scale = self._mean(channel, levels), self.scales[..., channel, :]
        edges = torch.arange(LEVELS - 1, dtype=mean.dtype, device=mean.device) + 0.5
        below = torch.sigmoid((edges - mean[..., None]) / scale[..., None])  # ... m p 255
        below = (weights[..., None] * below).sum(dim=-3)  # ... p 255
        below = torch.nn.functional.pad(below, (1, 0), value=0.0)
        above = torch.cat((below[..., 1:], torch.ones_like(below[..., :1])), dim=-1)
        return (above - below).clamp_min_(0.0).mul_(1 - _UNIFORM).add_(_UNIFORM / LEVELS)

    def _mean(self, channel: int, levels: Tensor) -> Tensor:
        """(..., m, p) of a channel, given the levels of earlier ones."""
        mean, first = self.means[..., channel, :], channel * (channel - 1) // 2
        for earlier in range(channel):
            surprise = levels[..., None, earlier, :] - self.anchors[..., earlier, :]
            mean = mean + self.slopes[..., first + earlier, :] * surprise
        return mean

    def _share(self, channel: int, levels: Tensor) -> Tensor:
        """Return how probable a channel's level is in each component, (..., m, p)."""
        level, mean, scale = levels[..., None, channel, :], self._mean(channel, levels), self.scales[..., channel, :]
        # Both edges on the side where a sigmoid is small, where it has all its digits.
        side = torch.where(level > mean, -1.0, 1.0)
        lower, upper = (level - 0.5 - mean) / scale, (level + 0.5 - mean) / scale
        lower = torch.where(level <= 0, -math.inf, lower)
        upper = torch.where(level >= LEVELS - 1, math.inf, upper)
        return (torch.sigmoid(side * upper) - torch.sigmoid(side * lower)).abs()


def _posterior(weights: Tensor, share: Tensor) -> Tensor:
    """Return the components' shares after a level that has this probability in each."""
    joint = weights * share + _LEAST * weights
    return joint / joint.sum(dim=-2, keepdim=True)

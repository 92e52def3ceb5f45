"""How many nats a frame's codes cost someone who knows the frame before: what keeps a codec predictable.

A codec that is judged by its picture alone spends its codes on what no world can foretell, such as on which side of a
rounding a texture falls, and a world that draws them draws noise. Learned video codecs weigh rate against distortion
(DCVC, Li et al. 2021); here the rate is that of a logistic distribution over a scalar's levels, whose mean and scale a
small network reads off the frame before (discretised logistic, Salimans et al. 2017). Letters as in
`dreamenv.codecs.fsq`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamenv.nn.residual import CastConv

__all__ = ["CodeRate"]

_CHANNELS = 48
_LEAST = 2e-4  # of every level's probability, so that none costs more than about 8.5 nats
_FAR = 1e6  # where the outermost levels end


class CodeRate(nn.Module):
    """The rate.

    Args:
        scalars: s.
        levels: of each scalar, odd.
    """

    def __init__(self, scalars: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.net = nn.Sequential(
            CastConv(scalars, _CHANNELS, 3), nn.SiLU(), CastConv(_CHANNELS, _CHANNELS, 3), nn.SiLU(),
            CastConv(_CHANNELS, 2 * scalars, 1),
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, before: Tensor, values: Tensor) -> Tensor:
        """Return the nats of a frame's values given those of the frame before, (n,).

        Both are (n, s, y, x), rounded to levels between -1 and 1; gradients reach the two of them and the network.
        """
        mean, log_scale = self.net(before.contiguous(memory_format=torch.channels_last)).float().chunk(2, dim=1)
        middle = self.levels // 2
        sharpness, level = (-log_scale.clamp(-5.0, 3.0)).exp(), values * middle
        above = torch.where(level > middle - 0.5, _FAR, level + 0.5) - mean * middle
        below = torch.where(level < 0.5 - middle, -_FAR, level - 0.5) - mean * middle
        probability = (above * sharpness).sigmoid() - (below * sharpness).sigmoid()
        nats: Tensor = -(probability * (1 - _LEAST * self.levels) + _LEAST).log().flatten(1).sum(dim=1)
        return nats

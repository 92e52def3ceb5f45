"""What frames that are run together see of each other and of past ones: in attention along time, and in normalisation.

Letters: w past frames, n places of a frame, N those of all attentions along time one after the other, g groups of
channels that are normalised together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GROUPS", "WindowAttention", "WindowCache"]

GROUPS = 8
"""Of channels, in every normalisation."""


@dataclass(frozen=True)
class WindowCache:
    """What is kept of past frames, newest last.

    Attributes:
        keys, values: (b, N, heads, w, d).
        moments: (b, w, normalisations, g, 2), means and variances of each frame by itself.
    """

    keys: Tensor
    values: Tensor
    moments: Tensor


class WindowAttention:
    """What the frames of one call see of each other and of the past. It is used once, and notes what may be kept.

    Args:
        attention_mask: (b, f, w + f) bool, what each frame attends to.
        pooling_mask: (b, f, w + f) bool, the frames over which it is normalised.
        positions: (b, f) int64, of its rotations.
        past: of frames before; None if there are none.
    """

    def __init__(
        self, attention_mask: Tensor, pooling_mask: Tensor, positions: Tensor, past: WindowCache | None = None
    ) -> None:
        self.attention_mask, self.positions, self.past = attention_mask, positions, past
        self.weights = pooling_mask / pooling_mask.sum(-1, keepdim=True)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.moments: list[Tensor] = []
        self._used = 0

    def statistics(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means and variances (b f, g) by which maps (b f, c, h, w) shall be normalised."""
        mean = maps.mean((2, 3)).unflatten(1, (GROUPS, -1)).mean(2)
        strayed = maps - mean.repeat_interleave(maps.shape[1] // GROUPS, 1)[..., None, None]
        variance = strayed.square().mean((2, 3)).unflatten(1, (GROUPS, -1)).mean(2)
        own = torch.stack((mean, variance), dim=-1).unflatten(0, self.positions.shape)
        every = own if self.past is None else torch.cat((self.past.moments[:, :, len(self.moments)], own), dim=1)
        self.moments.append(own)
        weights, (means, variances) = self.weights[..., None], every[:, None].unbind(-1)  # b f s 1, b 1 s g
        mean = (weights * means).sum(2)
        variance = (weights * (variances + (means - mean[:, :, None]).square())).sum(2)
        return mean.flatten(0, 1), variance.flatten(0, 1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Let queries (b, n, heads, f, d) attend to keys and values shaped like them, and to those of the past."""
        self.keys.append(key)
        self.values.append(value)
        sources = [(key, value)]
        if self.past is not None:
            at = slice(self._used, self._used + key.shape[1])
            sources.insert(0, (self.past.keys[:, at], self.past.values[:, at]))
        self._used += key.shape[1]
        scores = torch.cat([query @ keys.transpose(-1, -2) for keys, _ in sources], dim=-1) * query.shape[-1] ** -0.5
        weights = scores.masked_fill(~self.attention_mask[:, None, None], -torch.inf).softmax(-1)
        parts = weights.split([keys.shape[-2] for keys, _ in sources], dim=-1)
        attended: list[Tensor] = [
            part.to(values.dtype) @ values for part, (_, values) in zip(parts, sources, strict=True)
        ]
        return attended[0] if len(attended) == 1 else attended[0] + attended[1]

    def cache(self) -> WindowCache:
        """Return what may be kept of these frames."""
        return WindowCache(torch.cat(self.keys, dim=1), torch.cat(self.values, dim=1), torch.stack(self.moments, dim=2))

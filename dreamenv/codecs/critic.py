"""A critic that looks at patches, and tells real pictures from decoded ones (Isola et al. 2017)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dreamenv.nn.residual import CastConv

__all__ = ["PatchCritic"]

_SLOPE = 0.2  # of what is below 0


class PatchCritic(nn.Module):
    """The critic: every score looks at a patch, so that it judges textures and edges rather than scenes.

    Args:
        inputs: channels of a frame.
        channels: of each layer; the maps are halved by each.
    """

    def __init__(self, inputs: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for width in channels:
            self.layers.append(nn.utils.parametrizations.spectral_norm(nn.Conv2d(inputs, width, 4, 2, 1)))
            inputs = width
        self.last = CastConv(inputs, 1, 3)

    def forward(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return scores (n, 1, y, x), larger for what looks real, and the features of each layer.

        Args:
            frames: (n, c, h, w), about [0, 1].
        """
        maps, features = 2 * frames - 1, []
        for layer in self.layers:
            maps = functional.leaky_relu(layer(maps), _SLOPE)
            features.append(maps)
        return self.last(maps).float(), features

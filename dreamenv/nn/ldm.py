"""What the autoencoders of latent diffusion (Rombach et al. 2022) and of VQGAN (Esser et al. 2021) are made of."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LDMDownsample", "LDMResidual", "LDMUpsample", "conv3x3", "group_norm"]

_EPSILON = 1e-6  # of normalisations


class LDMResidual(nn.Module):
    """Two convolutions, each after a normalisation, with a residual connection.

    Args:
        inputs, outputs: channels.
        groups: of channels normalised together.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs, groups), conv3x3(inputs, outputs)
        self.norm2, self.conv2 = group_norm(outputs, groups), conv3x3(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, maps: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)."""
        inner = self.conv1(functional.silu(self.norm1(maps)))
        inner = self.conv2(functional.silu(self.norm2(inner)))
        return inner + (maps if self.shortcut is None else self.shortcut(maps))  # type: ignore[no-any-return]


class LDMDownsample(nn.Conv2d):
    """Halves each side. The picture is continued by zeros at its right and lower end alone."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h / 2, w / 2)."""
        return super().forward(functional.pad(maps, (0, 1, 0, 1)))


class LDMUpsample(nn.Conv2d):
    """Repeats every place twice per side, then smooths."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, 2 h, 2 w)."""
        return super().forward(functional.interpolate(maps, scale_factor=2.0, mode="nearest"))


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a convolution that keeps the size of its maps."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Return a normalisation of so many groups of channels."""
    return nn.GroupNorm(groups, channels, eps=_EPSILON)

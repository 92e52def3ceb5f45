"""The layers of timm that public code imports, so that it runs without it: the same names of weights, nothing more."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Attention", "Mlp", "PatchEmbed"]


class PatchEmbed(nn.Module):
    """Patches as tokens."""

    def __init__(self, size: int, patch: int, channels: int, width: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch, bias=bias)
        self.num_patches, self.patch_size = (size // patch) ** 2, (patch, patch)

    def forward(self, maps: Tensor) -> Tensor:
        """(b, channels, h, w) -> (b, n, width)."""
        return self.proj(maps).flatten(2).mT  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Attention among tokens."""

    def __init__(self, width: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = num_heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=qkv_bias), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, n, width) -> the same shape."""
        parts = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*parts)
        return self.proj(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two layers, without dropout."""

    def __init__(
        self, in_features: int, hidden_features: int, act_layer: Callable[[], nn.Module], drop: float = 0.0
    ) -> None:
        super().__init__()
        assert drop == 0
        self.fc1, self.act = nn.Linear(in_features, hidden_features), act_layer()
        self.fc2 = nn.Linear(hidden_features, in_features)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., in_features) -> the same shape."""
        return self.fc2(self.act(self.fc1(tokens)))  # type: ignore[no-any-return]

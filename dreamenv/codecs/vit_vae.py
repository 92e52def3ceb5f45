"""A transformer over patches with a linear bottleneck per token, as Oasis's (Decart and Etched 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.codecs.base import Autoencoder, AutoencoderConfig
from dreamenv.errors import ConfigError
from dreamenv.nn.attention import SpaceAttention

__all__ = ["ViTVAE", "ViTVAEConfig"]


@dataclass(frozen=True, kw_only=True)
class ViTVAEConfig(AutoencoderConfig, kind="vit_vae"):
    """Settings; it learns better at half the default rate.

    Attributes:
        latent_channels: values of a latent per token.
        patch: pixels per side of a token.
        embed_dim: width of tokens.
        depth: blocks per direction.
        heads: of attention; each is a multiple of 4 wide.
        temporal_stride: frames per latent.

    Raises:
        ConfigError: sizes that are not positive.
    """

    latent_channels: int = 4
    patch: int = 4
    embed_dim: int = 192
    depth: int = 2
    heads: int = 4
    temporal_stride: int = 1

    def __post_init__(self) -> None:
        for name in ("latent_channels", "patch", "embed_dim", "depth", "heads", "temporal_stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")

    @property
    def frames_per_latent(self) -> int:
        """See `AutoencoderConfig`."""
        return self.temporal_stride

    def build(self, picture_shape: tuple[int, int, int]) -> ViTVAE:
        """See `AutoencoderConfig`."""
        return ViTVAE(self, picture_shape)


class ViTVAE(Autoencoder):
    """The autoencoder.

    Args:
        config: its settings.
        picture_shape: (c, h, w).

    Raises:
        ConfigError: a patch that does not divide the picture, or a width that the heads do not.
    """

    def __init__(self, config: ViTVAEConfig, picture_shape: tuple[int, int, int]) -> None:
        super().__init__(picture_shape, config.latent_channels, config.patch)
        self.patch, values, width = config.patch, picture_shape[0] * config.patch**2, config.embed_dim

        def blocks() -> list[nn.Module]:
            made = [_Block(width, config.heads, *self.latent_shape[1:]) for _ in range(config.depth)]
            return [*made, nn.LayerNorm(width)]

        self.down = nn.Sequential(nn.Linear(values, width), *blocks(), nn.Linear(width, 2 * config.latent_channels))
        self.up = nn.Sequential(nn.Linear(config.latent_channels, width), *blocks(), nn.Linear(width, values))

    def _encode(self, pictures: Tensor) -> Tensor:
        p, (_, rows, columns) = self.patch, self.latent_shape
        moments = self.down(rearrange(pictures, "n c (y p) (x q) -> n 1 (y x) (c p q)", p=p, q=p))
        maps: Tensor = rearrange(moments, "n 1 (y x) m -> n m y x", y=rows, x=columns)
        return maps

    def _decode(self, latents: Tensor) -> Tensor:
        p, (_, rows, columns) = self.patch, self.latent_shape
        patches = self.up(rearrange(latents, "n m y x -> n 1 (y x) m"))
        pictures: Tensor = rearrange(patches, "n 1 (y x) (c p q) -> n c (y p) (x q)", y=rows, x=columns, p=p, q=p)
        return pictures


class _Block(nn.Module):
    """Attention over all places, then a feed-forward network, each normalised first and with a residual connection."""

    def __init__(self, width: int, heads: int, rows: int, columns: int) -> None:
        super().__init__()
        self.attention = SpaceAttention(width, heads, rows, columns)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, 1, places, width) -> the same shape."""
        tokens = tokens + self.attention(self.norm1(tokens))
        inner = functional.gelu(self.fc1(self.norm2(tokens)), approximate="tanh")
        return tokens + self.fc2(inner)  # type: ignore[no-any-return]

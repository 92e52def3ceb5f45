"""Oasis's autoencoder (Decart and Etched 2024): a transformer over patches with a linear bottleneck per token.

Encoder and decoder may differ in width and depth; the published encoder is the shallower one. Positions are rotary in
space, in half of each head's channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.codecs.base import Autoencoder, AutoencoderConfig, CodecTraining
from dreamenv.errors import ConfigError
from dreamenv.nn.attention import attend
from dreamenv.nn.pair_rotary import apply_rotary, place_angles, place_speeds

__all__ = ["OasisVAE", "OasisVAEConfig"]

_EPSILON = 1e-6  # of normalisations
_UNTRAINED = CodecTraining(steps=0, batch_size=4, learning_rate=1e-5)


@dataclass(frozen=True, kw_only=True)
class OasisVAEConfig(AutoencoderConfig, kind="oasis_vae"):
    """Settings of the autoencoder; the defaults are those that were published, and it is left as it is.

    Attributes:
        patch: pixels per side of a token.
        latent_channels: values of a latent per token.
        encoder_width, decoder_width: of tokens.
        encoder_depth, decoder_depth: blocks.
        encoder_heads, decoder_heads: of attention; each is a multiple of 8 wide.

    Raises:
        ConfigError: sizes that cannot be.
    """

    training: CodecTraining = _UNTRAINED
    patch: int = 20
    latent_channels: int = 16
    encoder_width: int = 1024
    encoder_depth: int = 6
    encoder_heads: int = 16
    decoder_width: int = 1024
    decoder_depth: int = 12
    decoder_heads: int = 16
    latent_scale: ClassVar[float | None] = 0.07843137255

    def __post_init__(self) -> None:
        for name in ("patch", "latent_channels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for side in ("encoder", "decoder"):
            width, depth, heads = (getattr(self, f"{side}_{name}") for name in ("width", "depth", "heads"))
            if min(width, depth, heads) < 1 or width % (8 * heads):
                raise ConfigError(
                    f"the {side}'s width must be its heads times a multiple of 8, and all at least 1, not {width} with "
                    f"{heads} heads and {depth} blocks."
                )

    def build(self, picture_shape: tuple[int, int, int]) -> OasisVAE:
        """See `AutoencoderConfig`."""
        return OasisVAE(self, picture_shape)


class OasisVAE(Autoencoder):
    """The autoencoder.

    Args:
        config: its settings.
        picture_shape: (c, h, w).

    Raises:
        ConfigError: a patch that does not divide the pictures.
    """

    def __init__(self, config: OasisVAEConfig, picture_shape: tuple[int, int, int]) -> None:
        super().__init__(picture_shape, config.latent_channels, config.patch)
        c, p, latent = picture_shape[0], config.patch, config.latent_channels
        _, self.rows, self.columns = self.latent_shape
        encoder, decoder = config.encoder_width, config.decoder_width
        self.patch = p
        self.patch_embed = nn.Conv2d(c, encoder, p, stride=p)
        self.encoder = self._blocks(encoder, config.encoder_heads, config.encoder_depth)
        self.encoder_norm, self.to_moments = nn.LayerNorm(encoder, eps=_EPSILON), nn.Linear(encoder, 2 * latent)
        self.from_latent = nn.Linear(latent, decoder)
        self.decoder = self._blocks(decoder, config.decoder_heads, config.decoder_depth)
        self.decoder_norm, self.out_proj = nn.LayerNorm(decoder, eps=_EPSILON), nn.Linear(decoder, c * p**2)

    def _blocks(self, width: int, heads: int, depth: int) -> nn.ModuleList:
        return nn.ModuleList(_Block(width, heads, self.rows, self.columns) for _ in range(depth))

    def _encode(self, pictures: Tensor) -> Tensor:
        tokens = rearrange(self.patch_embed(pictures), "n d y x -> n (y x) d")
        for block in self.encoder:
            tokens = block(tokens)
        moments = self.to_moments(self.encoder_norm(tokens))
        maps: Tensor = rearrange(moments, "n (y x) m -> n m y x", y=self.rows)
        return maps

    def _decode(self, latents: Tensor) -> Tensor:
        tokens = self.from_latent(rearrange(latents, "n m y x -> n (y x) m"))
        for block in self.decoder:
            tokens = block(tokens)
        patches = self.out_proj(self.decoder_norm(tokens))
        p = self.patch
        pictures: Tensor = rearrange(patches, "n (y x) (c p q) -> n c (y p) (x q)", y=self.rows, p=p, q=p)
        return pictures


class _Block(nn.Module):
    """Attention over all places, then a feed-forward network, each after a normalisation and next to a shortcut."""

    angles: Tensor

    def __init__(self, width: int, heads: int, rows: int, columns: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=_EPSILON), nn.LayerNorm(width, eps=_EPSILON)
        self.qkv, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        speeds = place_speeds(width // heads // 8, rows * columns)
        self.register_buffer("angles", place_angles(rows, columns, speeds), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, places, width) -> the same shape."""
        parts = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        query, key, value = (part.transpose(-3, -2) for part in parts.unbind(0))
        attended = attend(apply_rotary(query, self.angles), apply_rotary(key, self.angles), value)
        tokens = tokens + self.out_proj(attended.transpose(-3, -2).flatten(-2))
        inner = functional.gelu(self.fc1(self.norm2(tokens)))
        return tokens + self.fc2(inner)  # type: ignore[no-any-return]

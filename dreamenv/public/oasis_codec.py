"""Oasis's autoencoder (Decart and Etched 2024): a transformer over patches with a linear bottleneck per token.

Encoder and decoder may differ in width and depth; the published encoder is the shallower one. Positions are rotary in
space, in half of each head's channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError
from dreamenv.nn.attention import attend
from dreamenv.nn.autoencoders import PictureVAE
from dreamenv.public.pair_rotary import place_angles, place_speeds, turn

__all__ = ["OasisCodecSizes", "OasisVAE"]

_EPSILON = 1e-6  # of normalisations


@dataclass(frozen=True, kw_only=True)
class OasisCodecSizes:
    """Sizes of the autoencoder; the defaults are those that were published.

    Attributes:
        kind: "oasis codec".
        patch: pixels per side of a token.
        latent: values of a latent per token.
        encoder_width, decoder_width: of tokens.
        encoder_depth, decoder_depth: blocks.
        encoder_heads, decoder_heads: of attention; each is a multiple of 8 wide.
        stride: frames per latent.
        steps: optimiser steps of the stage that learns it; none, because it is published as learned.
        batch: pictures per step.
        rate: peak learning rate.
        kl_weight: of the divergence beside the squared error.
        sampled: a latent is its distribution's mean.
        scale: what latents are multiplied by before they are drawn.

    Raises:
        ConfigError: sizes that cannot be.
    """

    kind: str = "oasis codec"
    patch: int = 20
    latent: int = 16
    encoder_width: int = 1024
    encoder_depth: int = 6
    encoder_heads: int = 16
    decoder_width: int = 1024
    decoder_depth: int = 12
    decoder_heads: int = 16
    stride: int = 1
    steps: int = 0
    batch: int = 4
    rate: float = 1e-5
    kl_weight: float = 1e-6
    sampled: bool = False
    scale: float = 0.07843137255

    def __post_init__(self) -> None:
        for name in ("patch", "latent"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for side in ("encoder", "decoder"):
            width, depth, heads = (getattr(self, f"{side}_{name}") for name in ("width", "depth", "heads"))
            if min(width, depth, heads) < 1 or width % (8 * heads):
                raise ConfigError(
                    f"the {side}'s width must be its heads times a multiple of 8, and all at least 1, not {width} with "
                    f"{heads} heads and {depth} blocks."
                )
        if self.stride != 1:
            raise ConfigError(f"a latent stands for one frame, not {self.stride}.")

    def autoencoder(self, frame_shape: tuple[int, int, int]) -> OasisVAE:
        """See `CodecPart`."""
        return OasisVAE(self, frame_shape)


class OasisVAE(PictureVAE):
    """The autoencoder.

    Args:
        sizes: its own.
        picture_shape: (c, h, w).

    Raises:
        ConfigError: a patch that does not divide the pictures.
    """

    def __init__(self, sizes: OasisCodecSizes, picture_shape: tuple[int, int, int]) -> None:
        super().__init__(picture_shape, sizes.latent, sizes.patch)
        c, p, m = picture_shape[0], sizes.patch, sizes.latent
        _, self.rows, self.columns = self.latent_shape
        ours, theirs = sizes.encoder_width, sizes.decoder_width
        self.patch = p
        self.enter = nn.Conv2d(c, ours, p, stride=p)
        self.encoder = nn.ModuleList(self._block(ours, sizes.encoder_heads) for _ in range(sizes.encoder_depth))
        self.encoder_norm, self.moments = nn.LayerNorm(ours, eps=_EPSILON), nn.Linear(ours, 2 * m)
        self.widen = nn.Linear(m, theirs)
        self.decoder = nn.ModuleList(self._block(theirs, sizes.decoder_heads) for _ in range(sizes.decoder_depth))
        self.decoder_norm, self.leave = nn.LayerNorm(theirs, eps=_EPSILON), nn.Linear(theirs, c * p**2)

    def _block(self, width: int, heads: int) -> _Transformer:
        return _Transformer(width, heads, self.rows, self.columns)

    def _encode(self, pictures: Tensor) -> Tensor:
        tokens = rearrange(self.enter(pictures), "n d y x -> n (y x) d")
        for block in self.encoder:
            tokens = block(tokens)
        moments = self.moments(self.encoder_norm(tokens))
        maps: Tensor = rearrange(moments, "n (y x) m -> n m y x", y=self.rows)
        return maps

    def _decode(self, latents: Tensor) -> Tensor:
        tokens = self.widen(rearrange(latents, "n m y x -> n (y x) m"))
        for block in self.decoder:
            tokens = block(tokens)
        patches = self.leave(self.decoder_norm(tokens))
        p = self.patch
        pictures: Tensor = rearrange(patches, "n (y x) (c p q) -> n c (y p) (x q)", y=self.rows, p=p, q=p)
        return pictures


class _Transformer(nn.Module):
    """Attention over all places, then a feed-forward network, each after a normalisation and beside a shortcut."""

    angles: Tensor

    def __init__(self, width: int, heads: int, rows: int, columns: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width, eps=_EPSILON), nn.LayerNorm(width, eps=_EPSILON)
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        speeds = place_speeds(width // heads // 8, rows * columns)
        self.register_buffer("angles", place_angles(rows, columns, speeds), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, places, width) -> the same shape."""
        parts = self.enter(self.before(tokens)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        query, key, value = (part.transpose(-3, -2) for part in parts.unbind(0))
        attended = attend(turn(query, self.angles), turn(key, self.angles), value)
        tokens = tokens + self.leave(attended.transpose(-3, -2).flatten(-2))
        inner = functional.gelu(self.expand(self.between(tokens)))
        return tokens + self.contract(inner)  # type: ignore[no-any-return]

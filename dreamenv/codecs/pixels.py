"""Pixels in place of latents, for worlds without a codec."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Pixels"]


class Pixels(nn.Module):
    """Frames in [0, 1] to [-1, 1] and back; offers what `dreamenv.codecs.codec.Codec` does.

    Args:
        frame_shape: (c, h, w).
    """

    stride, sampled = 1, False

    def __init__(self, frame_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.latent_shape = frame_shape

    def encode(self, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """Frames (b, t, c, h, w) in [0, 1] -> the same in [-1, 1]."""
        del noise
        return 2 * frames - 1

    def features(self, frames: Tensor) -> Tensor:
        """See `encode`."""
        return self.encode(frames)

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (b, t, c, h, w) in about [-1, 1] -> the same in [0, 1]."""
        return ((latents + 1) / 2).clamp(0, 1)

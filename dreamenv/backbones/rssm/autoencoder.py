"""Frames to categorical latents and back, each frame by itself: ``q(z_t | x_t)`` and ``p(x_t | z_t)``.

Letters: ``v`` variables of ``k`` classes each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dreamenv.nn.categorical import CategoricalLinear, log_probs
from dreamenv.nn.pixels import FrameDecoder, FrameEncoder
from dreamenv.nn.precision import Linear

__all__ = ["CategoricalAutoencoder"]


class CategoricalAutoencoder(nn.Module):
    """The autoencoder, which decodes differences from the mean frame of the data.

    Args:
        frame_shape: (c, h, w).
        channels: of the convolutions, finest stage first.
        variables: v.
        classes: k, of each.
        unimix: share of the uniform distribution in each.

    Raises:
        ConfigError: a frame whose sides are no multiples of 4.
    """

    mean_frame: Tensor

    def __init__(
        self, frame_shape: tuple[int, int, int], channels: Sequence[int], variables: int, classes: int, unimix: float
    ) -> None:
        super().__init__()
        self.classes, self.unimix = classes, unimix
        c, height, width = frame_shape  # channels last in memory, as the decoder's differences are
        self.register_buffer("mean_frame", torch.full((height, width, c), 0.5).permute(2, 0, 1))
        self.encoder = FrameEncoder(frame_shape, channels)
        self.posterior = Linear(self.encoder.features, variables * classes)
        self.decoder = FrameDecoder(frame_shape, channels)
        self.latent_proj = CategoricalLinear(variables, classes, self.decoder.features)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (n, c, h, w) in [0, 1] -> the posterior's log-probabilities (n, v, k)."""
        return log_probs(self.posterior(self.encoder(frames)).float(), self.classes, self.unimix)

    def reconstruct(self, latents: Tensor) -> Tensor:
        """One-hot latents (n, v, k), through which gradients pass, -> frames (n, c, h, w), not clamped."""
        difference: Tensor = self.decoder(self.latent_proj(latents)).float()
        return difference + self.mean_frame

    def decode(self, latents: Tensor) -> Tensor:
        """Class numbers (n, v) int64 -> frames (n, c, h, w) in [0, 1]."""
        features = self.latent_proj.look_up(latents)
        if torch.is_grad_enabled():
            difference: Tensor = self.decoder(features)
            return (difference + self.mean_frame).clamp(0.0, 1.0)
        return self.decoder.decode(features, self.mean_frame)

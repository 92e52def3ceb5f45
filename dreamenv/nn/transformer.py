"""Layers of diffusion transformers: patch embedding, and blocks modulated by a condition per frame (adaLN-Zero).

After DiT (Peebles and Xie 2023). The denoisers differ in their attention: `dreamenv.denoisers.causal_dit`,
`dreamenv.denoisers.cross_dit`, `dreamenv.denoisers.framepack`.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.errors import ConfigError

__all__ = ["DiTBlock", "FinalLayer", "PatchEmbed", "check_patch", "modulate"]


class DiTBlock(nn.Module):
    """One attention and one feed-forward network, both modulated by the condition."""

    def __init__(self, attention: nn.Module, width: int) -> None:
        super().__init__()
        self.attention = attention
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, condition: Tensor, *others: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tokens (b, f, n, width) and condition (b, f, width) -> tokens, and what else the attention returns.

        ``others`` are further arguments of the attention.
        """
        parts = self.modulation(condition)[:, :, None].chunk(6, dim=-1)
        attended = self.attention(modulate(tokens, *parts[:2]), *others)
        attended, *rest = attended if isinstance(attended, tuple) else (attended,)
        tokens = torch.addcmul(tokens, parts[2], attended)
        inner = functional.gelu(self.fc1(modulate(tokens, *parts[3:5])), approximate="tanh")
        return torch.addcmul(tokens, parts[5], self.fc2(inner)), tuple(rest)


class PatchEmbed(nn.Module):
    """Embed frames (b, f, c, h, w) as tokens (b, f, n, width), of ``patch`` pixels per side.

    Raises:
        ConfigError: a patch that does not divide the frame.
    """

    def __init__(self, frame_shape: tuple[int, int, int], width: int, patch: int) -> None:
        super().__init__()
        self.patch, (self.rows, self.columns) = patch, check_patch(frame_shape, patch)
        self.proj = nn.Linear(frame_shape[0] * patch**2, width)

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        p = self.patch
        tokens: Tensor = self.proj(rearrange(frames, "b f c (y p) (x q) -> b f (y x) (c p q)", p=p, q=p))
        return tokens


class FinalLayer(nn.Module):
    """Project tokens back to frames; initialised to output 0."""

    def __init__(self, frame_shape: tuple[int, int, int], width: int, patch: int) -> None:
        super().__init__()
        self.patch, (self.rows, _) = patch, check_patch(frame_shape, patch)
        self.modulation, self.proj = nn.Linear(width, 2 * width), nn.Linear(width, frame_shape[0] * patch**2)
        for layer in (self.modulation, self.proj):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Tokens (b, f, n, width), and the condition (b, f, width) after its activation -> (b, f, c, h, w)."""
        shift, scale = self.modulation(condition)[:, :, None].chunk(2, dim=-1)
        output = self.proj(modulate(tokens, shift, scale))
        p = self.patch
        frames: Tensor = rearrange(output, "b f (y x) (c p q) -> b f c (y p) (x q)", y=self.rows, p=p, q=p)
        return frames


def check_patch(frame_shape: tuple[int, int, int], patch: int) -> tuple[int, int]:
    """Return the rows and columns of patches.

    Raises:
        ConfigError: the patch does not divide the frame.
    """
    _, h, w = frame_shape
    if patch < 1 or h % patch or w % patch:
        raise ConfigError(f"a patch of {patch} does not divide frames of {h} x {w}.")
    return h // patch, w // patch


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise tokens (..., width), then scale by 1 + ``scale`` and shift."""
    return torch.addcmul(shift, functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6), 1 + scale)

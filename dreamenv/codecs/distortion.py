"""How far a reconstruction is from its frame, in a way that small things and edges count for."""

from __future__ import annotations

from torch import Tensor

__all__ = ["distortion"]


def distortion(
    decoded: Tensor, frames: Tensor, mean_frame: Tensor, foreground_weight: float, edge_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted squared error, summed over a frame, and ``psnr_db`` to log.

    Args:
        decoded: (n, c, h, w), not clamped.
        frames: (n, c, h, w) in [0, 1].
        mean_frame: (c, h, w) of the data.
        foreground_weight: a pixel's squared error counts 1 + foreground_weight * |x - mean frame|.
        edge_weight: of the squared error of differences between neighbouring pixels, which keeps edges sharp.
    """
    error = decoded - frames
    squared = error.square()
    weight = 1.0 + foreground_weight * (frames - mean_frame).abs()
    loss = (weight * squared).flatten(1).sum(dim=1).mean()
    if edge_weight > 0:
        across, down = error.diff(dim=3).square(), error.diff(dim=2).square()
        loss = loss + edge_weight * (across.flatten(1).sum(dim=1) + down.flatten(1).sum(dim=1)).mean()
    mean = squared.detach().flatten(1).mean(dim=1).clamp_min(1e-10)
    return loss, {"psnr_db": (-10 * mean.log10()).mean()}

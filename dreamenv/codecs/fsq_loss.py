"""What an FSQ autoencoder learns from: the picture, and the nats that its codes cost given the frame before."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamenv.codecs.fsq import FSQAutoencoder
from dreamenv.codecs.rate import CodeRate
from dreamenv.world_model import Batch

__all__ = ["fsq_loss"]


def fsq_loss(
    autoencoder: FSQAutoencoder,
    rate: CodeRate | None,
    batch: Batch,
    *,
    foreground_weight: float,
    edge_weight: float,
    code_noise: float,
    rate_weight: float,
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Return the loss of a batch's frames but for those that end an episode, which may be anything.

    Args:
        autoencoder: what learns.
        rate: see `dreamenv.codecs.rate`; None counts the picture alone.
        batch: of windows; with a rate, each of at least one step.
        foreground_weight, edge_weight, code_noise: see `FSQAutoencoder.loss`.
        rate_weight: of a nat.

    Returns:
        The loss; ``psnr_db`` and, with a rate, ``rate`` in nats a frame, to log; the values of the frames it was taken
        over, (n, s, y, x).
    """
    frames = torch.cat((batch.first_frame[:, None], batch.frames), dim=1)
    kept = batch.weight * ~batch.terminated > 0
    kept = torch.cat((kept.new_ones(len(kept), 1), kept), dim=1)
    values = autoencoder.rounded(frames.flatten(0, 1)).unflatten(0, kept.shape)
    loss, terms = autoencoder.loss(
        frames[kept],
        values[kept],
        foreground_weight=foreground_weight,
        edge_weight=edge_weight,
        code_noise=code_noise,
        generator=batch.generator,
    )
    if rate is not None:
        nats = rate(values[:, :-1].flatten(0, 1), values[:, 1:].flatten(0, 1))
        weight = kept[:, 1:].flatten().float()
        cost = (nats * weight).sum() / weight.sum().clamp_min(1.0)
        loss, terms["rate"] = loss + rate_weight * cost, cost.detach()
    return loss, terms, values[kept]

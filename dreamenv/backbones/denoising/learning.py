"""What a network learns from: which frames get which noise, what is hidden, and how far off it is.

Every frame of a window is drawn given those before it, at a noise level of its own, or of its group's. What a dream
will do later is done here at random: groups are seen as observed or as drawn, actions or the past are hidden for
guidance, frames lie further ahead, steps are longer, and context is a little wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.networks import Asked, FrameNetwork
from dreamenv.diffusion.objective import add_noise, denoising_error, draw_levels, variance_error, weight_of_moving
from dreamenv.diffusion.shortcut import shortcut_error
from dreamenv.diffusion.targets import per_frame
from dreamenv.nn.precision import autocast

__all__ = ["draw_groups", "drawing_error"]

_LEAST_NOISE = 0.05  # of a frame whose error counts as its velocity's, which is this much greater at most
_COARSE = 0.25  # share of the windows whose steps are longer than the finest, as in shortcut models (Frans et al. 2024)


def drawing_error(
    network: FrameNetwork,
    config: DenoisingConfig,
    frames: Tensor,
    actions: Tensor,
    generator: torch.Generator | None,
    *,
    training: bool,
) -> tuple[Tensor, Tensor]:
    """Ask a network for the frames of windows, and return how far off it is.

    Args:
        network: what draws.
        config: of its world.
        frames: (b, s, c, h, w), as the network has them; nothing is asked of the first of each window.
        actions: (b, s, a), the vectors that led to them.
        generator: of all that is drawn at random.
        training: compute in bfloat16 where the settings and the hardware allow it.

    Returns:
        The squared error (b, s), and whether a frame could be asked for, (b, s) bool.
    """
    device, (b, s) = frames.device, frames.shape[:2]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    def standard_normal() -> Tensor:
        return torch.randn(frames.shape, generator=generator, device=device)

    noise, clean, gap = standard_normal(), frames, None
    possible = torch.ones((b, s), dtype=torch.bool, device=device)
    if config.furthest_jump > 1:
        gap, actions = _jumps(uniform(b, s), actions, min(config.furthest_jump, s - 1))
        possible = gap <= torch.arange(s, device=device)  # no jump goes back beyond the first frame
    if config.hide_actions:
        actions = actions * (uniform(b, 1, 1) >= config.hide_actions)
    alone = uniform(b) < config.hide_past if config.hide_past else None
    if config.corruption:
        clean = frames + config.corruption * uniform(b, 1, 1, 1, 1) * standard_normal()
    groups = draw_groups(s, config.group_size, generator, device)

    def predict(noisy: Tensor, level: Tensor, step: Tensor | None = None, rows: Tensor | slice = slice(None)) -> Tensor:
        gaps, hidden = (None if one is None else one[rows] for one in (gap, alone))
        asked = Asked(noisy, level, actions[rows], step, gaps, hidden, groups)
        with autocast(device, config.bfloat16 and training):
            return network.predict_all(clean[rows], asked).float()

    if config.shortcut:
        doublings = config.shortcut.bit_length() - 1
        coarse = ((uniform(b) * doublings).floor().long() + 1).clamp_max(doublings) * (uniform(b) < _COARSE)
        error = shortcut_error(
            lambda noisy, signal, size, rows: predict(noisy, 1 - signal, size, rows), frames, noise, uniform(b, s),
            finest=config.shortcut, coarse=coarse,
        )  # fmt: skip
    else:
        level = draw_levels(network.process, uniform(b, s), "groups", groups)
        if config.offset:
            sigma = per_frame(network.process.at(level)[1], frames)
            same = torch.randn(*frames.shape[:3], 1, 1, generator=generator, device=device)
            noise = noise + config.offset / sigma * same
        output = predict(add_noise(network.process, frames, noise, level), level)
        output, *variance = output.split(frames.shape[2], dim=2)
        weight = weight_of_moving(frames, config.moving) if config.moving else None
        error = denoising_error(network.target, output, frames, noise, level, weight)
        if config.weighting == "velocity":
            error = error / network.process.at(level)[1].clamp_min(_LEAST_NOISE) ** 2
        for said in variance:  # the network says how sure it is, too
            error = error + variance_error(network.target, output, (said + 1) / 2, frames, noise, level)
    return error, possible


def draw_groups(frames: int, size: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draw which frames of a window are seen as observed, one by one, and which after them as drawn, ``size`` together.

    Returns:
        (frames,) int64, the group of each.
    """
    order = torch.arange(frames, device=device)
    if size == 1:
        return order
    observed = size * int(torch.randint((frames - 1) // size, (), generator=generator, device=device))
    return torch.where(order <= observed, order, observed + 1 + (order - observed - 1) // size)


def _jumps(uniform: Tensor, actions: Tensor, furthest: int) -> tuple[Tensor, Tensor]:
    """Draw gaps (b, s) from 1 to the furthest; return them and the actions (b, s, a), averaged over each gap."""
    gap = (uniform * furthest).floor().clamp_max(furthest - 1) + 1
    total = actions.cumsum(1)
    order = torch.arange(actions.shape[1], device=actions.device)
    before = (order - gap.long()).clamp_min(0)[..., None].expand_as(actions)
    return gap, (total - total.gather(1, before)) / gap[..., None]

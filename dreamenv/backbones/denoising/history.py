"""The last frames as they were seen, for worlds whose latents stand for several frames each.

Which frames a latent stands for depends on which one is the newest. So when a frame is observed, the latents of all
that are remembered are encoded again; while a world dreams, its own latents follow each other, and none is.

Entries of the state: ``pictures`` (b, n, c, h, w) uint8, the last n frames, and where there were fewer the first one
repeated; ``vectors`` (b, n, a), of the actions that led to them; ``recorded`` (b,) int64, how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dreamenv.errors import ConfigError
from dreamenv.frames import to_float, to_uint8
from dreamenv.world_model import State

__all__ = ["add_cache", "init_history", "push_history", "whole_latents"]


def add_cache(state: State, cache: Mapping[str, Tensor]) -> None:
    """Add a denoiser's entries to the state, in place.

    Raises:
        ConfigError: one is called as an entry of the world or its head, which it would overwrite.
    """
    taken = sorted({*state.keys(), "latent", "pictures", "vectors", "recorded"} & cache.keys())
    if taken:
        raise ConfigError(f"the denoiser's cache has an entry {taken[0]!r}, which the world has too; rename it.")
    state.update(cache)


def init_history(first_frame: Tensor, frames: int, action_size: int) -> dict[str, Tensor]:
    """Return the entries before anything is recorded, for rows that begin with frames (b, c, h, w) in [0, 1]."""
    b = len(first_frame)
    pictures = to_uint8(first_frame)[:, None].expand(-1, frames, -1, -1, -1)
    return {
        "pictures": pictures.contiguous(),
        "vectors": first_frame.new_zeros(b, frames, action_size),
        "recorded": torch.zeros(b, dtype=torch.int64, device=first_frame.device),
    }


def push_history(state: State, vectors: Tensor, frames: Tensor) -> None:
    """Add frames (b, t, c, h, w) in [0, 1], and the vectors (b, t, a) that led to them, in place."""
    n = state["pictures"].shape[1]
    state["pictures"] = torch.cat((state["pictures"], to_uint8(frames)), dim=1)[:, -n:]
    state["vectors"] = torch.cat((state["vectors"], vectors), dim=1)[:, -n:]
    state["recorded"] = (state["recorded"] + frames.shape[1]).clamp_max(n)


def whole_latents(state: State, stride: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield what is recorded, filled up to whole latents of ``stride`` frames by the oldest one.

    Yields:
        Rows (k,) int64 that have as many; their frames (k, t, c, h, w) in [0, 1] and vectors (k, t, a).
    """
    latents = (state["recorded"] + stride - 1) // stride
    for count in latents.unique().tolist():
        rows, t = (latents == count).nonzero()[:, 0], count * stride
        yield rows, to_float(state["pictures"][rows, -t:]), state["vectors"][rows, -t:]

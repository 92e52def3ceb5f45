"""Does a world obey? Two actions from the same state: do the frames part, and does the picture move as it really does?

Left and right are told by how far the picture has shifted sideways: turning or stepping left moves it to the right. How
far it really moves is measured on recorded stretches in which the action was kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dreamenv.data.dataset import EpisodeDataset
from dreamenv.errors import DatasetError
from dreamenv.frames import frames_to_model

__all__ = ["horizontal_shift", "response"]

_ROWS = 16  # dreams at a time


def horizontal_shift(before: Tensor, after: Tensor, most: int = 12) -> Tensor:
    """Return by how many pixels pictures (n, c, h, w) have moved to the right, (n,) int64, at most ``most`` either way.

    That is the shift under which what both show differs least, in mean absolute difference.
    """
    width = before.shape[-1]
    errors = []
    for shift in range(-most, most + 1):
        a, b = (before[..., : width - shift], after[..., shift:]) if shift >= 0 else (
            before[..., -shift:], after[..., : width + shift]
        )  # fmt: skip
        errors.append((a - b).abs().flatten(1).mean(1))
    return torch.stack(errors, dim=1).argmin(1) - most


@torch.no_grad()
def response(
    model: Any,
    dataset: EpisodeDataset,
    left: int,
    right: int,
    *,
    reality: EpisodeDataset | None = None,
    steps: int = 4,
    count: int = 32,
    context: int = 8,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Dream from the same states under two actions.

    Args:
        model: a World, or a world model.
        dataset: episodes the model was not trained on, of a Discrete action space.
        left, right: the two actions, kept for all steps.
        reality: a recording to measure real shifts on, also one that the model has seen; None takes ``dataset``.
        steps: of the dream.
        count: states.
        context: steps observed before each.
        seed: of the choice of states and of the dreams.
        device: where the model is.

    Returns:
        JSON values: ``parted``, the mean absolute difference between the frames under the two actions after the last
        step, in [0, 1]; ``noise``, the same between two dreams of different seeds under the same action; ``shift``,
        {action: mean shift to the right in pixels} in the dream, and ``real_shift`` in the recording; ``right_way``,
        the share of dreams whose two shifts differ in the direction in which the real ones do.

    Raises:
        DatasetError: an action was never kept for so many steps, or no episode is long enough.
    """
    model = getattr(model, "model", model)
    random = np.random.default_rng((seed, 0x2E5))
    places = [
        (number, step)
        for number, record in enumerate(dataset.records)
        for step in range(context, record.steps - steps, max(1, steps))
    ]
    if not places:
        raise DatasetError(f"no episode of {dataset.path} has more than {context + steps} steps.")
    chosen = [places[i] for i in random.permutation(len(places))[:count]]
    dreams: dict[str, list[Tensor]] = {"left": [], "right": [], "again": [], "before": []}
    for first in range(0, len(chosen), _ROWS):
        frames, actions = _context(dataset, chosen[first : first + _ROWS], context, device)
        rows = len(frames)
        seeds = torch.arange(first, first + rows, device=device)
        for name, action, draw in (
            ("left", left, seeds),
            ("right", right, seeds),
            ("again", left, seeds + len(places)),
        ):
            state = model.start(frames[:, 0], draw)
            if context:
                state = model.observe(state, actions, frames[:, 1:])
            many = -(-steps // model.spec.chunk) * model.spec.chunk
            imagined, _ = model.imagine(state, torch.full((rows, many), action, device=device))
            dreams[name].append(imagined.frames[:, steps - 1].cpu())
        dreams["before"].append(frames[:, -1].cpu())
    ends = {name: torch.cat(parts) for name, parts in dreams.items()}
    shifts = {name: horizontal_shift(ends["before"], ends[name]).float() for name in ("left", "right")}
    real = {
        name: _real_shift(reality or dataset, action, steps, count, random)
        for name, action in (("left", left), ("right", right))
    }
    way = np.sign(real["left"] - real["right"])
    return {
        "parted": float((ends["left"] - ends["right"]).abs().mean()),
        "noise": float((ends["left"] - ends["again"]).abs().mean()),
        "shift": {str(left): float(shifts["left"].mean()), str(right): float(shifts["right"].mean())},
        "real_shift": {str(left): real["left"], str(right): real["right"]},
        "right_way": float(((shifts["left"] - shifts["right"]).sign() == way).float().mean()),
        "steps": steps,
        "states": len(chosen),
    }


def _context(
    dataset: EpisodeDataset, places: list[tuple[int, int]], context: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    frames, actions = [], []
    for number, step in places:
        episode = dataset[number]
        frames.append(episode.frames[step - context : step + 1])
        actions.append(episode.actions[step - context : step])
    pictures = frames_to_model(np.stack(frames), device, channels_last=True)
    return pictures, torch.from_numpy(np.stack(actions)).to(device)


def _real_shift(dataset: EpisodeDataset, action: int, steps: int, count: int, random: np.random.Generator) -> float:
    """Return the mean shift over recorded stretches in which the action was kept."""
    before: list[npt.NDArray[np.uint8]] = []
    after: list[npt.NDArray[np.uint8]] = []
    for number in random.permutation(len(dataset)):
        episode = dataset[int(number)]
        kept = np.convolve(episode.actions == action, np.ones(steps, np.int64), "valid") == steps
        last = len(episode) - int(episode.terminated)  # a terminal frame may be anything
        for step in np.flatnonzero(kept)[::steps]:
            if step + steps <= last:
                before.append(episode.frames[step])
                after.append(episode.frames[step + steps])
        if len(before) >= count:
            break
    if not before:
        raise DatasetError(f"action {action} is never kept for {steps} steps in {dataset.path}; take fewer steps.")
    first, then = (torch.from_numpy(np.stack(side)).movedim(-1, 1).float() for side in (before, after))
    return float(horizontal_shift(first, then).float().mean())

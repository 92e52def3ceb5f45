"""Action fidelity: dreams from one state under two actions must differ, and shift the image as the real actions do.

The effect of left and right is the horizontal shift of the image: turning or stepping left moves it to the right. The
real shift is measured on recorded segments in which the action was repeated.
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


def horizontal_shift(before: Tensor, after: Tensor, max_shift: int = 12) -> Tensor:
    """Return by how many pixels images (n, c, h, w) moved to the right, (n,) int64, at most ``max_shift`` either way.

    That is the shift with the smallest mean absolute difference where both overlap.
    """
    width = before.shape[-1]
    errors = []
    for shift in range(-max_shift, max_shift + 1):
        a, b = (before[..., : width - shift], after[..., shift:]) if shift >= 0 else (
            before[..., -shift:], after[..., : width + shift]
        )  # fmt: skip
        errors.append((a - b).abs().flatten(1).mean(1))
    return torch.stack(errors, dim=1).argmin(1) - max_shift


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
    """Measure action fidelity: dream from the same states under two actions.

    Args:
        model: a World, or a world model.
        dataset: episodes the model was not trained on, of a Discrete action space.
        left, right: the two actions, repeated for all steps.
        reality: a recording to measure real shifts on, which may be the training data; None takes ``dataset``.
        steps: of each dream.
        count: how many states.
        context: steps observed before each.
        seed: of the choice of states and of the dreams.
        device: where the model is.

    Returns:
        JSON values: ``difference``, the mean absolute difference between the frames under the two actions after the
        last step, in [0, 1]; ``noise``, the same between two dreams of different seeds under the same action;
        ``shift``, {action: mean shift to the right in pixels} in the dream, and ``real_shift`` in the recording;
        ``action_fidelity``, the share of dreams whose two shifts differ in the same direction as the real ones.

    Raises:
        DatasetError: an action is never repeated for so many steps, or no episode is long enough.
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
    dreams: dict[str, list[Tensor]] = {"left": [], "right": [], "reseeded": [], "before": []}
    for first in range(0, len(chosen), _ROWS):
        frames, actions = _context(dataset, chosen[first : first + _ROWS], context, device)
        rows = len(frames)
        seeds = torch.arange(first, first + rows, device=device)
        for name, action, dream_seeds in (
            ("left", left, seeds),
            ("right", right, seeds),
            ("reseeded", left, seeds + len(places)),
        ):
            state = model.start(frames[:, 0], dream_seeds)
            if context:
                state = model.observe(state, actions, frames[:, 1:])
            length = -(-steps // model.spec.chunk) * model.spec.chunk
            imagined, _ = model.imagine(state, torch.full((rows, length), action, device=device))
            dreams[name].append(imagined.frames[:, steps - 1].cpu())
        dreams["before"].append(frames[:, -1].cpu())
    ends = {name: torch.cat(parts) for name, parts in dreams.items()}
    shifts = {name: horizontal_shift(ends["before"], ends[name]).float() for name in ("left", "right")}
    real = {
        name: _real_shift(reality or dataset, action, steps, count, random)
        for name, action in (("left", left), ("right", right))
    }
    direction = np.sign(real["left"] - real["right"])
    return {
        "difference": float((ends["left"] - ends["right"]).abs().mean()),
        "noise": float((ends["left"] - ends["reseeded"]).abs().mean()),
        "shift": {str(left): float(shifts["left"].mean()), str(right): float(shifts["right"].mean())},
        "real_shift": {str(left): real["left"], str(right): real["right"]},
        "action_fidelity": float(((shifts["left"] - shifts["right"]).sign() == direction).float().mean()),
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
    images = frames_to_model(np.stack(frames), device, channels_last=True)
    return images, torch.from_numpy(np.stack(actions)).to(device)


def _real_shift(dataset: EpisodeDataset, action: int, steps: int, count: int, random: np.random.Generator) -> float:
    """Return the mean shift over recorded segments in which the action was repeated."""
    before: list[npt.NDArray[np.uint8]] = []
    after: list[npt.NDArray[np.uint8]] = []
    for number in random.permutation(len(dataset)):
        episode = dataset[int(number)]
        repeated = np.convolve(episode.actions == action, np.ones(steps, np.int64), "valid") == steps
        last = len(episode) - int(episode.terminated)  # a terminal frame may be anything
        for step in np.flatnonzero(repeated)[::steps]:
            if step + steps <= last:
                before.append(episode.frames[step])
                after.append(episode.frames[step + steps])
        if len(before) >= count:
            break
    if not before:
        raise DatasetError(f"action {action} is never repeated for {steps} steps in {dataset.path}; take fewer steps.")
    first, then = (torch.from_numpy(np.stack(side)).movedim(-1, 1).float() for side in (before, after))
    return float(horizontal_shift(first, then).float().mean())

"""What frames, actions and rewards may be recorded: one check for all ways into a recording.

Datasets, the recorder, the readers and the import from Minari all come through here. So what is recorded can be trained
on, dreamt, shown in a video and seen by a policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from dreamenv.action_layout import ActionLayout
from dreamenv.checks import check_whole, show, to_array
from dreamenv.errors import ActionError, ConfigError, DatasetError, EpisodeError, FrameError
from dreamenv.text import check_text

__all__ = [
    "CHANNELS",
    "check_actions",
    "check_captions",
    "check_frame",
    "check_frame_shape",
    "check_frame_space",
    "check_rewards",
    "no_rewards",
]

CHANNELS = (1, 3)
"""How many channels a frame may have: grey, or red, green and blue."""


def check_frame_space(space: gym.Space[Any], owner: str) -> tuple[int, int, int]:
    """Return the shape (h, w, c) of the frames that an environment or a dataset observes.

    Args:
        space: its observation space.
        owner: its name, for the error.

    Raises:
        FrameError: it does not observe frames that can be recorded.
    """
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        raise FrameError(f"only uint8 frames (h, w, c) can be recorded; {owner} observes {space}.")
    return check_frame_shape(space.shape, owner)


def check_frame_shape(shape: Sequence[int], owner: str) -> tuple[int, int, int]:
    """Return the shape (h, w, c) of frames that can be recorded.

    Args:
        shape: the shape of one frame.
        owner: whose frames they are, for the error.

    Raises:
        FrameError: the shape has no three sizes, an empty one, or another number of channels than 1 or 3.
    """
    try:
        sizes = tuple(check_whole("", size) for size in shape)
    except (ConfigError, TypeError):
        sizes = ()
    if len(sizes) != 3:
        raise FrameError(f"frames must be (h, w, c), each at least 1; those of {owner} are {show(shape)}.")
    if sizes[2] not in CHANNELS:
        raise FrameError(
            f"frames of {sizes[2]} channels cannot be recorded, only grey (1) or RGB (3) ones; those of {owner} are "
            f"{sizes}. Keep the colour alone, as in frame[..., :3]: no alpha, no depth, no stacked frames."
        )
    return sizes[0], sizes[1], sizes[2]


def check_frame(frame: Any, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Return a copy of a frame that an environment gave.

    Raises:
        FrameError: it is not uint8, or not of this shape (h, w, c).
    """
    try:
        copied = np.array(frame)
    except ValueError as error:
        raise FrameError(f"a frame must be {shape} uint8, and this one is no array ({error}).") from error
    if copied.shape != shape or copied.dtype != np.uint8:
        raise FrameError(f"a frame must be {shape} uint8, as the observation space says, not {copied.shape} "
                         f"{copied.dtype}.")  # fmt: skip
    return copied


def check_actions(actions: npt.NDArray[Any], layout: ActionLayout) -> None:
    """Check actions (t, *a) against their space.

    Raises:
        ActionError: of another shape or type than the space's, or outside it; the message names the step.
    """
    if actions.shape[1:] != layout.shape or actions.dtype != layout.dtype:
        raise ActionError(
            f"actions of {layout.space} are (t{''.join(f', {n}' for n in layout.shape)}) {layout.dtype}, not "
            f"{actions.shape} {actions.dtype}."
        )
    inside = layout.inside(actions)
    if not inside.all():
        step = int(np.argmin(inside))
        raise ActionError(f"the action of step {step} is {actions[step]}, which is outside {layout.space}.")


def check_rewards(values: Any) -> npt.NDArray[np.float32]:
    """Return rewards as float32.

    Raises:
        EpisodeError: they are no numbers, or one of them is not finite as float32; the message names the step.
    """
    given = to_array("rewards", values, error=EpisodeError)
    if given.dtype.kind not in "biuf":
        raise EpisodeError(f"rewards must be (t,) numbers, not {given.shape} {given.dtype}.")
    with np.errstate(over="ignore"):
        rewards = given.astype(np.float32, copy=False)
    if not np.isfinite(rewards).all():
        step = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise EpisodeError(
            f"the reward of step {step} is {given.reshape(-1)[step]}; rewards must be finite numbers, in float32 too."
        )
    return rewards


def check_captions(values: Any, steps: int) -> tuple[str, ...] | None:
    """Return a caption per step; None if all are empty.

    Args:
        values: a string per step, "" or None for none; one string for all steps; or None.
        steps: t.

    Raises:
        EpisodeError: of another number, no strings, or one without a word or with too many; the message names the step.
    """
    if values is None:
        return None
    given = [values] * steps if isinstance(values, str) else list(values)
    if len(given) != steps:
        raise EpisodeError(f"{steps} steps need {steps} captions, or one string for all, not {len(given)}.")
    last: Any = ""  # they change rarely
    for step, caption in enumerate(given):
        if caption is not last and caption not in (None, ""):
            check_text(f"the caption of step {step}", caption, error=EpisodeError)
        last = caption
    captions = tuple("" if caption is None else str(caption) for caption in given)
    return captions if any(captions) else None


def no_rewards(name: str, share: float, path: Path | None = None) -> DatasetError:
    """Return the error about a share before rewards, of a recording that has none; None if it lies nowhere."""
    where = "" if path is None else f" on {path}"
    return DatasetError(
        f"{name}={share} has no effect{where}: no episode to learn from gets a positive reward after its start. "
        "Record some that do, or leave it at 0."
    )

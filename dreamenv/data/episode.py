"""A recorded episode: t actions and t + 1 frames; ``actions[i]`` led from ``frames[i]`` to ``frames[i + 1]``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dreamenv.checks import check_number, check_whole, to_array
from dreamenv.data.checks import check_captions, check_rewards
from dreamenv.errors import EpisodeError

__all__ = ["Episode"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """An episode, from its reset to its end, or a piece of one.

    Attributes:
        frames: (t + 1, h, w, c) uint8; ``frames[0]`` is the observation before the first action.
        actions: (t, *a) int64 or float32, laid out as `dreamenv.action_layout` says.
        rewards: (t,) float32, in the real environment's units.
        terminated: whether the last step terminated the episode.
        truncated: whether the last step reached a limit of time or of the recording.
        at_episode_start: whether the first frame is that of reset; False for a piece that goes on where a limit of
            steps ended the one before.
        policy: the name of the policy.
        seed: the seed of reset.
        score: the environment's own score at the end, in the unit of its provenance; None if unknown.
        success: whether the task was solved; None if unknown.
        captions: (t,) strings, what was asked for or said when each action was taken, "" for nothing; one string for
            all steps; None without any.

    Raises:
        EpisodeError: there is no step, frames differ in size, lengths disagree, or a value is not finite.
    """

    frames: npt.NDArray[np.uint8]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float32]
    terminated: bool
    truncated: bool
    at_episode_start: bool = True
    policy: str = ""
    seed: int = 0
    score: float | None = None
    success: bool | None = None
    captions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        frames, actions = _check_frames(self.frames), _check_actions(self.actions)
        rewards = check_rewards(self.rewards)
        if len(actions) < 1:
            raise EpisodeError("an episode needs at least one step (one action, two frames); this one has none.")
        if len(frames) != len(actions) + 1 or rewards.shape != (len(actions),):
            raise EpisodeError(
                f"{len(actions)} actions need {len(actions) + 1} frames and rewards of shape ({len(actions)},), "
                f"not {len(frames)} frames and rewards of shape {rewards.shape}. The first frame is that of reset."
            )
        most, score = float(np.finfo(np.float64).max), self.score
        if score is not None:
            score = float(check_number("score", score, least=-most, most=most, also=", or None", error=EpisodeError))
        object.__setattr__(self, "captions", check_captions(self.captions, len(actions)))
        for name, value in (("frames", frames), ("actions", actions), ("rewards", rewards)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "terminated", bool(self.terminated))
        object.__setattr__(self, "truncated", bool(self.truncated))
        object.__setattr__(self, "at_episode_start", bool(self.at_episode_start))
        seed = check_whole("seed", self.seed, least=-(2**63), most=2**64, error=EpisodeError)
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "score", score)
        object.__setattr__(self, "success", None if self.success is None else bool(self.success))

    def __len__(self) -> int:
        """Return t, the number of steps."""
        return len(self.actions)

    def digest(self) -> str:
        """Return the SHA-256 of frames, actions, rewards, terminated, truncated and, if there are any, captions."""
        content = hashlib.sha256()
        for array in (self.frames, self.actions, self.rewards):
            content.update(f"{array.dtype.str}{array.shape}".encode())
            content.update(np.ascontiguousarray(array).data)
        content.update(bytes((self.terminated, self.truncated)))
        if self.captions is not None:
            content.update(json.dumps(self.captions).encode())
        return content.hexdigest()

    def __repr__(self) -> str:
        end = "terminated" if self.terminated else "truncated" if self.truncated else "unfinished"
        return (
            f"Episode(steps={len(self)}, frames={self.frames.shape} uint8, "
            f"actions={self.actions.shape} {self.actions.dtype}, return={float(self.rewards.sum()):g}, {end}, "
            f"policy={self.policy!r}, seed={self.seed}, score={self.score}, success={self.success})"
        )


def _check_frames(values: Any) -> npt.NDArray[np.uint8]:
    if not isinstance(values, np.ndarray) and isinstance(values, Sequence):
        sizes = sorted({np.shape(frame) for frame in values})
        if len(sizes) > 1:
            raise EpisodeError(f"the frames have different sizes {', '.join(map(str, sizes))}; resize them to one.")
    frames = to_array("frames", values, error=EpisodeError)
    if frames.ndim != 4 or frames.dtype != np.uint8 or min(frames.shape[1:]) < 1:
        raise EpisodeError(f"frames must be (t + 1, h, w, c) uint8, not {frames.shape} {frames.dtype}.")
    return frames


def _check_actions(values: Any) -> npt.NDArray[Any]:
    actions = to_array("actions", values, error=EpisodeError)
    if actions.ndim < 1 or actions.dtype.kind not in "biuf":
        raise EpisodeError(f"actions must be numbers of shape (t, ...), not {actions.shape} {actions.dtype}.")
    with np.errstate(over="ignore"):
        actions = actions.astype(np.float32 if actions.dtype.kind == "f" else np.int64, copy=False)
    if actions.dtype.kind == "f" and not np.isfinite(actions).all():
        step = int(np.flatnonzero(~np.isfinite(actions.reshape(len(actions), -1)).all(axis=1))[0])
        raise EpisodeError(f"the action of step {step} is {actions[step]}; actions must be finite numbers, in float32 "
                           "too.")  # fmt: skip
    return actions

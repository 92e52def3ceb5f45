"""Read the rows of an npz file as steps, for either action timing (see `dreamenv.data.readers.npz`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dreamenv.data.readers.arrays import ArrayFile
from dreamenv.errors import ConfigError, RecordingError

__all__ = ["NpzKeys", "NpzSettings", "Rows"]

_MOST_CHANNELS = 12  # four stacked RGB frames; a longer axis is a height or a width
_DEFAULT_NAMES = {
    "frames": ("image", "observation", "frames", "obs", "observations", "rgb"),
    "action": ("action", "actions"),
    "reward": ("reward", "rewards"),
    "first": ("is_first", "first"),
    "terminal": ("is_terminal", "terminated", "terminals", "terminations"),
    "discount": ("discount",),
}


@dataclass(frozen=True, kw_only=True)
class NpzKeys:
    """The names of the arrays; None looks for the usual names.

    Attributes:
        frames: frames.
        action: actions.
        reward: rewards; without them all rewards are 0.
        first: whether a row is the first of an episode; without it a file is one episode.
        terminal: whether the episode terminated at a row's frame; without it, see ``discount``.
        discount: 0 where the episode terminated at a row's frame.
    """

    frames: str | None = None
    action: str | None = None
    reward: str | None = None
    first: str | None = None
    terminal: str | None = None
    discount: str | None = None


@dataclass(frozen=True, kw_only=True)
class NpzSettings:
    """How to read npz files.

    Attributes:
        keys: the names of the arrays.
        actions_are: where a row's action belongs if there are as many actions as frames: "arrived", at the frame that
            it led to (Dreamer, DrQ-v2), or "taken", at its frame (D4RL).
        one_hot: actions are one-hot vectors (n, a): read them as Discrete(a).
        low: lower bound of continuous actions, to which they are clipped; None takes the minimum over all files.
        high: upper bound, likewise.
        size: height and width of the frames, in pixels; None keeps that of the files.
        max_steps: the most steps of an episode; a longer one becomes several.
        environment: the id of what was recorded.
        frame_rate: steps per second, in hertz.
    """

    keys: NpzKeys = field(default_factory=NpzKeys)
    actions_are: Literal["arrived", "taken"] = "arrived"
    one_hot: bool = False
    low: float | None = None
    high: float | None = None
    size: int | None = None
    max_steps: int = 1000
    environment: str = "recording-v0"
    frame_rate: float = 10.0

    def __post_init__(self) -> None:
        if self.actions_are not in ("arrived", "taken"):
            raise ConfigError(f"actions_are must be 'arrived' or 'taken', not {self.actions_are!r}.")
        if (self.low is None) != (self.high is None) or (self.low is not None and not self.low < (self.high or 0.0)):
            raise ConfigError(f"give both low and high, low below high, or neither, not {self.low} and {self.high}.")
        if self.max_steps < 1 or (self.size is not None and self.size < 1):
            raise ConfigError(f"max_steps and size must be at least 1, not {self.max_steps} and {self.size}.")


class Rows:
    """A file's rows, as steps: step i leads from frame i to frame i + 1."""

    def __init__(self, file: ArrayFile, settings: NpzSettings) -> None:
        self.file, self.settings = file, settings
        names = vars(settings.keys)
        self._keys = {kind: file.find(names[kind], usual) for kind, usual in _DEFAULT_NAMES.items()}
        for kind in ("frames", "action"):
            if self._keys[kind] is None:
                raise RecordingError(
                    f"{file.path} has none of {', '.join(map(repr, _DEFAULT_NAMES[kind]))}; it has "
                    f"{', '.join(map(repr, sorted(file.keys)))}. Name the array of the {kind} with keys.{kind}."
                )
        shape = file.shape(str(self._keys["frames"]))
        if len(shape) != 4 or min(shape[1], shape[3]) > _MOST_CHANNELS:
            raise RecordingError(
                f"{self._keys['frames']!r} in {file.path} is {shape}; frames must be (n, h, w, c) or (n, c, h, w)."
            )
        square_last, square_first = shape[1] == shape[2], shape[2] == shape[3]
        self.channels_last = square_last or (not square_first and shape[3] <= shape[1])
        self.frames = shape[0]
        height, width, channels = shape[1:] if self.channels_last else (shape[2], shape[3], shape[1])
        self._stacked_channels, self.channels = channels, 3 if channels % 3 == 0 else 1
        self.frame_shape = (settings.size or height, settings.size or width, self.channels)
        rows = file.shape(str(self._keys["action"]))[0]
        if self.frames - rows not in (0, 1):
            raise RecordingError(
                f"{file.path} has {self.frames} frames and {rows} actions; there must be as "
                "many frames as actions, or one more."
            )
        self.one_more = self.frames == rows + 1
        self.steps = self.frames - 1
        if self.steps < 1:
            raise RecordingError(f"{file.path} has {self.frames} frames, which is too few for a step. Leave it out.")
        self._shift = 0 if self.one_more or settings.actions_are == "taken" else 1

    def read_frames(self) -> NDArray[np.uint8]:
        """Read the frames, (n, h, w, c) uint8, in the size of the file."""
        key = str(self._keys["frames"])
        frames = self.file.read(key)
        if frames.dtype != np.uint8:
            raise RecordingError(f"{key!r} in {self.file.path} is {frames.dtype}; frames must be uint8.")
        if not self.channels_last:
            frames = frames.transpose(0, 2, 3, 1)
        return frames[..., self._stacked_channels - self.channels :]

    def read_actions(self) -> NDArray[Any]:
        """Read the actions, (t, ...); action i leads from frame i to frame i + 1."""
        return self._read_steps("action")

    def read_rewards(self) -> NDArray[np.float32]:
        """Read the rewards, (t,) float32; 0 if the file has none."""
        if self._keys["reward"] is None:
            return np.zeros(self.steps, np.float32)
        return self._read_steps("reward").astype(np.float32).reshape(self.steps)

    def read_terminated(self) -> NDArray[np.bool_]:
        """Read whether each step terminated the episode, (t,) bool."""
        if self._keys["terminal"] is not None:
            return self._read_steps("terminal").astype(np.bool_).reshape(self.steps)
        if self._keys["discount"] is not None:
            terminated: NDArray[np.bool_] = self._read_steps("discount").reshape(self.steps) == 0
            return terminated
        return np.zeros(self.steps, np.bool_)

    def episode_starts(self) -> list[int]:
        """Return the numbers of the first frames of episodes."""
        if self._keys["first"] is None:
            inner = np.flatnonzero(self.read_terminated()[:-1])
            if len(inner):
                raise RecordingError(
                    f"{self.file.path} terminates at step {inner[0]} and continues to step {self.steps - 1}, without "
                    "an array that marks where episodes start; name it with keys.first, or use a file per episode."
                )
            return [0]
        first = self._read("first").astype(np.bool_).reshape(-1)
        if len(first) != self.frames:
            raise RecordingError(
                f"{self._keys['first']!r} in {self.file.path} has {len(first)} rows for {self.frames} frames."
            )
        return sorted({0, *np.flatnonzero(first).tolist()})

    def _read_steps(self, kind: str) -> NDArray[Any]:
        values = self._read(kind)
        # With one more frame than actions, an array with a row per frame describes the frame that a step led to.
        shift = 1 if self.one_more and len(values) == self.frames else self._shift
        if len(values) - shift < self.steps:
            raise RecordingError(
                f"{self._keys[kind]!r} in {self.file.path} has {len(values)} rows for {self.frames} frames."
            )
        return values[shift : shift + self.steps]

    def _read(self, kind: str) -> NDArray[Any]:
        return self.file.read(str(self._keys[kind]))

"""Read the rows of an npz file as steps, for either action timing (see `dreamenv.data.readers.npz`)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dreamenv.data.checks import CHANNELS
from dreamenv.data.readers.arrays import ArrayFile
from dreamenv.data.readers.source import Segment
from dreamenv.errors import ConfigError, RecordingError

__all__ = ["NpzKeys", "NpzSettings", "Rows"]

_MOST_CHANNELS = 12  # four stacked RGB frames; a longer axis is a height or a width
_RGBA, _OPAQUE = 4, 255
_DEFAULT_NAMES = {
    "frames": ("image", "observation", "frames", "obs", "observations", "rgb"),
    "action": ("action", "actions"),
    "reward": ("reward", "rewards"),
    "first": ("is_first", "first"),
    "terminal": ("is_terminal", "terminated", "terminals", "terminations"),
    "discount": ("discount",),
    "timeout": ("timeouts", "timeout", "truncated", "truncations"),
    "caption": ("caption", "captions"),
}


@dataclass(frozen=True, kw_only=True)
class NpzKeys:
    """The names of the arrays; None looks for the usual names.

    ``first``, ``terminal``, ``timeout`` and ``discount`` hold 0 or 1 (a discount may lie between); all arrays but the
    frames, actions and captions have one number per row.

    Attributes:
        frames: frames.
        action: actions.
        reward: rewards; without them all rewards are 0, in all files.
        first: whether a row is the first of an episode; without it episodes end where ``terminal`` and ``timeout`` say,
            and without that either a file is one episode.
        terminal: whether the episode terminated at a row's frame; without it, see ``discount``.
        discount: 0 where the episode terminated at a row's frame.
        timeout: whether the episode was cut at a row's frame, by a time limit: truncated, and not terminated.
        caption: strings, what was asked for or said when a row's action was taken; "" for nothing.
    """

    frames: str | None = None
    action: str | None = None
    reward: str | None = None
    first: str | None = None
    terminal: str | None = None
    discount: str | None = None
    timeout: str | None = None
    caption: str | None = None


@dataclass(frozen=True, kw_only=True)
class NpzSettings:
    """How to read npz files.

    Attributes:
        keys: the names of the arrays.
        actions_are: where a row's action, reward and terminal belong if there are as many actions as frames:
            "arrived", at the frame that the action led to (Dreamer, DrQ-v2), or "taken", at its frame (D4RL).
        one_hot: actions are one-hot vectors (n, a): read them as Discrete(a).
        low: lower bound of continuous actions, to which they are clipped; None takes the minimum over all files.
        high: upper bound, likewise.
        size: height and width of the frames, in pixels; None keeps that of the files.
        stack: how many frames are stacked along the channels; the last, newest one is kept. None for 1, but 4 channels
            without it are taken for RGBA only if they are opaque; alpha is dropped.
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
    stack: int | None = None
    max_steps: int = 1000
    environment: str = "recording-v0"
    frame_rate: float = 10.0

    def __post_init__(self) -> None:
        if self.actions_are not in ("arrived", "taken"):
            raise ConfigError(f"actions_are must be 'arrived' or 'taken', not {self.actions_are!r}.")
        if (self.low is None) != (self.high is None) or (self.low is not None and not self.low < (self.high or 0.0)):
            raise ConfigError(f"give both low and high, low below high, or neither, not {self.low} and {self.high}.")
        for name in ("max_steps", "size", "stack"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")


class Rows:
    """A file's rows, as steps: step i leads from frame i to frame i + 1.

    Attributes:
        file, settings: as given.
        frame_shape: (h, w, c) of the frames as they are recorded.
        frames: n, the number of frames.
        unseen: the numbers of frames that no row shows, to which a last action led (see `episodes`).

    Raises:
        RecordingError: an array is missing or of another form.
    """

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
        self._channels_last = square_last or (not square_first and shape[3] <= shape[1])
        self.frames = shape[0]
        height, width, channels = shape[1:] if self._channels_last else (shape[2], shape[3], shape[1])
        self._channels = self._find_channels(channels)
        kept = self._channels.stop - self._channels.start
        self.frame_shape = (settings.size or height, settings.size or width, kept)
        rows = (*file.shape(str(self._keys["action"])), 0)[0]
        if self.frames - rows not in (0, 1):
            raise RecordingError(
                f"{file.path} has {self.frames} frames and {rows} actions; there must be as "
                "many frames as actions, or one more."
            )
        self._one_more = self.frames == rows + 1
        self._taken = not self._one_more and settings.actions_are == "taken"
        self._shift = 0 if self._one_more or self._taken else 1
        self._steps = self.frames if self._taken else self.frames - 1
        self.unseen: set[int] = set()
        self._episodes = self._find_episodes() if self._steps > 0 else []
        if not self._episodes:
            raise RecordingError(f"{file.path} has {self.frames} frames, which is too few for a step. Leave it out.")

    @property
    def arrays(self) -> list[str]:
        """What the file tells of its steps beside frames and actions: "reward", "terminal", both or neither."""
        told = {"terminal" if kind == "discount" else kind for kind, key in self._keys.items() if key is not None}
        return sorted(told & {"reward", "terminal"})

    @property
    def episodes(self) -> list[Segment]:
        """The range (first, last) of every episode's frames that has a step.

        Where an action was taken at its row's frame, no row has the frame that an episode's last action led to. The
        step is kept if it ended the task or was rewarded; then ``last`` is the number of that unseen frame, in whose
        place the one before is shown again. Else there is nothing to learn from it, and it is left out.
        """
        return self._episodes

    def read_frames(self) -> NDArray[np.uint8]:
        """Read the frames, (n, h, w, c) uint8, in the size of the file."""
        key = str(self._keys["frames"])
        frames = self.file.read(key)
        if frames.dtype != np.uint8:
            raise RecordingError(f"{key!r} in {self.file.path} is {frames.dtype}; frames must be uint8.")
        if not self._channels_last:
            frames = frames.transpose(0, 2, 3, 1)
        return frames[..., self._channels]

    def read_actions(self) -> NDArray[Any]:
        """Read the actions, (t, ...); action i leads from frame i to frame i + 1."""
        return self._read_steps("action")

    def used(self) -> NDArray[np.bool_]:
        """Return which steps belong to an episode, (t,) bool."""
        used = np.zeros(self._steps, np.bool_)
        for first, last in self.episodes:
            used[first:last] = True
        return used

    def read_rewards(self) -> NDArray[Any]:
        """Read the rewards, (t,) numbers; 0 if the file has none."""
        if self._keys["reward"] is None:
            return np.zeros(self._steps, np.float32)
        return self._numbers("reward", self._read_steps("reward"))

    def read_captions(self) -> list[str] | None:
        """Read the captions, (t,) strings; None if the file has none."""
        key = self._keys["caption"]
        if key is None:
            return None
        captions = self._read_steps("caption")
        if captions.dtype.kind != "U" or captions.ndim != 1:
            raise RecordingError(
                f"{key!r} in {self.file.path} is {captions.shape} {captions.dtype}; captions must be a string per row."
            )
        return [str(caption) for caption in captions]

    def read_terminated(self) -> NDArray[np.bool_]:
        """Read whether each step terminated the episode, (t,) bool."""
        if self._keys["terminal"] is not None:
            return self._flags("terminal", self._read_steps("terminal"))
        if self._keys["discount"] is not None:
            discount = self._numbers("discount", self._read_steps("discount"))
            if not ((discount >= 0) & (discount <= 1)).all():
                raise RecordingError(f"{self._keys['discount']!r} in {self.file.path} leaves [0, 1]. Correct it.")
            terminated: NDArray[np.bool_] = discount == 0
            return terminated
        return np.zeros(self._steps, np.bool_)

    def _find_channels(self, channels: int) -> slice:
        """Return which channels are the newest frame's colour."""
        stack = self.settings.stack or 1
        each, rest = divmod(channels, stack)
        key = f"{self._keys['frames']!r} in {self.file.path}"
        if rest or each not in (*CHANNELS, _RGBA):
            raise RecordingError(
                f"{key} has {channels} channels, which is not {stack} times grey (1), RGB (3) or RGBA (4). If "
                "frames are stacked along the channels, give their number with stack."
            )
        if each == _RGBA and self.settings.stack is None and not self._opaque():
            raise RecordingError(
                f"{key} has 4 channels, and the last one is not opaque as alpha mostly is. Say what they are: stack=1 "
                "for RGBA, whose alpha is dropped, or stack=4 for four grey frames."
            )
        return slice(channels - each, channels - each + min(each, max(CHANNELS)))

    def _opaque(self) -> bool:
        frames = self.file.read(str(self._keys["frames"]))
        alpha = frames[..., -1] if self._channels_last else frames[:, -1]
        return bool((alpha == _OPAQUE).all())

    def _find_episodes(self) -> list[Segment]:
        starts = [*self._find_starts(), self.frames]
        if not self._taken:
            return [(first, end - 1) for first, end in itertools.pairwise(starts) if end - 1 > first]
        kept = self.read_terminated() | (self.read_rewards() != 0)
        self.unseen = {end for end in starts[1:] if kept[end - 1]}
        ranges = [(first, end if end in self.unseen else end - 1) for first, end in itertools.pairwise(starts)]
        return [(first, last) for first, last in ranges if last > first]

    def _find_starts(self) -> list[int]:
        """Return the numbers of the first frames of episodes."""
        if self._keys["first"] is None and self._keys["timeout"] is not None and not self._one_more:
            ended = self.read_terminated() | self._flags("timeout", self._read_steps("timeout"))
            after = np.flatnonzero(ended) + (1 if self._taken else 2)  # the row after the one that tells of the end
            return sorted({0, *after[after < self.frames].tolist()})
        if self._keys["first"] is None:
            inner = np.flatnonzero(self.read_terminated()[:-1])
            if len(inner):
                raise RecordingError(
                    f"{self.file.path} terminates at step {inner[0]} and continues to step {self._steps - 1}, without "
                    "an array that marks where episodes start; name it with keys.first, or use a file per episode."
                )
            return [0]
        first = self._flags("first", self._read("first"))
        if len(first) != self.frames:
            raise RecordingError(
                f"{self._keys['first']!r} in {self.file.path} has {len(first)} rows for {self.frames} frames."
            )
        return sorted({0, *np.flatnonzero(first).tolist()})

    def _read_steps(self, kind: str) -> NDArray[Any]:
        values = self._read(kind)
        # With one more frame than actions, an array with a row per frame describes the frame that a step led to.
        shift = 1 if self._one_more and len(values) == self.frames else self._shift
        if len(values) - shift < self._steps:
            raise RecordingError(
                f"{self._keys[kind]!r} in {self.file.path} has {len(values)} rows for {self.frames} frames."
            )
        return values[shift : shift + self._steps]

    def _numbers(self, kind: str, values: NDArray[Any]) -> NDArray[Any]:
        """Return values, a number per row, without axes of length 1."""
        if values.dtype.kind not in "biuf" or values.size != len(values):
            raise RecordingError(
                f"{self._keys[kind]!r} in {self.file.path} is {values.shape} {values.dtype}; it must hold a number "
                "per row."
            )
        return values.reshape(-1)

    def _flags(self, kind: str, values: NDArray[Any]) -> NDArray[np.bool_]:
        flags = self._numbers(kind, values)
        strange = np.flatnonzero((flags != 0) & (flags != 1))
        if len(strange):
            raise RecordingError(
                f"{self._keys[kind]!r} in {self.file.path} holds {flags[strange[0]]}; it must be 0 or 1. Correct it, "
                f"or name another array with keys.{kind}."
            )
        return flags.astype(np.bool_)

    def _read(self, kind: str) -> NDArray[Any]:
        values = self.file.read(str(self._keys[kind]))
        if values.ndim < 1:
            raise RecordingError(f"{self._keys[kind]!r} in {self.file.path} is one number; it must have one per row.")
        return values

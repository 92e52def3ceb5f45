"""VPT's contractor recordings: ``<name>.mp4`` beside ``<name>.jsonl``, one line per frame, 20 frames a second.

A line tells what keyboard and mouse did while its frame was on the screen: what line i says leads from frame i to frame
i + 1. So n frames and n lines make n - 1 steps, and the last line, which some recordings lack, is not needed. Nothing
is rewarded and nothing ends: rewards are 0 and every piece is truncated.

What is known to be wrong with these recordings (Video-Pre-Training, ``data_loader.py``), and what is done about it:

- **Attack stuck from the start.** Many begin with the attack button held though nobody holds it. A button held on the
  first line counts only once it has been released, or pressed anew.
- **The wheel.** Slots of the hotbar are mostly chosen with the mouse wheel, which was not recorded. A change of the
  line's ``hotbar`` counts as that slot's key; the slot of the first line too, counted from slot 1, as in the streams of
  the public models.
- **Stuck hotbar keys.** A slot's key that stays down while another slot is chosen, or that nobody was seen to press,
  does nothing and does not count.
- **Screens** (``isGuiOpen``: inventory, crafting). There the mouse moves a cursor, which the video does not show, and
  not the view. See ``VPTSettings.gui``.
- **Frames and actions out of step** in some recordings. See ``VPTSettings.offset``.

Idle frames are kept, where VPT left them out: a world has to learn that nothing happens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dreamenv.data.episode import Episode
from dreamenv.data.provenance import Provenance
from dreamenv.data.readers.minecraft import (
    ACTION_KEYS,
    DEGREES_PER_PIXEL,
    FRAME_RATE,
    action_space,
    camera_value,
    key_index,
)
from dreamenv.data.readers.source import Piece, Sources, check_names, cut
from dreamenv.data.readers.video import Video
from dreamenv.errors import ConfigError, RecordingError

__all__ = ["VPTSettings", "open_vpt", "read_actions"]

_KEYBOARD = {
    "e": "inventory",
    "escape": "ESC",
    "w": "forward",
    "s": "back",
    "a": "left",
    "d": "right",
    "space": "jump",
    "left.shift": "sneak",
    "left.control": "sprint",
    "f": "swapHands",
    "q": "drop",
}
_KEYS = {f"key.keyboard.{key}": name for key, name in _KEYBOARD.items()}
_SLOTS = {f"key.keyboard.{number}": number - 1 for number in range(1, 10)}
_BUTTONS = {0: "attack", 1: "use", 2: "pickItem"}
_TOLERANCE = 1  # lines that may be missing or too many


@dataclass(frozen=True, kw_only=True)
class VPTSettings:
    """How VPT's recordings are read.

    Attributes:
        size: height of the frames, in pixels; those of the recordings are 360 by 640.
        width: their width; None for the height, which squeezes them as VPT does.
        max_steps: longest episode, in steps; a longer recording becomes several. It decides how much is in memory.
        gui: frames with a screen open: "still" keeps them with the camera at rest, "mouse" keeps them with the cursor's
            motion in the camera's place, as VPT was fed, "cut" leaves them out.
        gui_scale: times the cursor's motion, for "mouse": VPT uses 0.5 for data of the versions 5.7 and 5.8 and 2.0 for
            6.7 to 6.9.
        offset: lines to go forward in the actions of a recording whose actions come that many frames late; negative if
            they come early.
    """

    size: int = 64
    width: int | None = None
    max_steps: int = 1000
    gui: Literal["still", "mouse", "cut"] = "still"
    gui_scale: float = 1.0
    offset: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "width", "max_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.gui not in ("still", "mouse", "cut"):
            raise ConfigError(f"gui must be 'still', 'mouse' or 'cut', not {self.gui!r}.")
        if not self.gui_scale > 0:
            raise ConfigError(f"gui_scale must be positive, not {self.gui_scale}.")


def open_vpt(paths: Sequence[str | Path], settings: VPTSettings | None = None) -> Sources:
    """Open recordings by their mp4 or jsonl files; either names both.

    Raises:
        ConfigError: none, or two of one name.
    """
    settings = settings or VPTSettings()
    files = [Path(path).with_suffix(".mp4") for path in paths]
    check_names(files, [file.stem for file in files])
    shape = (settings.size, settings.width or settings.size)
    provenance = Provenance(
        environment_id="Minecraft-VPT-v0",
        environment_kwargs={"format": "vpt", "width": shape[1], "gui": settings.gui, "gui_scale": settings.gui_scale},
        action_names=ACTION_KEYS,
        frame_size=settings.size,
        resize="area",
        frame_rate=FRAME_RATE,
    )
    sources = [_VPT(path=file, settings=settings, shape=shape) for file in files]
    return Sources(sources=sources, provenance=provenance, action_space=action_space(), frame_shape=(*shape, 3))


@dataclass(frozen=True, kw_only=True)
class _VPT:
    path: Path
    settings: VPTSettings
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        return self.path.stem

    def pieces(self) -> list[Piece]:
        begin, actions, shown = self._aligned
        longest = self.settings.max_steps
        if self.settings.gui != "cut":
            return cut(begin, begin + len(actions), longest)
        # A screen's frames are out, and so are the steps that lead to them or away from them.
        edges = np.flatnonzero(np.diff(np.concatenate(([True], shown, [True])))) + begin
        stretches = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        return [piece for first, end in stretches for piece in cut(first, end - 1, longest)]

    def episodes(self, pieces: Sequence[Piece]) -> Iterator[Episode]:
        if not pieces:
            return
        begin, actions, _ = self._aligned
        frames = self._video.read(pieces[0][0], pieces[-1][1], self.shape)
        number, seen = pieces[0][0], next(frames)
        for first, last in pieces:
            while number < first:
                number, seen = number + 1, next(frames)
            strip = np.empty((last - first + 1, *seen.shape), np.uint8)
            strip[0] = seen
            for row in range(1, len(strip)):
                number, seen = number + 1, next(frames)
                strip[row] = seen
            yield Episode(
                frames=strip,
                actions=actions[first - begin : last - begin],
                rewards=np.zeros(last - first, np.float32),
                terminated=False,
                truncated=True,
                policy=self.name,
                seed=first,
            )

    def release(self) -> None:
        for name in ("_aligned", "_video"):
            self.__dict__.pop(name, None)

    @cached_property
    def _video(self) -> Video:
        return Video(self.path)

    @cached_property
    def _aligned(self) -> tuple[int, NDArray[np.float32], NDArray[np.bool_]]:
        """Return the first frame with an action, the actions (t, 25), and whether their frames (t + 1) are screens."""
        file, offset = self.path.with_suffix(".jsonl"), self.settings.offset
        actions, shown = read_actions(file, gui=self.settings.gui, gui_scale=self.settings.gui_scale)
        frames, lines = self._video.frames, len(actions)
        if abs(frames - lines) > _TOLERANCE:
            raise RecordingError(
                f"{self.path} has {frames} frames and {file.name} {lines} lines; they may differ by {_TOLERANCE} at "
                "most. They are not of one recording, or one is cut short: download both again, or leave them out."
            )
        begin, line = max(0, -offset), max(0, offset)  # frame i goes with line i + offset
        steps = min(frames - 1 - begin, lines - line)
        if steps < 1:
            raise RecordingError(
                f"{self.path} is too short: {frames} frames, {lines} lines and an offset of {offset} leave no step."
            )
        screens = np.append(shown[line : line + steps], shown[min(line + steps, lines - 1)])
        return begin, actions[line : line + steps], screens


def read_actions(
    file: Path, *, gui: str = "still", gui_scale: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read a jsonl file.

    Args:
        file: which.
        gui: what to do with the mouse while a screen is open, see `VPTSettings`.
        gui_scale: likewise.

    Returns:
        actions: (n, 25) float32, one per line, see `dreamenv.data.readers.minecraft`.
        shown: (n,) bool, whether a screen is open.

    Raises:
        RecordingError: missing, or a line that is no JSON or lacks a value; names file and line.
    """
    if not file.is_file():
        raise RecordingError(f"there is no {file}; the two files of a recording must lie side by side.")
    reader = _Lines()
    rows, motion, shown = [], [], []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line)
                rows.append(reader.read(values))
                motion.append((float(values["mouse"]["dy"]), float(values["mouse"]["dx"])))
                shown.append(bool(values.get("isGuiOpen", False)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                what = f"lacks {error}" if isinstance(error, KeyError) else f"is no action in JSON ({error})"
                raise RecordingError(
                    f"{file}, line {number}, {what}. The file is damaged or no VPT recording; mend or delete the line, "
                    "or leave the recording out."
                ) from error
    if not rows:
        raise RecordingError(f"{file} is empty. Download it again, or leave it out.")
    actions, screen = np.stack(rows), np.array(shown)
    degrees = np.array(motion) * DEGREES_PER_PIXEL
    degrees[screen] *= gui_scale if gui == "mouse" else 0.0
    actions[:, [key_index("cameraX"), key_index("cameraY")]] = camera_value(degrees)
    return actions, screen


@dataclass
class _Lines:
    """Reads lines in order; remembers what is stuck."""

    slot: int = 0
    unseen: set[Any] = field(default_factory=set)  # held since the first line, never seen pressed
    held: set[Any] = field(default_factory=set)
    begun: bool = False

    def read(self, line: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return keys and buttons of a line as (25,) float32, the camera left at 0."""
        action = np.zeros(len(ACTION_KEYS), np.float32)
        buttons = {int(button) for button in line["mouse"]["buttons"]}
        keys = set(line["keyboard"]["keys"])
        down = buttons | keys
        pressed = (
            set(line["mouse"].get("newButtons", ())) | set(line["keyboard"].get("newKeys", ())) | (down - self.held)
            if self.begun
            else set()
        )
        if not self.begun:
            self.unseen = {0, *_SLOTS} & down
        self.unseen = (self.unseen & down) - pressed
        self.held, self.begun = down, True
        for key in keys & _KEYS.keys():
            action[key_index(_KEYS[key])] = 1.0
        for button in (buttons & _BUTTONS.keys()) - self.unseen:
            action[key_index(_BUTTONS[button])] = 1.0
        slot = int(line.get("hotbar", self.slot))
        if slot != self.slot:
            action[key_index(f"hotbar.{slot + 1}")] = 1.0
        for key in (keys & _SLOTS.keys()) - self.unseen:
            if key in pressed or _SLOTS[key] == slot:
                action[key_index(f"hotbar.{_SLOTS[key] + 1}")] = 1.0
        self.slot = slot
        return action

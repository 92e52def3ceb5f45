"""Read the lines of VPT's jsonl files as 25-value actions, and correct their known faults.

- **Attack stuck from the start.** Many recordings start with the attack button down although it is not pressed. A
  button that is down on the first line counts only after it was released or pressed again.
- **The wheel.** Slots of the hotbar are mostly selected with the mouse wheel, which was not recorded. A change of
  ``hotbar`` counts as that slot's key, and so does the first line's slot unless it is slot 1, as in the data of the
  public models.
- **Stuck hotbar keys.** A slot's key that stays down while another slot is selected, or whose press was not recorded,
  has no effect and does not count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamenv.data.readers.minecraft import ACTION_KEYS, DEGREES_PER_PIXEL, camera_value, key_index
from dreamenv.errors import RecordingError

__all__ = ["read_actions"]

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


def read_actions(
    file: Path, *, gui: str = "still", gui_scale: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read a jsonl file.

    Args:
        file: the file.
        gui: how to read the mouse while a GUI is open, see `VPTSettings`.
        gui_scale: likewise.

    Returns:
        actions: (n, 25) float32, one per line, see `dreamenv.data.readers.minecraft`.
        gui_open: (n,) bool, whether a GUI is open.

    Raises:
        RecordingError: the file is missing, or a line is no JSON or lacks a value; the message names the line.
    """
    if not file.is_file():
        raise RecordingError(f"there is no {file}; both files of a recording must be in one folder.")
    reader = _LineReader()
    rows, motion, gui_open = [], [], []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line)
                rows.append(reader.read(values))
                motion.append(_motion(values["mouse"]))
                gui_open.append(bool(values.get("isGuiOpen", False)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                what = f"lacks {error}" if isinstance(error, KeyError) else f"is no action in JSON ({error})"
                raise RecordingError(
                    f"{file}, line {number}, {what}. The file is damaged or no VPT recording; correct or delete the "
                    "line, or leave the recording out."
                ) from error
    if not rows:
        raise RecordingError(f"{file} is empty. Download it again, or leave it out.")
    actions, is_open = np.stack(rows), np.array(gui_open)
    degrees = np.array(motion) * DEGREES_PER_PIXEL
    degrees[is_open] *= gui_scale if gui == "mouse" else 0.0
    actions[:, [key_index("cameraX"), key_index("cameraY")]] = camera_value(degrees)
    return actions, is_open


def _motion(mouse: Mapping[str, Any]) -> tuple[float, float]:
    dy, dx = float(mouse["dy"]), float(mouse["dx"])
    if not (math.isfinite(dy) and math.isfinite(dx)):
        raise ValueError(f"the mouse moves by {dx}, {dy}")
    return dy, dx


@dataclass
class _LineReader:
    """Converts lines in order; remembers which buttons and keys are stuck."""

    slot: int = 0
    stuck: set[Any] = field(default_factory=set)  # down since the first line
    held: set[Any] = field(default_factory=set)
    started: bool = False

    def read(self, line: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the keys and buttons of a line, (25,) float32, with the camera at 0."""
        action = np.zeros(len(ACTION_KEYS), np.float32)
        buttons = {int(button) for button in line["mouse"]["buttons"]}
        keys = set(line["keyboard"]["keys"])
        down = buttons | keys
        pressed = (
            set(line["mouse"].get("newButtons", ())) | set(line["keyboard"].get("newKeys", ())) | (down - self.held)
            if self.started
            else set()
        )
        if not self.started:
            self.stuck = {0, *_SLOTS} & down
        self.stuck = (self.stuck & down) - pressed
        self.held, self.started = down, True
        for key in keys & _KEYS.keys():
            action[key_index(_KEYS[key])] = 1.0
        for button in (buttons & _BUTTONS.keys()) - self.stuck:
            action[key_index(_BUTTONS[button])] = 1.0
        slot = int(line.get("hotbar", self.slot))
        if slot != self.slot:
            action[key_index(f"hotbar.{slot + 1}")] = 1.0
        for key in (keys & _SLOTS.keys()) - self.stuck:
            if key in pressed or _SLOTS[key] == slot:
                action[key_index(f"hotbar.{_SLOTS[key] + 1}")] = 1.0
        self.slot = slot
        return action

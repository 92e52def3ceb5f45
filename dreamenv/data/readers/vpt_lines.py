"""The lines of VPT's jsonl files as 25-value actions, with what is known to be wrong with them mended.

- **Attack stuck from the start.** Many begin with the attack button held though nobody holds it. A button held on the
  first line counts only once it has been released, or pressed anew.
- **The wheel.** Slots of the hotbar are mostly chosen with the mouse wheel, which was not recorded. A change of the
  line's ``hotbar`` counts as that slot's key; the slot of the first line too, counted from slot 1, as in the streams of
  the public models.
- **Stuck hotbar keys.** A slot's key that stays down while another slot is chosen, or that nobody was seen to press,
  does nothing and does not count.
"""

from __future__ import annotations

import json
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

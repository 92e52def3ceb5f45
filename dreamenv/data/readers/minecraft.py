"""The 25-value action of the public Minecraft world models, a vector of keyboard and mouse inputs.

The order of the values is that of the Oasis world model (open-oasis, ``utils.py``, ACTION_KEYS), whose names are those
of VPT's action space (Video-Pre-Training, ``run_inverse_dynamics_model.py``). It was checked against the two streams
that open-oasis ships: their 16th value stays within the 180 degrees a view can be pitched, their 17th does not.

0 inventory, 1 ESC, 2–10 hotbar.1–hotbar.9, 11 forward, 12 back, 13 left, 14 right, **15 cameraX (pitch, down is
positive), 16 cameraY (yaw, right is positive)**, 17 jump, 18 sneak, 19 sprint, 20 swapHands, 21 attack, 22 use,
23 pickItem, 24 drop.

Keys and buttons are 0 or 1. The two camera values are turns of -20 to 20 degrees in one frame, in steps of half a
degree, divided by 20: in [-1, 1]. A mouse moves the view by 360/2400 degrees per pixel (VPT's CAMERA_SCALER).
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = [
    "ACTION_KEYS",
    "DEGREES_PER_PIXEL",
    "FRAME_RATE",
    "LARGEST_TURN",
    "TURN_STEP",
    "action_space",
    "camera_value",
    "key_index",
]

ACTION_KEYS = (
    "inventory",
    "ESC",
    *(f"hotbar.{number}" for number in range(1, 10)),
    "forward",
    "back",
    "left",
    "right",
    "cameraX",
    "cameraY",
    "jump",
    "sneak",
    "sprint",
    "swapHands",
    "attack",
    "use",
    "pickItem",
    "drop",
)

DEGREES_PER_PIXEL = 360.0 / 2400.0
LARGEST_TURN = 20.0  # degrees per frame
TURN_STEP = 0.5  # degrees
FRAME_RATE = 20.0  # hertz, Minecraft's tick


def key_index(name: str) -> int:
    """Return the index of a key in the vector."""
    return ACTION_KEYS.index(name)


def action_space() -> spaces.Box:
    """Return the space of the vectors: (25,) float32, the camera in [-1, 1], the others in [0, 1]."""
    low = np.zeros(len(ACTION_KEYS), np.float32)
    low[[key_index("cameraX"), key_index("cameraY")]] = -1.0
    return spaces.Box(low, np.ones_like(low), dtype=np.float32)


def camera_value(degrees: NDArray[np.float64]) -> NDArray[np.float32]:
    """Convert degrees per frame to values in [-1, 1], rounded to the steps of the public models."""
    steps = np.rint(np.clip(degrees, -LARGEST_TURN, LARGEST_TURN) / TURN_STEP)
    value: NDArray[np.float32] = (steps / (LARGEST_TURN / TURN_STEP)).astype(np.float32)
    return value + np.float32(0.0)  # no negative zero

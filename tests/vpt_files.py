"""VPT recordings made for tests: jsonl lines that tell what a stream of 25-value actions tells, and videos."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from dreamenv.data.readers.minecraft import ACTION_KEYS

KEYS = {
    "inventory": "e", "ESC": "escape", "forward": "w", "back": "s", "left": "a", "right": "d", "jump": "space",
    "sneak": "left.shift", "sprint": "left.control", "swapHands": "f", "drop": "q",
}  # fmt: skip
BUTTONS = {"attack": 0, "use": 1, "pickItem": 2}
STREAM = Path(__file__).parent / "data" / "vpt_actions" / "player729.npz"


def real_stream() -> np.ndarray:
    """Twenty seconds of a real player, (400, 25) float32; stored in fortieths."""
    with np.load(STREAM, allow_pickle=False) as arrays:
        return arrays["fortieths"].astype(np.float32) / np.float32(40)


def lines_of(stream: np.ndarray) -> list[dict[str, Any]]:
    """Say with keyboard, wheel and mouse what the stream says."""
    lines, slot, before = [], 0, set()
    for row in stream:
        done = {name for name, value in zip(ACTION_KEYS, row, strict=True) if value and not name.startswith("camera")}
        for name in done:
            slot = int(name[-1]) - 1 if name.startswith("hotbar") else slot
        down = {BUTTONS[name] for name in done if name in BUTTONS}
        pitch, yaw = row[ACTION_KEYS.index("cameraX")] * 20.0, row[ACTION_KEYS.index("cameraY")] * 20.0
        lines.append(
            line(
                keys=[f"key.keyboard.{KEYS[name]}" for name in sorted(done) if name in KEYS],
                buttons=sorted(down), new_buttons=sorted(down - before), hotbar=slot,
                dx=round(yaw / 0.15), dy=round(pitch / 0.15),
            )
        )  # fmt: skip
        before = down
    return lines


def line(
    *, keys: Sequence[str] = (), new_keys: Sequence[str] = (), buttons: Sequence[int] = (),
    new_buttons: Sequence[int] = (), hotbar: int = 0, dx: float = 0, dy: float = 0, gui: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """One line as the recorder wrote it, with what the reader does not need left out."""
    return {
        "mouse": {"x": 640.0, "y": 360.0, "dx": dx, "dy": dy, "buttons": [*buttons], "newButtons": [*new_buttons]},
        "keyboard": {"keys": [*keys], "newKeys": [*new_keys], "chars": ""},
        "isGuiOpen": gui, "hotbar": hotbar, "tick": 0,
    }  # fmt: skip


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))


def write_video(path: Path, frames: int, *, size: int = 32, first_moov: bool = False) -> None:
    """Frame i is grey, ``level(i)`` bright."""
    options = {"movflags": "faststart"} if first_moov else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        stream.options = {"crf": "10", "g": "12"}
        stream.codec_context.time_base = Fraction(1, 20)
        for number in range(frames):
            picture = np.full((size, size, 3), level(number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def level(number: int) -> int:
    """How bright frame ``number`` is; neighbours differ by more than the codec blurs."""
    return 30 + 20 * (number % 10)


def numbers(frames: np.ndarray) -> np.ndarray:
    """Read the numbers of frames off their brightness, modulo 10."""
    return np.rint((frames.mean(axis=(1, 2, 3)) - 30) / 20).astype(int)


def write_recording(folder: Path, name: str, stream: np.ndarray, *, frames: int | None = None) -> Path:
    """Write ``<name>.mp4`` and ``<name>.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / f"{name}.jsonl", lines_of(stream))
    write_video(folder / f"{name}.mp4", len(stream) if frames is None else frames)
    return folder / f"{name}.mp4"

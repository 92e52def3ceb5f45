"""VPT's contractor recordings: ``<name>.mp4`` beside ``<name>.jsonl``, one line per frame, 20 frames a second.

A line tells what keyboard and mouse did while its frame was on the screen: what line i says leads from frame i to frame
i + 1. So n frames and n lines make n - 1 steps, and the last line, which some recordings lack, is not needed. Nothing
is rewarded and nothing ends: rewards are 0 and every piece is truncated.

What is known to be wrong with these recordings (Video-Pre-Training, ``data_loader.py``), and what is done about it:

- **Attack stuck from the start, the mouse wheel, stuck hotbar keys**: see `dreamenv.data.readers.vpt_lines`.
- **Screens** (``isGuiOpen``: inventory, crafting). There the mouse moves a cursor, which the video does not show, and
  not the view. See ``VPTSettings.gui``.
- **Frames and actions out of step** in some recordings. See ``VPTSettings.offset``.

Idle frames are kept, where VPT left them out: a world has to learn that nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dreamenv.data.episode import Episode
from dreamenv.data.provenance import Provenance
from dreamenv.data.readers.minecraft import ACTION_KEYS, FRAME_RATE, action_space
from dreamenv.data.readers.source import Piece, Sources, check_names, cut
from dreamenv.data.readers.video import Video, strips
from dreamenv.data.readers.vpt_lines import read_actions
from dreamenv.errors import ConfigError, RecordingError

__all__ = ["VPTSettings", "open_vpt"]

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


def open_vpt(
    paths: Sequence[str | Path], settings: VPTSettings | None = None, *, skip_damaged: bool = False
) -> Sources:
    """Open recordings by their mp4 or jsonl files; either names both.

    Args:
        paths: the files.
        settings: how they are read.
        skip_damaged: go on after one that cannot be read.

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
    return Sources(
        sources=sources,
        provenance=provenance,
        action_space=action_space(),
        frame_shape=(*shape, 3),
        skip_damaged=skip_damaged,
    )


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
        for (first, last), strip in strips(frames, pieces):
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

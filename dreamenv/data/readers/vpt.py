"""Read VPT's contractor recordings: ``<name>.mp4`` and ``<name>.jsonl``, one line per frame, 20 frames per second.

A line has the inputs of keyboard and mouse while its frame was shown: line i is the action that leads from frame i to
frame i + 1. So n frames and n lines make n - 1 steps, and the last line, which some recordings lack, is not needed.
There are no rewards and no terminations: rewards are 0 and every segment is truncated.

Known faults of these recordings (Video-Pre-Training, ``data_loader.py``), and how they are handled:

- **Attack stuck from the start, the mouse wheel, stuck hotbar keys**: see `dreamenv.data.readers.vpt_lines`.
- **Open GUIs** (``isGuiOpen``: inventory, crafting). There the mouse moves a cursor, which the video does not show, and
  not the camera. See ``VPTSettings.gui``.
- **Frames and actions out of sync** in some recordings. See ``VPTSettings.offset``.

Idle frames are kept, unlike in VPT: a world model has to learn what no-ops do.
"""

from __future__ import annotations

import math
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
from dreamenv.data.readers.source import Segment, Sources, check_names, settings_facts, split_segments
from dreamenv.data.readers.video import Video, split_frames
from dreamenv.data.readers.vpt_lines import read_actions
from dreamenv.errors import ConfigError, RecordingError

__all__ = ["VPTSettings", "open_vpt"]

_TOLERANCE = 1  # lines that may be missing or too many


@dataclass(frozen=True, kw_only=True)
class VPTSettings:
    """How to read VPT's recordings.

    Attributes:
        size: height of the frames, in pixels; those of the recordings are 360 by 640.
        width: their width; None for square frames, which are squeezed as VPT does.
        max_steps: the most steps of an episode; a longer recording becomes several. Memory use grows with it.
        gui: frames with an open GUI: "still" keeps them with the camera at 0, "mouse" keeps them with the cursor's
            motion as the camera's, as VPT does, "cut" removes them.
        gui_scale: factor of the cursor's motion for "mouse": VPT uses 0.5 for data of the versions 5.7 and 5.8 and 2.0
            for 6.7 to 6.9.
        offset: number of frames by which the actions of a recording are late; negative if they are early.
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
        if not 0 < self.gui_scale < math.inf:
            raise ConfigError(f"gui_scale must be positive and finite, not {self.gui_scale}.")
        if self.gui != "mouse" and self.gui_scale != 1.0:
            raise ConfigError(f"gui_scale={self.gui_scale} has no effect with gui={self.gui!r}; use gui='mouse'.")


def open_vpt(
    paths: Sequence[str | Path], settings: VPTSettings | None = None, *, skip_damaged: bool = False
) -> Sources:
    """Open recordings by their mp4 or jsonl files; either names both.

    Args:
        paths: the files.
        settings: how to read them.
        skip_damaged: skip recordings that cannot be read.

    Raises:
        ConfigError: there are no paths, or two recordings of one name.
    """
    settings = settings or VPTSettings()
    files = [Path(path).with_suffix(".mp4") for path in paths]
    check_names(files, [file.stem for file in files])
    shape = (settings.size, settings.width or settings.size)
    provenance = Provenance(
        environment_id="Minecraft-VPT-v0",
        environment_kwargs={**settings_facts("vpt", settings), "width": shape[1]},
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

    def segments(self) -> list[Segment]:
        begin, actions, gui_open = self._aligned
        max_steps = self.settings.max_steps
        if self.settings.gui != "cut":
            return split_segments(begin, begin + len(actions), max_steps)
        # Frames with an open GUI are removed, and so are the steps that lead to them or away from them.
        edges = np.flatnonzero(np.diff(np.concatenate(([True], gui_open, [True])))) + begin
        ranges = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        return [segment for first, end in ranges for segment in split_segments(first, end - 1, max_steps)]

    def episodes(self, segments: Sequence[Segment]) -> Iterator[Episode]:
        if not segments:
            return
        begin, actions, _ = self._aligned
        frames = self._video.read(segments[0][0], segments[-1][1], self.shape)
        for (first, last), clip in split_frames(frames, segments):
            yield Episode(
                frames=clip,
                actions=actions[first - begin : last - begin],
                rewards=np.zeros(last - first, np.float32),
                terminated=False,
                truncated=True,
                at_episode_start=first == begin,
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
        """Return the first frame with an action, the actions (t, 25), and whether frames (t + 1) have an open GUI."""
        file, offset = self.path.with_suffix(".jsonl"), self.settings.offset
        actions, gui_open = read_actions(file, gui=self.settings.gui, gui_scale=self.settings.gui_scale)
        frames, lines = self._video.frames, len(actions)
        if abs(frames - lines) > _TOLERANCE:
            raise RecordingError(
                f"{self.path} has {frames} frames and {file.name} {lines} lines; they may differ by {_TOLERANCE} at "
                "most. They are of different recordings, or one is cut short: download both again, or leave them out."
            )
        begin, line = max(0, -offset), max(0, offset)  # frame i goes with line i + offset
        steps = min(frames - 1 - begin, lines - line)
        if steps < 1:
            raise RecordingError(
                f"{self.path} is too short: {frames} frames, {lines} lines and an offset of {offset} leave no step."
            )
        open_frames = np.append(gui_open[line : line + steps], gui_open[min(line + steps, lines - 1)])
        return begin, actions[line : line + steps], open_frames

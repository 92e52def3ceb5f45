"""A small real environment for prompts: a camera that pans over a strip on which objects of some colour appear.

The frame shows `COLUMNS` columns of cells; most hold one object, in one of `LANES` lanes. A step pans by one column,
and the column that appears is always new. An action pans left or right; with the no-op the camera does what the caption
of the moment names, or stands still. New objects have the colour that the caption names, or any. So the caption is
slow, the action is fast, and where they contradict each other the action wins, for the camera alone.

Captions change at random; they read "camera pans left, red objects", "green objects", or nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.episode import Episode
from dreamenv.data.provenance import Provenance

__all__ = ["ACTIONS", "COLOURS", "PANS", "Panorama", "caption", "find_objects", "record_panorama"]

CELL, COLUMNS, LANES = 4, 4, 4
COLOURS = {"red": (220, 60, 50), "green": (70, 190, 80), "blue": (70, 110, 230)}
ACTIONS = ("noop", "left", "right")
PANS = {"left": 1, "right": 2}
"""What the caption may name, and the action that does the same."""

_FLOOR = (28, 28, 34)
_OBJECTS, _NAMED, _CHANGE = 0.85, 0.75, 1 / 16
"""Share of columns with an object; chance that a caption names a pan, or a colour; and that it changes, in a step."""
_LEAST, _ALIKE = 0.4, 0.9  # of a dreamt object's strength, and the cosine between its colour and a real one


def caption(pan: str | None, colour: str | None) -> str:
    """Return the caption that names a pan, a colour, both or nothing."""
    parts = [f"camera pans {pan}"] if pan else []
    return ", ".join(parts + ([f"{colour} objects"] if colour else []))


class Panorama(gym.Env[NDArray[np.uint8], np.int64]):
    """16x16 RGB, Discrete(3): no-op, left, right; no rewards, no end but the time limit.

    Args:
        captioned: whether captions come and go; else there is none, and the no-op stands still.
        max_episode_steps: steps until truncation.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - as gymnasium has it

    def __init__(self, *, captioned: bool = True, max_episode_steps: int = 64) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (CELL * LANES, CELL * COLUMNS, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(len(ACTIONS))
        self.captioned, self.max_episode_steps = captioned, max_episode_steps

    @property
    def provenance(self) -> Provenance:
        """What a recording says of it."""
        return Provenance(
            environment_id="dreamenv/Panorama-v0",
            environment_kwargs={"captioned": self.captioned, "max_episode_steps": self.max_episode_steps},
            action_names=ACTIONS,
            action_table=[0, -1, 1],
            frame_size=(CELL * LANES, CELL * COLUMNS),
            frame_rate=5.0,
            max_episode_steps=self.max_episode_steps,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start somewhere; options "pan" and "colour" set a caption that stays."""
        super().reset(seed=seed)
        self._fixed = options is not None
        self.pan: str | None = (options or {}).get("pan")
        self.colour: str | None = (options or {}).get("colour")
        self._steps = 0
        self._strip = [self._column(None) for _ in range(COLUMNS)]
        self._change(1.0)
        return self._frame(), {"caption": self.caption}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Pan, or not."""
        moved = int(action) or PANS.get(self.pan or "", 0)
        if moved == PANS["left"]:
            self._strip = [self._column(self.colour), *self._strip[:-1]]
        elif moved == PANS["right"]:
            self._strip = [*self._strip[1:], self._column(self.colour)]
        self._steps += 1
        self._change(_CHANGE)
        return self._frame(), 0.0, False, self._steps >= self.max_episode_steps, {"caption": self.caption}

    @property
    def caption(self) -> str:
        """The caption of the moment."""
        return caption(self.pan, self.colour)

    def _change(self, chance: float) -> None:
        if not self.captioned or self._fixed or self.np_random.random() >= chance:
            return
        named = self.np_random.random(2) < _NAMED
        self.pan = str(self.np_random.choice(list(PANS))) if named[0] else None
        self.colour = str(self.np_random.choice(list(COLOURS))) if named[1] else None

    def _column(self, colour: str | None) -> tuple[int, str] | None:
        """Return a new column: the lane of its object and its colour, or None."""
        present, lane = self.np_random.random() < _OBJECTS, int(self.np_random.integers(LANES))
        drawn = str(self.np_random.choice(list(COLOURS)))
        return (lane, colour or drawn) if present else None

    def _frame(self) -> NDArray[np.uint8]:
        frame = np.empty((CELL * LANES, CELL * COLUMNS, 3), np.uint8)
        frame[:] = _FLOOR
        for x, column in enumerate(self._strip):
            if column is not None:
                lane, colour = column
                frame[lane * CELL : (lane + 1) * CELL - 1, x * CELL : (x + 1) * CELL - 1] = COLOURS[colour]
        return frame


def find_objects(frame: NDArray[np.uint8]) -> Iterator[tuple[int, int, str]]:
    """Yield the objects of a frame (16, 16, 3), dreamt ones too: column, lane and colour, at most one in a column.

    An object is what differs most from the floor, if it does by `_LEAST` of what a real one would, and in its colour.
    """
    cells = frame.reshape(LANES, CELL, COLUMNS, CELL, 3)[:, :-1, :, :-1].mean(axis=(1, 3), dtype=np.float64)
    beyond, colours = cells - _FLOOR, np.array(list(COLOURS.values())) - _FLOOR
    strength, full = np.linalg.norm(beyond, axis=-1), np.linalg.norm(colours, axis=-1)
    for column, lane in enumerate(strength.argmax(axis=0)):
        found = beyond[lane, column]
        likeness = colours @ found / full / max(float(strength[lane, column]), 1e-9)
        best = int(likeness.argmax())
        if strength[lane, column] >= _LEAST * full[best] and likeness[best] >= _ALIKE:
            yield column, int(lane), list(COLOURS)[best]


def record_panorama(
    path: Path, episodes: int, *, captioned: bool = True, conflicts: bool = True, seed: int = 0
) -> EpisodeDataset:
    """Record episodes under actions that are held for some steps, half of them the no-op.

    Args:
        path: the dataset's folder.
        episodes: how many.
        captioned: whether there are captions.
        conflicts: whether actions may contradict the caption; else the no-op is taken instead.
        seed: of the episodes.
    """
    env = Panorama(captioned=captioned)
    dataset = EpisodeDataset.create(path, env.provenance, env.action_space, (CELL * LANES, CELL * COLUMNS, 3))
    for number in range(episodes):
        random = np.random.default_rng((seed, number))
        frame, info = env.reset(seed=int(random.integers(2**31)))
        frames, actions, captions, action, truncated = [frame], [], [], 0, False
        while not truncated:
            if random.random() < 0.25:
                action = int(random.choice([0, 0, 1, 2]))
            contradicts = env.pan is not None and action not in (0, PANS[env.pan])
            actions.append(0 if contradicts and not conflicts else action)
            captions.append(info["caption"])
            frame, _, _, truncated, info = env.step(actions[-1])
            frames.append(frame)
        dataset.append(
            Episode(
                frames=np.stack(frames), actions=np.array(actions), rewards=np.zeros(len(actions), np.float32),
                terminated=False, truncated=True, policy="held", seed=number, captions=tuple(captions),
            )
        )  # fmt: skip
    return dataset

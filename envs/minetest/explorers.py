"""Scripted explorers of the Minetest tasks: they see frames only, and mostly reach the goal, so recordings show it.

Each is a `dreamenv.data.policies.Policy` for frames of 64 x 64 pixels or a multiple of it, and for the task's own table
of actions at its own frame skip.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dreamenv.envs.minetest.tasks import MINETEST_TASKS
from dreamenv.errors import ConfigError, UnknownNameError

__all__ = ["BeaconExplorer", "MazeExplorer", "TreeExplorer", "explorer"]

_Frame = NDArray[np.uint8]
_SIDE = 64


class _Explorer(ABC):
    """A plan of actions, written as a generator that looks at ``self.frame`` after every action it yields."""

    task = ""

    def __init__(self) -> None:
        self.name = "scripted"
        self._actions = {name: index for index, name in enumerate(MINETEST_TASKS[self.task].action_names)}
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self.random = np.random.default_rng(seed)
        self.frame: NDArray[np.int64] = np.zeros((_SIDE, _SIDE, 3), np.int64)
        self._plan = self.plan()

    def act(self, frame: _Frame) -> int:
        """Choose an action after seeing a frame.

        Raises:
            ConfigError: the frame's side is no multiple of 64.
        """
        if frame.shape[0] % _SIDE or frame.shape[0] != frame.shape[1]:
            raise ConfigError(f"the explorer needs frames of 64 x 64 pixels or a multiple, not {frame.shape}.")
        stride = frame.shape[0] // _SIDE
        self.frame = frame[::stride, ::stride].astype(np.int64)
        return self._actions[next(self._plan)]

    @abstractmethod
    def plan(self) -> Iterator[str]:
        """Yield names of actions, without end."""

    # What is seen

    def beacon(self) -> float | None:
        """Return how far right of the middle the beacon stands, in pixels; None where it is not seen."""
        red, green, blue = (self.frame[..., channel] for channel in range(3))
        seen = ((red - green > 70) & (blue - green > 40)).sum(0)
        return None if seen.sum() < 3 else float((np.arange(_SIDE) * seen).sum() / seen.sum() - (_SIDE - 1) / 2)

    # What is done

    def walk(self, name: str = "forward") -> Iterator[str]:
        """Walk a step; afterwards, ``self.stuck`` tells whether the frame stayed the same."""
        before = self.frame
        yield name
        self.stuck = bool(np.abs(self.frame - before).mean() < 1.0)

    def turn(self, name: str, times: int) -> Iterator[str]:
        """Turn some steps."""
        for _ in range(times):
            yield name

    def avoid(self) -> Iterator[str]:
        """Get around what is in the way."""
        side = str(self.random.choice(["turn_left", "turn_right"]))
        yield from self.turn(side, int(self.random.integers(3, 7)))
        for _ in range(int(self.random.integers(4, 9))):
            yield from self.walk("forward_jump")
            if self.stuck:
                return


class BeaconExplorer(_Explorer):
    """Looks around for the beacon and walks to it, jumping where it gets stuck."""

    task = "minetest_navigate"

    def plan(self) -> Iterator[str]:
        """Search, aim, walk."""
        side = str(self.random.choice(["turn_left", "turn_right"]))
        unseen, stuck = 0, 0
        while True:
            offset = self.beacon()
            if offset is None:
                unseen += 1
                if unseen % 26:
                    yield side
                else:
                    yield from self.avoid()
                continue
            unseen = 0
            if abs(offset) > 14:  # half of the turn that an action is worth with a frame skip of two
                yield "turn_left" if offset < 0 else "turn_right"
                continue
            yield from self.walk("forward_jump" if stuck else "forward")
            stuck = stuck + 1 if self.stuck else max(0, stuck - 1)
            if stuck >= 4:
                stuck = 0
                yield from self.avoid()


class MazeExplorer(_Explorer):
    """Searches the maze depth first, cell by cell, with a map in its head; walks to the beacon when it is seen."""

    task = "minetest_maze"

    def plan(self) -> Iterator[str]:
        """Go where nobody was, else back."""
        heading, cell, trail = 0, (0, 0), [(0, 0)]
        seen, walls = {cell}, set()
        while True:
            yield from self.approach()
            target = None
            for way in (heading, (heading + 3) % 4, (heading + 1) % 4, (heading + 2) % 4):
                there = _beside(cell, way)
                if there in seen or (cell, way) in walls:
                    continue
                yield from self.face(heading, way)
                heading = way
                yield from self.approach()
                if self.open():
                    target = there
                    break
                walls.add((cell, way))
            if target is None:
                if len(trail) < 2:  # everything was seen: lost, begin anew
                    heading, cell, trail, seen, walls = 0, (0, 0), [(0, 0)], {(0, 0)}, set()
                    yield "forward"
                    continue
                trail.pop()
                target = trail[-1]
                back = next(way for way in range(4) if _beside(cell, way) == target)
                yield from self.face(heading, back)
                heading = back
            else:
                trail.append(target)
                seen.add(target)
            steps = 7 + (sum(target) + sum(cell)) // 2 % 2  # 7 and 8 in turn: a cell is 7.4 steps wide
            for _ in range(steps):
                yield "forward"
            cell = target

    def approach(self) -> Iterator[str]:
        """Walk to the beacon for as long as it is seen."""
        while (offset := self.beacon()) is not None:
            if abs(offset) > 14:
                yield "turn_left" if offset < 0 else "turn_right"
            else:
                yield "forward"

    def face(self, heading: int, way: int) -> Iterator[str]:
        """Turn from one of the four directions to another."""
        turns = (way - heading) % 4
        yield from self.turn("turn_left" if turns == 3 else "turn_right", 3 * min(turns, 4 - turns))

    def open(self) -> bool:
        """Say whether floor is seen right ahead, 2.5 m off: it is grey, walls and sky are not."""
        ahead = self.frame[-4:, _SIDE // 2 - 4 : _SIDE // 2 + 4]
        return bool(((ahead.max(-1) - ahead.min(-1)) < 50).mean() > 0.5)


class TreeExplorer(_Explorer):
    """Walks to what is brown and upright, and digs there, at its height and above."""

    task = "minetest_treechop"

    def trunk(self) -> float | None:
        """Return how far right of the middle the widest trunk stands, in pixels; None where none is seen.

        One that covers the middle stands there, however wide it is: close by, it fills the view unevenly.
        """
        columns = np.convolve(self.brown(self.frame[14:34]).sum(0), np.ones(5), "same")
        best = int(columns.argmax())
        if columns[best] < 30:
            return None
        return 0.0 if columns[_SIDE // 2] > 0.5 * columns[best] else best - (_SIDE - 1) / 2

    @staticmethod
    def brown(pixels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which pixels (..., 3) have the colour of bark."""
        red, green, blue = (pixels[..., channel] for channel in range(3))
        return (red >= green + 2) & (green >= blue + 1) & (red > 15) & (red < 120)

    def at_trunk(self) -> bool:
        """Say whether bark fills the middle of the view."""
        middle = self.frame[_SIDE * 3 // 8 : _SIDE * 5 // 8, _SIDE * 3 // 8 : _SIDE * 5 // 8]
        return bool(self.brown(middle).mean() > 0.5)

    def plan(self) -> Iterator[str]:
        """Search, aim, walk, dig."""
        side = str(self.random.choice(["turn_left", "turn_right"]))
        unseen = 0
        while True:
            offset = self.trunk()
            if offset is None:
                unseen += 1
                if unseen % 26:
                    yield side
                else:
                    yield from self.avoid()
                continue
            unseen = 0
            if abs(offset) > 14:  # half of the turn that an action is worth with a frame skip of two
                yield "turn_left" if offset < 0 else "turn_right"
                continue
            yield from self.walk()
            if not self.stuck:
                continue
            if self.at_trunk():
                yield from self.dig()
                yield from self.avoid()
            else:
                yield from self.walk("forward_jump")

    def dig(self) -> Iterator[str]:
        """Dig ahead, then below and above."""
        for look in ("noop", "look_down", "look_down", "look_up", "look_up", "look_up", "look_up", "look_up"):
            yield look
            for _ in range(16):
                yield "dig"
        for _ in range(3):
            yield "look_down"


def _beside(cell: tuple[int, int], way: int) -> tuple[int, int]:
    """Return the cell in a direction: 0 ahead, 1 right, 2 back, 3 left, as seen at the beginning."""
    x, z = ((0, 1), (1, 0), (0, -1), (-1, 0))[way]
    return cell[0] + x, cell[1] + z


def explorer(task: str) -> _Explorer:
    """Make the explorer of a task.

    Raises:
        UnknownNameError: there is none.
    """
    explorers = {kind.task: kind for kind in (BeaconExplorer, MazeExplorer, TreeExplorer)}
    if task not in explorers:
        raise UnknownNameError("scripted explorer for", task, explorers)
    return explorers[task]()

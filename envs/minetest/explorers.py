"""Scripted policies for the Minetest tasks, which see frames only and usually reach the goal.

Each is a `dreamenv.data.policies.Policy` for square frames whose size is a multiple of 64 pixels, and for the default
action table and frame skip of its task.
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
_SIZE = 64


class _Explorer(ABC):
    """A policy written as a generator of actions, which reads ``self.frame`` after every action it yields."""

    task = ""

    def __init__(self) -> None:
        self.name = "scripted"
        self._actions = {name: index for index, name in enumerate(MINETEST_TASKS[self.task].action_names)}
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self.random = np.random.default_rng(seed)
        self.frame: NDArray[np.int64] = np.zeros((_SIZE, _SIZE, 3), np.int64)
        self._plan = self.plan()

    def act(self, frame: _Frame) -> int:
        """Choose an action after seeing a frame.

        Raises:
            ConfigError: the frame is not square or its size is no multiple of 64.
        """
        if frame.shape[0] % _SIZE or frame.shape[0] != frame.shape[1]:
            raise ConfigError(f"the scripted policy needs frames of 64 x 64 pixels or a multiple, not {frame.shape}.")
        stride = frame.shape[0] // _SIZE
        self.frame = frame[::stride, ::stride].astype(np.int64)
        return self._actions[next(self._plan)]

    @abstractmethod
    def plan(self) -> Iterator[str]:
        """Yield names of actions, for ever."""

    # Perception

    def beacon(self) -> float | None:
        """Return the beacon's offset to the right of the middle, in pixels; None if it is not visible."""
        red, green, blue = (self.frame[..., channel] for channel in range(3))
        seen = ((red - green > 70) & (blue - green > 40)).sum(0)
        return None if seen.sum() < 3 else float((np.arange(_SIZE) * seen).sum() / seen.sum() - (_SIZE - 1) / 2)

    # Movements

    def walk(self, name: str = "forward") -> Iterator[str]:
        """Walk a step; afterwards ``self.stuck`` is whether the frame stayed the same."""
        before = self.frame
        yield name
        self.stuck = bool(np.abs(self.frame - before).mean() < 1.0)

    def turn(self, name: str, times: int) -> Iterator[str]:
        """Repeat a turn."""
        for _ in range(times):
            yield name

    def avoid(self) -> Iterator[str]:
        """Turn to a random side and walk on, to get around an obstacle."""
        side = str(self.random.choice(["turn_left", "turn_right"]))
        yield from self.turn(side, int(self.random.integers(3, 7)))
        for _ in range(int(self.random.integers(4, 9))):
            yield from self.walk("forward_jump")
            if self.stuck:
                return


class BeaconExplorer(_Explorer):
    """Looks around for the beacon and walks to it; jumps when it is stuck."""

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
            if abs(offset) > 14:  # half a turn of two native steps
                yield "turn_left" if offset < 0 else "turn_right"
                continue
            yield from self.walk("forward_jump" if stuck else "forward")
            stuck = stuck + 1 if self.stuck else max(0, stuck - 1)
            if stuck >= 4:
                stuck = 0
                yield from self.avoid()


class MazeExplorer(_Explorer):
    """Explores the maze depth first, cell by cell, with a map; walks to the beacon when it is visible."""

    task = "minetest_maze"

    def plan(self) -> Iterator[str]:
        """Go to an unvisited neighbour, or else back."""
        heading, cell, trail = 0, (0, 0), [(0, 0)]
        seen, walls = {cell}, set()
        while True:
            yield from self.approach()
            target = None
            for way in (heading, (heading + 3) % 4, (heading + 1) % 4, (heading + 2) % 4):
                there = _neighbour(cell, way)
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
                if len(trail) < 2:  # everything was visited: the map is wrong, start again
                    heading, cell, trail, seen, walls = 0, (0, 0), [(0, 0)], {(0, 0)}, set()
                    yield "forward"
                    continue
                trail.pop()
                target = trail[-1]
                back = next(way for way in range(4) if _neighbour(cell, way) == target)
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
        """Walk to the beacon while it is visible."""
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
        """Return whether there is floor 2.5 m ahead: it is grey, walls and sky are not."""
        ahead = self.frame[-4:, _SIZE // 2 - 4 : _SIZE // 2 + 4]
        return bool(((ahead.max(-1) - ahead.min(-1)) < 50).mean() > 0.5)


class TreeExplorer(_Explorer):
    """Walks to what is brown and upright, and digs there, ahead and above."""

    task = "minetest_treechop"

    def trunk(self) -> float | None:
        """Return the offset of the widest trunk to the right of the middle, in pixels; None if none is visible.

        The offset of a trunk that covers the middle is 0, however wide it is: nearby, it fills the view unevenly.
        """
        columns = np.convolve(self.brown(self.frame[14:34]).sum(0), np.ones(5), "same")
        best = int(columns.argmax())
        if columns[best] < 30:
            return None
        return 0.0 if columns[_SIZE // 2] > 0.5 * columns[best] else best - (_SIZE - 1) / 2

    @staticmethod
    def brown(pixels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pixels (..., 3) have the colour of bark."""
        red, green, blue = (pixels[..., channel] for channel in range(3))
        return (red >= green + 2) & (green >= blue + 1) & (red > 15) & (red < 120)

    def at_trunk(self) -> bool:
        """Return whether bark fills the middle of the view."""
        middle = self.frame[_SIZE * 3 // 8 : _SIZE * 5 // 8, _SIZE * 3 // 8 : _SIZE * 5 // 8]
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
            if abs(offset) > 14:  # half a turn of two native steps
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


def _neighbour(cell: tuple[int, int], way: int) -> tuple[int, int]:
    """Return the neighbour in a direction: 0 ahead, 1 right, 2 back, 3 left, as seen at the start."""
    x, z = ((0, 1), (1, 0), (0, -1), (-1, 0))[way]
    return cell[0] + x, cell[1] + z


def explorer(task: str) -> _Explorer:
    """Make the scripted policy of a task.

    Raises:
        UnknownNameError: the task has none.
    """
    explorers = {kind.task: kind for kind in (BeaconExplorer, MazeExplorer, TreeExplorer)}
    if task not in explorers:
        raise UnknownNameError("scripted policy for", task, explorers)
    return explorers[task]()

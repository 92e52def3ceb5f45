"""The world of the fake Malmo server: a tiny deterministic plain with trees and perhaps a diamond block.

Two and a half dimensions: columns of blocks on a grid, one metre wide, rendered by casting a ray per pixel column. It
has what tests need: turning moves the view, trees come nearer and block the way, holding attack at a trunk yields logs,
and the diamond block is the goal.

Directions follow Minecraft: x and z are the ground, yaw 0 looks along z and grows to the right, pitch grows downwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FakeMalmoWorld", "Keys", "Tick"]

SIZE = 64  # metres; the plain is periodic
EYE = 1.62  # metres above the ground
WALK, SPRINT, STRAFE = 0.216, 0.281, 0.216  # metres per tick
REACH = 4.0  # metres
CHOP_TICKS = 8  # to break a log
TRUNK = 4  # logs of a tree
GOAL_DISTANCE = 16.0  # metres from the start
FAR = 28.0  # metres, where fog hides everything
FIELD_OF_VIEW = 70.0  # degrees, vertically
JUMP = (0.42, 0.75, 1.0, 1.17, 1.25, 1.25, 1.17, 1.0, 0.75, 0.42)  # metres above the ground, tick by tick

_FINE, _COARSE = 160, 5  # frames wider than _FINE pixels are rendered in squares of _COARSE pixels, to be fast

_COLOURS: dict[str, tuple[int, int, int]] = {
    "log": (101, 76, 45),
    "leaves": (44, 110, 38),
    "diamond_block": (96, 219, 213),
}
_SKY = np.array([120, 170, 255], np.float32)
_FOG = np.array([190, 210, 235], np.float32)
_GRASS = np.array([[88, 140, 60], [72, 122, 50]], np.float32)


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The keys held in a tick; ``turn`` is (pitch, yaw) in degrees."""

    forward: bool = False
    back: bool = False
    left: bool = False
    right: bool = False
    jump: bool = False
    sprint: bool = False
    attack: bool = False
    turn: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """The result of a tick: logs collected, metres come nearer to the goal, whether the goal is reached."""

    logs: int = 0
    progress: float = 0.0
    goal_reached: bool = False


class FakeMalmoWorld:
    """A plain and a player.

    Args:
        seed: of trees and goal; the same seed gives the same world.
        width, height: of frames, in pixels.
        goal: whether there is a diamond block.
    """

    def __init__(self, seed: int, width: int, height: int, *, goal: bool) -> None:
        rng = np.random.default_rng(seed % 2**32)
        self.trees = np.where(rng.random((SIZE, SIZE)) < 0.04, TRUNK, 0).astype(np.int64)
        self.x = self.z = SIZE / 2 + 0.5
        middle = SIZE // 2
        self.trees[middle - 1 : middle + 2, middle - 1 : middle + 6] = 0
        self.trees[middle, middle + 6] = TRUNK  # one tree straight ahead: there is always something to see
        self.yaw, self.pitch = 0.0, 0.0
        self.goal: tuple[int, int] | None = None
        if goal:
            bearing = rng.uniform(0.6, 2 * math.pi - 0.6)  # not behind the tree straight ahead
            for way in np.arange(0.0, GOAL_DISTANCE + 1.0, 0.5):  # a straight and open one
                x, z = int(self.x - way * math.sin(bearing)), int(self.z + way * math.cos(bearing))
                self.trees[x - 1 : x + 2, z - 1 : z + 2] = 0
                if way == GOAL_DISTANCE:
                    self.goal = (x, z)
            self.trees[middle, middle + 6] = TRUNK
        self.inventory: dict[str, int] = {}
        self._grain = _COARSE if width > _FINE and width % _COARSE == height % _COARSE == 0 else 1
        self._width, self._height = width // self._grain, height // self._grain
        self._air, self._chopped = 0, 0

    def tick(self, keys: Keys) -> Tick:
        """Advance by a twentieth of a second."""
        self.pitch = min(90.0, max(-90.0, self.pitch + keys.turn[0]))
        self.yaw = (self.yaw + keys.turn[1] + 180.0) % 360.0 - 180.0
        before = self.distance
        self._walk(keys)
        self._air = self._air + 1 if 0 < self._air < len(JUMP) else int(keys.jump and self._air in (0, len(JUMP)))
        return Tick(logs=self._chop(keys.attack), progress=before - self.distance, goal_reached=self.goal_reached)

    @property
    def distance(self) -> float:
        """Metres to the centre of the goal; 0 without one."""
        if self.goal is None:
            return 0.0
        return math.hypot(self.goal[0] + 0.5 - self.x, self.goal[1] + 0.5 - self.z)

    @property
    def goal_reached(self) -> bool:
        """Whether the player stands at the diamond block."""
        return self.goal is not None and self.distance < 1.3

    @property
    def compass(self) -> float:
        """Degrees from the player's direction to the goal, positive to the right."""
        if self.goal is None:
            return 0.0
        bearing = math.degrees(math.atan2(-(self.goal[0] + 0.5 - self.x), self.goal[1] + 0.5 - self.z))
        return (bearing - self.yaw + 180.0) % 360.0 - 180.0

    def info(self) -> dict[str, Any]:
        """Return what Malmo sends in addition to the frame."""
        stacks = [{"type": item, "quantity": number, "metadata": 0} for item, number in self.inventory.items()]
        return {
            "inventory": stacks,
            "compassAngle": self.compass,
            "xpos": self.x,
            "ypos": 64.0,
            "zpos": self.z,
            "yaw": self.yaw,
            "pitch": self.pitch,
        }

    def render(self) -> NDArray[np.uint8]:
        """Return the player's view, (height, width, 3) uint8 RGB, top row first."""
        height, width = self._height, self._width
        focal = height / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2))
        horizon = height / 2 - math.tan(math.radians(max(-80.0, min(80.0, self.pitch)))) * focal
        eye = EYE + (JUMP[self._air - 1] if self._air else 0.0)
        aside = (np.arange(width) + 0.5 - width / 2) / focal  # of a ray that goes 1 m forward, in metres
        yaw = math.radians(self.yaw)
        ray_x = -math.sin(yaw) - aside * math.cos(yaw)
        ray_z = math.cos(yaw) - aside * math.sin(yaw)
        below = np.arange(height) + 0.5 - horizon  # pixels under the horizon
        frame = self._ground(below, eye * focal, ray_x, ray_z)
        self._blocks(frame, below, focal, eye, ray_x, ray_z)
        return frame.astype(np.uint8).repeat(self._grain, axis=0).repeat(self._grain, axis=1)

    # Motion

    def _walk(self, keys: Keys) -> None:
        ahead = (SPRINT if keys.sprint else WALK) * (int(keys.forward) - int(keys.back))
        aside = STRAFE * (int(keys.right) - int(keys.left))
        yaw = math.radians(self.yaw)
        east = -ahead * math.sin(yaw) - aside * math.cos(yaw)
        south = ahead * math.cos(yaw) - aside * math.sin(yaw)
        if not self._solid(self.x + east, self.z):  # one axis after the other, to slide along what is solid
            self.x += east
        if not self._solid(self.x, self.z + south):
            self.z += south

    def _solid(self, x: float, z: float) -> bool:
        """Whether a body 0.6 m wide would be inside a block."""
        cells = {(math.floor(x + dx), math.floor(z + dz)) for dx in (-0.3, 0.3) for dz in (-0.3, 0.3)}
        return any(self.trees[cell[0] % SIZE, cell[1] % SIZE] > 0 or cell == self.goal for cell in cells)

    def _chop(self, attack: bool) -> int:
        yaw = math.radians(self.yaw)
        steps = np.arange(0.25, REACH, 0.25)
        cells = zip(np.floor(self.x - steps * math.sin(yaw)), np.floor(self.z + steps * math.cos(yaw)), strict=True)
        target = next(
            ((int(x) % SIZE, int(z) % SIZE) for x, z in cells if self.trees[int(x) % SIZE, int(z) % SIZE]), None
        )
        if not attack or target is None:
            self._chopped = 0
            return 0
        self._chopped += 1
        if self._chopped < CHOP_TICKS:
            return 0
        self._chopped = 0
        self.trees[target] -= 1
        self.inventory["log"] = self.inventory.get("log", 0) + 1
        return 1

    # Rendering

    def _ground(
        self,
        below: NDArray[np.floating[Any]],
        scale: float,
        ray_x: NDArray[np.floating[Any]],
        ray_z: NDArray[np.floating[Any]],
    ) -> NDArray[np.float32]:
        """Return sky over a chequered meadow, (height, width, 3) float32."""
        frame = np.empty((len(below), len(ray_x), 3), np.float32)
        rise = np.clip(-below / len(below), 0.0, 1.0)[:, None, None].astype(np.float32)
        frame[:] = _FOG + (_SKY - _FOG) * np.minimum(1.0, 2 * rise)
        rows = np.flatnonzero(below > 0)
        if len(rows):
            forward = np.minimum(scale / below[rows], 4 * FAR)  # metres
            squares = np.floor(self.x + np.outer(forward, ray_x)) + np.floor(self.z + np.outer(forward, ray_z))
            shade = _GRASS[squares.astype(np.int64) & 1]
            frame[rows] = _add_fog(shade, forward[:, None])
        return frame

    def _blocks(
        self,
        frame: NDArray[np.float32],
        below: NDArray[np.floating[Any]],
        focal: float,
        eye: float,
        ray_x: NDArray[np.floating[Any]],
        ray_z: NDArray[np.floating[Any]],
    ) -> None:
        """Draw trees and goal, in place."""
        for cell, forward, tall, kind in self._hits(ray_x, ray_z):
            top, bottom = (eye - tall) * focal / forward, eye * focal / forward
            shown = (below[:, None] >= top) & (below[:, None] <= bottom)
            height = eye - below[:, None] * forward / focal  # metres above the ground
            bark = ((np.floor(height * 4) + cell) % 2)[..., None] * 18.0
            colour = np.array(_COLOURS["log" if kind == "trunk" else kind], np.float32) - bark
            painted = _add_fog(colour.astype(np.float32), np.broadcast_to(forward, shown.shape))
            frame[shown] = painted[shown]
            if kind == "trunk":
                crown = (below[:, None] >= top - 1.6 * focal / forward) & (below[:, None] < top)
                leaves = np.array(_COLOURS["leaves"], np.float32) - bark
                frame[crown] = _add_fog(leaves.astype(np.float32), np.broadcast_to(forward, crown.shape))[crown]

    def _hits(
        self, ray_x: NDArray[np.floating[Any]], ray_z: NDArray[np.floating[Any]]
    ) -> list[tuple[Any, Any, Any, str]]:
        """Cast every ray to its first block: cell, metres ahead, metres tall, kind; one entry per kind of block."""
        steps = np.arange(0.4, FAR, 0.2)[:, None]  # metres
        x = np.floor(self.x + steps * ray_x).astype(np.int64)
        z = np.floor(self.z + steps * ray_z).astype(np.int64)
        trunk = self.trees[x % SIZE, z % SIZE]
        diamond = (x == self.goal[0]) & (z == self.goal[1]) if self.goal is not None else np.zeros_like(trunk, bool)
        solid = (trunk > 0) | diamond
        first = solid.argmax(axis=0)
        column = np.arange(len(ray_x))
        hit = solid[first, column]
        forward = np.where(hit, steps[first, 0], 1e9)
        cell = (x + z)[first, column]
        is_goal = hit & diamond[first, column]
        tall = np.where(is_goal, 1.0, trunk[first, column])
        found: list[tuple[Any, Any, Any, str]] = []
        for kind, mine in (("trunk", hit & ~is_goal), ("diamond_block", is_goal)):
            if mine.any():
                found.append((cell, np.where(mine, forward, 1e9), np.where(mine, tall, -1e9), kind))
        return found


def _add_fog(colour: NDArray[np.float32], metres: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    share = np.minimum(1.0, metres / FAR)[..., None].astype(np.float32)
    foggy: NDArray[np.float32] = colour + (_FOG - colour) * share
    return foggy

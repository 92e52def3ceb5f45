"""Frames of real environments with the places of their objects, from the engines themselves, to check detectors on.

ViZDoom labels its pixels; MiniWorld is rendered with and without the box; Crafter lists its creatures. Minetest tells
the distance to the beacon, so three steps tell where it stands; what of it is hidden is read off a larger frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from dreamenv.data import ExplorerPolicy
from dreamenv.envs import make_real
from dreamenv.envs.minetest.explorers import BeaconExplorer
from dreamenv.envs.miniworld.opengl import call_in_render_thread
from dreamenv.envs.pictures import resize
from dreamenv.errors import UnknownNameError
from dreamenv.metrics.detectors import Detections

__all__ = ["LABELLED_TASKS", "LabelledFrames", "record_labelled"]

_SIZE = 64  # pixels, of the frames
_BACKGROUND = 0.2  # at most this share of the frames shows no object, and no more of those that do not are kept
_PER_EPISODE = 30  # frames at most, so that one place where the player got stuck does not decide
_DOOM_OBJECTS = {"take_cover": "DoomImpBall", "health_gathering": "Medikit", "my_way_home": "GreenArmor"}
_TANGENT = 0.96  # of half of Minetest's angle of view
_CREATURES = ("Zombie", "Skeleton", "Cow")

LABELLED_TASKS = (*_DOOM_OBJECTS, "miniworld_one_room", "minetest_navigate", "crafter")
"""Tasks whose objects the engines tell."""

Mask = npt.NDArray[np.bool_]
_Seen = tuple[int, npt.NDArray[np.uint8], Detections]


@dataclass(frozen=True, kw_only=True)
class LabelledFrames:
    """Frames and what they show.

    Attributes:
        frames: (n, 64, 64, 3) uint8.
        objects: of each frame (k, 4), as detectors give them (`dreamenv.metrics.detectors.Detections`); the area is
            that of the visible part.
    """

    frames: npt.NDArray[np.uint8]
    objects: list[Detections]


def record_labelled(task: str, count: int, *, seed: int = 0) -> LabelledFrames:
    """Play a task and keep the frames that show its objects, and some of the others.

    Args:
        task: one of `LABELLED_TASKS`.
        count: of frames.
        seed: of the first episode; each episode takes the next one.

    Raises:
        UnknownNameError: no such task.
        UnavailableError: the environment cannot run on this machine.
    """
    if task not in LABELLED_TASKS:
        raise UnknownNameError("task with labelled objects", task, LABELLED_TASKS)
    random = np.random.default_rng(seed)
    frames: list[npt.NDArray[np.uint8]] = []
    objects: list[Detections] = []
    kept: dict[int, int] = {}
    for episode, frame, seen in _play(task, seed, random):
        without = sum(not len(one) for one in objects)
        if kept.get(episode, 0) >= _PER_EPISODE:
            continue
        if len(seen) or (without <= _BACKGROUND * len(frames) + 3 and random.random() < _BACKGROUND):
            frames.append(frame)
            objects.append(seen)
            kept[episode] = kept.get(episode, 0) + 1
        if len(frames) == count:
            break
    return LabelledFrames(frames=np.stack(frames), objects=objects)


def _play(task: str, seed: int, random: np.random.Generator) -> Iterator[_Seen]:
    """Yield every frame of one episode after the other with the episode's seed and what it shows."""
    if task == "minetest_navigate":
        yield from _play_minetest(seed)
        return
    env: Any = make_real(task, size=_SIZE).unwrapped
    see = {"miniworld_one_room": _see_box, "crafter": _see_creatures}.get(task, _see_labels)
    env.label_objects = True  # read by ViZDoom alone
    try:
        while True:
            frame, _ = env.reset(seed=seed)
            act, done = _policy(env, seed, random), False
            while not done:
                yield seed, frame, see(env)
                frame, _, terminated, truncated, _ = env.step(act(frame))
                done = terminated or truncated
            seed += 1
    finally:
        env.close()


def _policy(env: Any, seed: int, random: np.random.Generator) -> Any:
    """Return a function from a frame to an action that gets around."""
    names = env.task.action_names
    if env.task.name == "crafter":
        explorer = ExplorerPolicy(names)
        explorer.reset(seed)
        return explorer.act
    held = [0]

    def act(_: npt.NDArray[np.uint8]) -> int:
        if random.random() < 0.3:
            held[0] = int(random.integers(len(names)))
        if "forward" in names and random.random() < 0.2:
            held[0] = names.index("forward")
        return held[0]

    return act


def _see_labels(env: Any) -> Detections:
    return _places(env.find_objects(_DOOM_OBJECTS[env.task.name]))


def _see_box(env: Any) -> Detections:
    def render() -> Mask:
        simulator = env._simulator
        shown, place = simulator.render_obs().astype(np.int64), simulator.box.pos
        simulator.box.pos = np.array([1e4, -1e4, 1e4])  # far out of sight
        hidden = simulator.render_obs()
        simulator.box.pos = place
        different: Mask = (shown != hidden).any(-1)
        return different

    return _places([call_in_render_thread(render)])


def _see_creatures(env: Any) -> Detections:
    simulator, cell = env._simulator, _SIZE // 9
    found = []
    for thing in simulator._world.objects:
        column, row = thing.pos - simulator._player.pos + np.array([4, 3])
        name = type(thing).__name__
        if name in _CREATURES and 0 <= column < 9 and 0 <= row < 7:
            middle = (cell - 1) / 2
            found.append((row * cell + middle, column * cell + middle, cell * cell, _CREATURES.index(name)))
    return np.asarray(found, np.float64).reshape(-1, 4)


def _play_minetest(seed: int) -> Iterator[_Seen]:
    """Play whole episodes first: only then it is known where the beacon stood."""
    env = make_real("minetest_navigate", size=4 * _SIZE)
    try:
        while True:
            policy, done = BeaconExplorer(), False
            policy.reset(seed)
            frame, info = env.reset(seed=seed)
            frames, infos = [frame], [info]
            while not done:
                frame, _, terminated, truncated, info = env.step(policy.act(frame))
                frames.append(frame)
                infos.append(info)
                done = terminated or truncated
            goal = _find_goal(infos)
            for frame, info in zip(frames, infos, strict=True):
                yield seed, resize(frame, _SIZE, _SIZE), _places([_beacon(frame, info, goal)])
            seed += 1
    finally:
        env.close()


def _find_goal(infos: list[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """Return (x, z) of the beacon from the distances to it along an episode."""
    places = np.asarray([(info["position"][0], info["position"][2]) for info in infos])
    distances = np.asarray([info["distance"] for info in infos])

    def misfit(goal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.hypot(*(places - goal).T) - distances)

    angles = np.arange(0, 2 * np.pi, np.pi / 4)
    starts = places[0] + distances[0] * np.column_stack((np.cos(angles), np.sin(angles)))
    best = min((least_squares(misfit, start) for start in starts), key=lambda fit: float(fit.cost))
    return np.asarray(best.x)


def _beacon(frame: npt.NDArray[np.uint8], info: dict[str, Any], goal: npt.NDArray[np.float64]) -> Mask:
    """Return the magenta pixels of a frame in the columns that the beacon fills, seen from where the player stands."""
    x, _, z = info["position"]
    yaw, (east, north) = np.radians(info["yaw"]), goal - (x, z)
    ahead, right = north * np.cos(yaw) - east * np.sin(yaw), east * np.cos(yaw) + north * np.sin(yaw)
    red, green, blue = np.moveaxis(frame.astype(np.int64), -1, 0)
    magenta: Mask = (red > 1.5 * green + 60) & (blue > 1.3 * green + 30)
    half = 2.2  # metres from the middle: three nodes across, seen over the corner
    if ahead < half + 0.1:  # next to it or behind: too near to say which columns
        return magenta
    middle, reach = right / ahead, half / (ahead - half) + 0.05
    columns = np.linspace(-1, 1, frame.shape[1]) * _TANGENT
    inside: Mask = np.abs(columns - middle) < reach
    return magenta & inside


def _places(masks: list[Mask]) -> Detections:
    """Return the middles and areas of native masks, in pixels of the small frame."""
    found = []
    for mask in masks:
        if mask.any():
            rows, columns = np.nonzero(mask)
            down, across = _SIZE / mask.shape[0], _SIZE / mask.shape[1]
            middle = (rows.mean() + 0.5) * down - 0.5, (columns.mean() + 0.5) * across - 0.5
            found.append((*middle, mask.sum() * down * across, 0))
    return np.asarray(found, np.float64).reshape(-1, 4)

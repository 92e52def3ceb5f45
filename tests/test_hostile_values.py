"""Any value in any file of ours, whether a checksum covers it or not: what is read works, or is refused by name."""

from __future__ import annotations

import copy
import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_world
from test_evaluation import make_policy
from toy import toy_dataset

from dreamenv.agents import SavedPolicy, evaluate
from dreamenv.data import EpisodeDataset, FrameStore, Starts
from dreamenv.dream import DreamVectorEnv
from dreamenv.errors import DreamenvError
from dreamenv.presets import make_config
from dreamenv.storage import seal
from dreamenv.training.checkpoint import Checkpoint, Checkpoints
from dreamenv.world import World
from dreamenv.world_model import WorldModelSpec

SECONDS, MEMORY = 10, 400_000  # that one file may take; KiB
TRIED = 120  # of each kind


def nested(depth: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


VALUES = (
    0, -1, 1, 10**6, 2**31 - 1, 2**31, 2**63, 10**30, 10**400, 0.5, 1e-300, 1e308, -1e308, float("nan"), float("inf"),
    None, True, "", "x", "\0", [], {}, [1], {"kind": "ddim"}, nested(300, list), nested(300, dict),
)  # fmt: skip


def places(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where every value is, and those within it; of lists the first two."""
    if path:
        yield path
    entries = values.items() if isinstance(values, dict) else enumerate(values[:2]) if isinstance(values, list) else ()
    for key, value in entries:
        yield from places(value, (*path, key))


def replaced(values: Any, path: tuple[Any, ...], new: Any) -> Any:
    values = inner = copy.deepcopy(values)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return values


def small_world(folder: Path, backbone: str) -> World:
    config = make_config(backbone, "tiny")
    space = gym.spaces.Dict({"a": gym.spaces.Discrete(3), "b": gym.spaces.Box(-1, 1, (2,), np.float32)})
    spec = WorldModelSpec(frame_shape=(3, 32, 32), action_space=space, frame_rate=10.0)
    frames, actions = np.zeros((1, 2, 32, 32, 3), np.uint8), np.zeros((1, 1, 3), np.float32)
    starts = Starts(
        first_frames=frames[:, 0], actions=actions, frames=frames[:, 1:], lengths=np.ones(1, np.int64),
        at_episode_start=np.ones(1, np.bool_),
    )  # fmt: skip
    return World(config.build(spec), config, starts, make_world().provenance, {"steps": 3}, {"psnr": 20.0}).save(folder)


def dream(folder: Path) -> None:
    env = DreamVectorEnv(World.load(folder), 2)
    env.reset(seed=0)
    env.step(env.action_space.sample())


def play(folder: Path) -> None:
    world = make_world()
    evaluate(SavedPolicy.load(folder), world, episodes=1, horizon=2)


def learn_from(folder: Path) -> None:
    dataset = EpisodeDataset.open(folder)
    list(dataset)
    FrameStore(dataset).statistics()


def checkpoint(folder: Path) -> Path:
    state = {"stage": 1, "seconds": 0.5, "identity": {"data": "x"}}
    return Checkpoints(folder).save(Checkpoint(step=5, tensors={"model": {"weight": torch.ones(3)}}, state=state))


KINDS = {
    "rssm": (lambda path: small_world(path / "w", "rssm"), "world.json", dream, None),
    "denoising": (lambda path: small_world(path / "w", "denoising"), "world.json", dream, None),
    "policy": (lambda path: make_policy().save(path / "p"), "policy.json", play, None),
    "dataset": (lambda path: toy_dataset(path / "d", 2).path, "data/metadata.json", learn_from, "dreamenv"),
    "episode": (lambda path: toy_dataset(path / "d", 2).path, "data/0/metadata.json", learn_from, None),
    "checkpoint": (checkpoint, "state.json", lambda path: Checkpoints(path.parent).latest(), None),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("consistent", [True, False], ids=["resealed", "edited"])
def test_a_value_that_cannot_be_is_refused_and_any_other_works(tmp_path, kind, consistent):
    make, name, use, inner = KINDS[kind]
    folder = make(tmp_path)
    use(folder)
    whole = json.loads((folder / name).read_text())
    sealed = whole[inner] if inner else whole
    content = {key: value for key, value in sealed.items() if key != "checksum"}
    every = [(path, value) for path in places(content) for value in VALUES]
    chosen = np.random.default_rng(0).permutation(len(every))[: TRIED if consistent else 20]
    outcomes = {"works": 0, "refused": 0}
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a hang ends the process
    for path, value in (every[i] for i in chosen):
        changed = replaced(content, path, value)
        same = json.dumps(changed) == json.dumps(content)
        changed = seal(changed) if consistent else {**changed, "checksum": sealed["checksum"]}
        (folder / name).write_text(json.dumps({**whole, inner: changed} if inner else changed))
        before = resource.getrusage(resource.RUSAGE_SELF)
        message = ""
        signal.alarm(120)
        try:
            use(folder)
            outcomes["works"] += 1
            assert consistent or same, path
        except DreamenvError as error:
            outcomes["refused"] += 1
            message = str(error)
        finally:
            signal.alarm(0)
        assert "\n" not in message, path
        assert len(message) < 2000, path
        after = resource.getrusage(resource.RUSAGE_SELF)
        assert after.ru_utime - before.ru_utime < SECONDS, (path, value)
        assert after.ru_maxrss - before.ru_maxrss < MEMORY, (path, value)
    assert outcomes["refused"] > len(chosen) // 4


def test_starts_without_steps_are_read_back(tmp_path):
    """A world whose dreams start from single frames."""
    frames = np.zeros((2, 1, 8, 8, 3), np.uint8)
    starts = Starts(
        first_frames=frames[:, 0], actions=np.zeros((2, 0), np.int64), frames=frames[:, 1:],
        lengths=np.zeros(2, np.int64), at_episode_start=np.ones(2, np.bool_),
    )  # fmt: skip
    starts.save(tmp_path)
    read = Starts.load(tmp_path)
    assert read.frames.shape == (2, 0, 8, 8, 3)
    spec = WorldModelSpec(frame_shape=(3, 8, 8), action_space=gym.spaces.Discrete(3), frame_rate=10.0)
    read.check_fits(spec.frame_shape, spec.action_layout)

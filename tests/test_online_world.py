"""A world that learns while a policy acts: bounded steps, a bounded memory, snapshots that stay as they are."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy import SIZE, ToyEnv, play, random_episode, toy_dataset

from dreamenv.action_layout import ActionLayout
from dreamenv.backbones.grid_rssm import presets as grid_rssm
from dreamenv.backbones.rssm import presets as rssm
from dreamenv.backbones.tokens import presets as token_world
from dreamenv.data.episode import Episode
from dreamenv.data.memory import StepMemory
from dreamenv.data.starts import Starts
from dreamenv.data.store import FrameStore
from dreamenv.data.windows import WindowSampler
from dreamenv.errors import (
    ActionError,
    ConfigError,
    DatasetError,
    EpisodeError,
    FrameError,
    InputError,
    ResetNeededError,
)
from dreamenv.testing import SPEC
from dreamenv.training import AdaptConfig, OnlineConfig, OnlineWorld
from dreamenv.world import World

ADAPT = AdaptConfig(batch_size=2, dreamed_steps=20, dream_horizon=4, device="cpu", progress=False)
QUICK = OnlineConfig(every=4, gradient_steps=2, warm_up=6, memory=64, adapt=ADAPT)
LAYOUT = ActionLayout(gym.spaces.Discrete(3))


@pytest.fixture(scope="module", params=[rssm.tiny, grid_rssm.tiny, token_world.tiny], ids=lambda make: make.__module__)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return _world(request.param(), tmp_path_factory)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> World:
    return _world(rssm.tiny(), tmp_path_factory)


def _world(config: Any, tmp_path_factory: pytest.TempPathFactory) -> World:
    dataset = toy_dataset(tmp_path_factory.mktemp("toy") / "data", 4)
    torch.manual_seed(0)
    starts = Starts.from_dataset(dataset, count=8, context=4, seed=0)
    return World(config.build(SPEC).eval(), config, starts, dataset.provenance)


def feed(online: OnlineWorld, episode: Episode) -> list[int]:
    """Let an episode happen step by step; return the gradient steps of each."""
    online.reset(episode.frames[0])
    taken = []
    for i, action in enumerate(episode.actions):
        last = i + 1 == len(episode)
        ended, cut = last and episode.terminated, last and episode.truncated
        taken.append(online.step(action, episode.frames[i + 1], float(episode.rewards[i]), ended, cut))
    return taken


def test_gradient_steps_come_when_they_are_due_and_never_more_of_them(world: World) -> None:
    online, before = OnlineWorld(world, QUICK), world.content_hash()
    taken = feed(online, random_episode(15))
    assert [i + 1 for i, steps in enumerate(taken) if steps] == [8, 12]
    assert set(taken) == {0, 2}
    assert online.append(random_episode(9)) == 2 * 3  # after steps 16, 20 and 24
    assert (online.real_steps, online.gradient_steps) == (24, 10)
    assert world.content_hash() == before
    record = online.world.record
    assert record["optimizer_steps"] == 10
    assert record["online"]["real_steps"] == 24
    assert record["adapted_from"]["content_hash"] == before


def test_every_stage_learns_in_its_share(world: World) -> None:
    online = OnlineWorld(world, dataclasses.replace(QUICK, every=1, warm_up=1, gradient_steps=1))
    online.append(random_episode(24))
    steps = online.world.record["steps"]
    shares = {stage.name: stage.steps for stage in world.model.stages()}
    assert sum(steps.values()) == 24
    for name, share in shares.items():
        assert abs(steps[name] - 24 * share / sum(shares.values())) <= 1


def test_steps_and_whole_episodes_teach_the_same_when_no_update_falls_between(small: World) -> None:
    config = dataclasses.replace(QUICK, warm_up=12, every=12)
    stepped, whole = OnlineWorld(small, config), OnlineWorld(small, config)
    feed(stepped, random_episode(12))
    whole.append(random_episode(12))
    torch.manual_seed(3)  # of no consequence
    assert stepped.gradient_steps == whole.gradient_steps == 2
    assert stepped.world.content_hash() == whole.world.content_hash()


def test_a_snapshot_is_an_ordinary_world_that_learns_no_more(world: World, tmp_path: Any) -> None:
    online = OnlineWorld(world, QUICK)
    begun = online.world  # before any real step
    for name, value in world.model.state_dict().items():
        assert torch.equal(begun.model.state_dict()[name], value)
    online.append(random_episode(16, seed=1))
    snapshot = online.world
    content = snapshot.content_hash()
    seen = {frame.tobytes() for frame in random_episode(16, seed=1).frames}
    assert {frame.tobytes() for frame in snapshot.starts.first_frames} <= seen
    online.append(random_episode(16, seed=2))
    assert snapshot.content_hash() == content != online.world.content_hash()
    snapshot.save(tmp_path / "world")
    assert World.load(tmp_path / "world").content_hash() == content


def test_steps_that_the_world_does_not_know_are_refused_and_not_remembered(small: World) -> None:
    online, frame = OnlineWorld(small, QUICK), ToyEnv().reset(seed=0)[0]
    with pytest.raises(ResetNeededError):
        online.step(0, frame, 0.0, False)
    with pytest.raises(FrameError, match="uint8"):
        online.reset(frame.astype(np.float32))
    online.reset(frame)
    for arguments, error in (
        ((3, frame, 0.0, False), ActionError),
        ((0.5, frame, 0.0, False), ActionError),
        ((0, frame[:8], 0.0, False), FrameError),
        ((0, frame, float("nan"), False), InputError),
        ((0, frame, "1", False), InputError),
        ((0, frame, 0.0, 1), InputError),
    ):
        with pytest.raises(error):
            online.step(*arguments)
    assert online.real_steps == 0
    online.step(0, frame, 0.0, True)
    with pytest.raises(ResetNeededError):
        online.step(0, frame, 0.0, False)
    with pytest.raises(EpisodeError, match="frames"):
        online.append(random_episode(3, size=8))
    with pytest.raises(EpisodeError):
        online.append("episode")  # type: ignore[arg-type]
    assert online.real_steps == 1


@pytest.mark.parametrize("settings", [{"every": 0}, {"gradient_steps": 0}, {"warm_up": 0}, {"memory": 63}], ids=str)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        OnlineConfig(**settings)


# The memory


def test_the_memory_keeps_the_latest_steps_whole_and_in_order() -> None:
    memory, happened = StepMemory((SIZE, SIZE, 3), LAYOUT, 24), []
    for seed, steps in enumerate((7, 3, 12, 1, 30, 5)):
        episode = random_episode(steps, seed=seed, terminated=seed % 2 == 0)
        happened.append(episode)
        memory.append(episode)
        assert len(memory.frames) <= 24
        rows = {
            frame.tobytes(): (number, i) for number, one in enumerate(happened) for i, frame in enumerate(one.frames)
        }
        for first, length in zip(memory.starts, memory.lengths, strict=True):
            number, begin = rows[memory.frames[first].tobytes()]
            one = happened[number]
            steps_kept = slice(begin, begin + length)
            kept = slice(first + 1, first + 1 + length)
            assert (
                memory.frames[first : first + 1 + length].tobytes() == one.frames[begin : begin + length + 1].tobytes()
            )
            assert np.array_equal(memory.actions[kept], one.actions[steps_kept])
            assert np.array_equal(memory.rewards[kept], one.rewards[steps_kept])
            ends = memory.terminated[kept]
            assert not ends[:-1].any()
            assert ends[-1] == (one.terminated and begin + length == len(one))
        last = happened[-1].frames[-1].tobytes()
        assert memory.frames[-1].tobytes() == last


def test_windows_of_a_memory_are_those_of_the_recording_that_it_holds(tmp_path: Any) -> None:
    dataset = toy_dataset(tmp_path / "data", 3)
    memory = StepMemory((SIZE, SIZE, 3), LAYOUT, 200)
    for seed in range(3):
        memory.append(play(seed))
    for crop in (True, False):
        ours, theirs = (
            WindowSampler(store, batch_size=8, sequence_length=5, seed=1, crop_at_episode_ends=crop).batch(2)
            for store in (memory, FrameStore(dataset))
        )
        for name in ("first_frame", "frames", "actions", "rewards", "terminated", "weight"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_segments_to_start_from_end_where_an_episode_goes_on() -> None:
    memory = StepMemory((SIZE, SIZE, 3), LAYOUT, 100)
    with pytest.raises(DatasetError, match="nothing has happened"):
        memory.segments(4, 4, 0)
    episode = random_episode(6, terminated=True)
    memory.append(episode)
    starts = memory.segments(100, 4, 0)
    assert sorted(starts.lengths) == [0, 1, 2, 3, 4, 4]
    starts.check_fits((3, SIZE, SIZE), LAYOUT)
    last = episode.frames[-1].tobytes()
    assert last not in {frame.tobytes() for frame in starts.frames.reshape(-1, SIZE, SIZE, 3)}
    for row in range(len(starts)):
        clip = np.concatenate((starts.first_frames[row : row + 1], starts.frames[row, : starts.lengths[row]]))
        begin = int(clip[0, 0, 0, 0])  # frame i holds i in its first pixel
        assert np.array_equal(clip, episode.frames[begin : begin + len(clip)])
        assert np.array_equal(
            starts.actions[row, : starts.lengths[row]], episode.actions[begin : begin + len(clip) - 1]
        )
        assert starts.at_episode_start[row] == (begin == 0)


def test_the_example_learns_while_it_acts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = Path(__file__).resolve().parents[1] / "examples"
    monkeypatch.syspath_prepend(str(examples))
    example = importlib.import_module("adaptation")
    example.main(tmp_path, steps=150, train_steps=2, real_steps=80)
    shown = capsys.readouterr().out
    assert "before: " in shown
    assert "after 80 real and 3 gradient steps" in shown  # after steps 64, 72 and 80
    assert World.load(tmp_path / "adapted").record["online"] == {"real_steps": 80, "every": 8}
    assert len((examples / "adaptation.py").read_text().splitlines()) <= 60

"""What a recording may hold is checked alike wherever it comes in, and what is taken goes all the way through.

Workers import this module: what they do not need is imported in the tests.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from toy import ToyEnv, random_episode

from dreamenv.agents.observations import FrameStack, ObservationConfig
from dreamenv.data import Episode, EpisodeDataset, Provenance, RandomPolicy, collect, from_minari
from dreamenv.errors import ActionError, EpisodeError, FrameError

SPACE = gym.spaces.Discrete(3)
random_policy = partial(RandomPolicy, SPACE)


class StrangeEnv(ToyEnv):
    """Shows frames of so many channels, and then, from a step on, what its spaces do not allow."""

    def __init__(self, *, channels: int = 3, step: int = 3, frame: Any = None, reward: Any = 0.0) -> None:
        super().__init__(lethal=False)
        self.observation_space = gym.spaces.Box(0, 255, (16, 16, channels), np.uint8)
        self.channels, self.strange, self.frame, self.reward, self.steps = channels, step, frame, reward, 0

    def reset(self, **kwargs: Any) -> Any:
        self.steps = 0
        frame, info = super().reset(**kwargs)
        return self._shown(frame), info

    def step(self, action: Any) -> Any:
        frame, reward, terminated, truncated, info = super().step(action)
        self.steps += 1
        strange = self.steps >= self.strange
        return self._shown(frame), self.reward if strange else reward, terminated, truncated, info

    def _shown(self, frame: np.ndarray) -> Any:
        if self.frame is not None and self.steps >= self.strange:
            return self.frame
        return np.repeat(frame[..., :1], self.channels, axis=-1)


class WildPolicy(RandomPolicy):
    """Leaves the action space in its fifth step."""

    def __init__(self, space: gym.Space[Any], action: Any) -> None:
        super().__init__(space)
        self.action, self.steps = action, 0

    def act(self, frame: np.ndarray) -> Any:
        self.steps += 1
        return self.action if self.steps == 5 else super().act(frame)


def create(path: Path, channels: int) -> EpisodeDataset:
    return EpisodeDataset.create(path, Provenance(environment_id="x-v0", frame_size=16), SPACE, (16, 16, channels))


def episode(channels: int, seed: int = 0, steps: int = 30) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        frames=rng.integers(0, 256, (steps + 1, 16, 16, channels), dtype=np.uint8),
        actions=rng.integers(0, 3, steps), rewards=np.zeros(steps), terminated=True, truncated=False,
    )  # fmt: skip


def from_gymnasium(path: Path, channels: int, rewards: Any = None, action: int = 0) -> EpisodeDataset:
    """Copy a dataset of two episodes that Minari made."""
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    buffers = []
    for seed in range(2):
        e = episode(channels, seed)
        e.actions[4] = action if seed else 0
        buffers.append(
            EpisodeBuffer(
                id=None, seed=seed, options=None, observations=e.frames, actions=e.actions,
                rewards=list(rewards) if rewards is not None and seed else [0.0] * len(e),
                terminations=[*[False] * (len(e) - 1), True], truncations=[False] * len(e), infos={},
            )
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for authors
        theirs = minari.create_dataset_from_buffers(
            f"toy/doors{path.name}-v0", buffers, action_space=gym.spaces.Discrete(9), data_format="arrow",
            observation_space=gym.spaces.Box(0, 255, (16, 16, channels), np.uint8), jpeg_encoding=False,
        )  # fmt: skip
    try:
        return from_minari(theirs, path)
    finally:
        minari.delete_dataset(theirs.id)


DOORS = {
    "create": create,
    "collect": lambda path, channels: collect(
        partial(StrangeEnv, channels=channels), random_policy, path, episodes=1, num_workers=0, progress=False
    ),
    "minari": from_gymnasium,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("channels", [2, 4, 5])
def test_frames_that_are_neither_grey_nor_rgb_are_refused_at_every_door(tmp_path, door, channels):
    with pytest.raises(FrameError, match=rf"{channels} channels cannot be recorded.*\[\.\.\., :3\]"):
        DOORS[door](tmp_path / "d", channels)
    assert not (tmp_path / "d" / "data").exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"channels": 2}, FrameError, "2 channels"),
        ({"reward": float("nan")}, EpisodeError, r"episode 0 \(seed \d+\), after 30 steps: .*reward of step 2 is nan"),
    ],
)
def test_an_error_comes_out_of_a_worker_as_it_is(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        collect(
            partial(StrangeEnv, **settings), random_policy, tmp_path / "d", episodes=1, num_workers=1, progress=False
        )


def test_grey_frames_go_all_the_way(tmp_path):
    """Through training with its videos, the dream, its pictures, and what a policy sees, in grey and in "colour"."""
    from dreamenv.dream import DreamEnv
    from dreamenv.presets import make_config
    from dreamenv.training import TrainConfig, train
    from dreamenv.training.video import gif_bytes, side_by_side, strip, write_mp4

    data = create(tmp_path / "data", 1)
    for seed in range(4):
        data.append(episode(1, seed))
    config = TrainConfig(
        steps={"joint": 2, "dynamics": 2}, video_every=1, eval_every=1, eval_horizon=4, eval_windows=2, num_threads=1,
        progress=False, device="cpu",
    )  # fmt: skip
    world = train(config, make_config("rssm", "tiny"), data, tmp_path / "run")
    env = DreamEnv(world, render_mode="rgb_array")
    frame, _ = env.reset(seed=0)
    assert frame.shape == (16, 16, 1)
    frames = np.stack([env.step(1)[0] for _ in range(3)])
    assert env.render().shape[-1] == 3
    for grey in (True, False):
        stack = FrameStack(ObservationConfig(kind="frame", stack=2, grey=grey), 1, (16, 16, 1))
        stack.reset(np.array([0]), frames[:1])
        assert stack.push(frames[1:2]).shape == (1, 2, 16, 16)
    assert gif_bytes(side_by_side(frames[None], frames[None]), 10.0)
    assert strip([frames], [0, 2]).shape[-1] == 1
    assert write_mp4(tmp_path / "film.mp4", frames, 10.0).exists()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((16, 16, 3), np.float32), "float32"),
        (np.zeros((8, 16, 3), np.uint8), r"\(8, 16, 3\)"),
        (np.zeros((16, 16), np.uint8), r"\(16, 16\)"),
        (None, None),
    ],
)
def test_a_frame_that_the_space_does_not_allow_ends_a_recording(tmp_path, frame, message):
    if frame is None:  # neither do all frames of an episode agree with each other
        frame, message = [[1, 2], [3]], "no array"
    with pytest.raises(FrameError, match=rf"episode 0 \(seed \d+\), after 2 steps: .*{message}"):
        collect(
            partial(StrangeEnv, frame=frame), random_policy, tmp_path / "d", episodes=1, num_workers=0,
            progress=False,
        )  # fmt: skip
    assert len(EpisodeDataset.open(tmp_path / "d")) == 0


@pytest.mark.parametrize("action", [3, -1, 1.5, np.array([1]), "left"])
def test_an_action_outside_the_space_ends_a_recording_before_it_is_taken(tmp_path, action):
    with pytest.raises(ActionError, match=r"episode 0 \(seed \d+\), after 4 steps"):
        collect(ToyEnv, partial(WildPolicy, SPACE, action), tmp_path / "d", episodes=1, num_workers=0, progress=False)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), 1e39, "good", None])
def test_a_reward_that_is_no_number_ends_a_recording_and_names_the_episode(tmp_path, reward):
    with pytest.raises(EpisodeError, match=r"episode 0 \(seed \d+\), after \d+ steps: .*reward"):
        collect(
            partial(StrangeEnv, reward=reward), random_policy, tmp_path / "d", episodes=2, num_workers=0,
            progress=False,
        )  # fmt: skip


def test_an_action_that_a_policy_changes_afterwards_stays_as_it_was_taken(tmp_path):
    class Reusing(RandomPolicy):
        """Writes every action into the same array."""

        array = np.zeros((), np.int64)

        def act(self, frame: np.ndarray) -> Any:
            self.array[...] = super().act(frame)
            return self.array

    def recorded(policy: type[RandomPolicy], name: str) -> str:
        return collect(
            ToyEnv, partial(policy, SPACE), tmp_path / name, episodes=2, num_workers=0, progress=False
        ).content_hash()

    assert recorded(Reusing, "reusing") == recorded(RandomPolicy, "fresh")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rewards": [np.nan] * 30}, EpisodeError, "episode 1: the reward of step 0 is nan"),
        ({"rewards": [np.inf] * 30}, EpisodeError, "episode 1: the reward of step 0 is inf"),
    ],
)
def test_an_episode_of_minari_that_cannot_be_used_is_named_and_nothing_is_left(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        from_gymnasium(tmp_path / "d", 3, **changes)
    assert list(tmp_path.iterdir()) == []
    assert len(from_gymnasium(tmp_path / "d", 3, action=7)) == 2


def test_append_refuses_what_the_others_refuse(tmp_path):
    data = create(tmp_path / "d", 3)
    with pytest.raises(EpisodeError, match=r"\(16, 16, 4\).*\(16, 16, 3\)"):
        data.append(episode(4))
    wild = random_episode(4)
    wild.actions[2] = 3
    with pytest.raises(ActionError, match="step 2 is 3"):
        data.append(wild)
    assert len(data) == 0

"""Real environments with the latent observations of a world."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import Drifting, make_provenance, make_world
from gymnasium.utils.env_checker import check_env

from dreamenv.dream import DreamEnv, LatentFilter, LatentObservation
from dreamenv.errors import (
    ActionError,
    ConfigError,
    FrameError,
    InputError,
    ResetNeededError,
    SeedError,
    WorldMismatchError,
)
from dreamenv.frames import frames_to_model


class Brightening(gym.Env):
    """A real environment: the screen's brightness grows by the action."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)

    def __init__(self, **changes) -> None:
        self.action_space = gym.spaces.Discrete(3)
        self.provenance = make_provenance(**changes)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level = int(self.np_random.integers(100))
        return np.full((16, 16, 3), self.level, np.uint8), {}

    def step(self, action):
        self.level += int(action)
        return np.full((16, 16, 3), self.level, np.uint8), float(action), False, False, {}


def frames(*levels: int) -> np.ndarray:
    return np.stack([np.full((16, 16, 3), level, np.uint8) for level in levels])


def test_the_wrapper_returns_the_models_latents_of_the_frames():
    world = make_world()
    env = LatentObservation(Brightening(), world)
    latent, _ = env.reset(seed=3)
    level = env.unwrapped.level
    assert latent in env.observation_space
    np.testing.assert_allclose(latent, [level / 255, 0], rtol=1e-6)
    for i in range(1, 6):
        latent, reward, *_ = env.step(2)
        np.testing.assert_allclose(latent, [(level + 2 * i) / 255, i], rtol=1e-6)
        assert reward == 2


@pytest.mark.parametrize("chunk", [1, 3])
def test_reality_and_dream_have_the_same_latents_for_the_same_frames(chunk):
    world = make_world(noise=0.0, chunk=chunk)
    dream = DreamEnv(world, observation="latent", render_mode="rgb_array", episode_starts_only=True)
    follower, latent = LatentFilter(world), dream.reset(seed=0)[0]
    np.testing.assert_allclose(follower.reset([0], dream.render()[None], [0])[0], latent, atol=1e-5)
    for action in (1, 1, 2, 0, 0, 0, 0):
        latent = dream.step(action)[0]
        np.testing.assert_allclose(follower.step([action], dream.render()[None])[0], latent, atol=1 / 255)


def test_reality_and_dream_have_the_same_space():
    world = make_world()
    real, dream = LatentObservation(Brightening(), world), DreamEnv(world, observation="latent")
    assert real.observation_space == dream.observation_space
    assert real.action_space == dream.action_space


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")  # said of every wrapper
def test_the_wrapped_environment_passes_gymnasiums_check():
    check_env(LatentObservation(Brightening(), make_world()), skip_render_check=True)


def test_the_same_seed_gives_the_same_latents(monkeypatch):
    drawn = []
    start = Drifting.start

    def noting(self, first_frame, seed):
        drawn.append(int(seed[0]))
        return start(self, first_frame, seed)

    monkeypatch.setattr(Drifting, "start", noting)
    env = LatentObservation(Brightening(), make_world())
    for _ in range(2):
        env.reset(seed=5)
        env.reset()
        env.reset()
    assert drawn[:3] == drawn[3:]
    assert len(set(drawn)) == 3


def test_rows_are_filtered_apart():
    world = make_world()
    together, alone = LatentFilter(world, 3), LatentFilter(world)
    together.reset([0, 1, 2], frames(10, 20, 30), [1, 2, 3])
    alone.reset([0], frames(20), [2])
    np.testing.assert_array_equal(together.step([0, 1, 2], frames(11, 21, 31))[1], alone.step([1], frames(21))[0])
    started = together.reset([0, 2], frames(50, 60), [4, 5])
    np.testing.assert_allclose(started[:, 0], [50 / 255, 60 / 255], rtol=1e-6)
    np.testing.assert_allclose(together.step([0, 0, 0], frames(51, 22, 61))[:, 1], [1, 2, 1])


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_filter_agrees_with_the_model_itself(chunk):
    world = make_world(chunk=chunk)
    follower = LatentFilter(world, 2)
    follower.reset([0, 1], frames(10, 20), [7, 8])
    latents = follower.step([1, 2], frames(30, 40))
    state = world.model.start(frames_to_model(torch.from_numpy(frames(10, 20))), torch.tensor([7, 8]))
    state = world.model.observe(
        state, torch.tensor([[1], [2]]), frames_to_model(torch.from_numpy(frames(30, 40)))[:, None]
    )
    np.testing.assert_array_equal(latents, world.model.embed(state).numpy())


@pytest.mark.parametrize("changes", [{"frame_skip": 2}, {"action_table": [0, 2, 1]}, {"resize": "nearest"}])
def test_an_environment_set_up_otherwise_than_the_world_is_refused(changes):
    with pytest.raises(WorldMismatchError, match=next(iter(changes))):
        LatentObservation(Brightening(**changes), make_world())


def test_an_environment_of_other_frames_or_actions_is_refused():
    with pytest.raises(WorldMismatchError, match=r"\(16, 16, 3\) and the world's \(32, 32, 3\)"):
        LatentObservation(Brightening(size=32), make_world(size=32))
    with pytest.raises(WorldMismatchError, match="Discrete"):
        LatentObservation(Brightening(), make_world(space=gym.spaces.Discrete(5)))


def test_a_world_without_embedding_is_refused(monkeypatch):
    monkeypatch.delattr(Drifting, "embed")
    with pytest.raises(ConfigError, match="no embedding"):
        LatentObservation(Brightening(), make_world())


def test_inputs_that_do_not_fit_the_encoder_are_refused():
    follower = LatentFilter(make_world(), 2)
    with pytest.raises(ResetNeededError):
        follower.step([0, 0], frames(1, 2))
    with pytest.raises(ResetNeededError, match="all 2 rows"):
        follower.reset([1], frames(1), [0])
    with pytest.raises(InputError, match="0 to 1"):
        follower.reset([0, 2], frames(1, 2), [0, 1])
    with pytest.raises(InputError, match="distinct"):
        follower.reset([0, 0], frames(1, 2), [0, 1])
    with pytest.raises(SeedError):
        follower.reset([0, 1], frames(1, 2), [0])
    with pytest.raises(SeedError):
        follower.reset([0, 1], frames(1, 2), [0, None])
    with pytest.raises(FrameError, match="uint8"):
        follower.reset([0, 1], frames(1, 2) / 255, [0, 1])
    follower.reset([0, 1], frames(1, 2), [0, 1])
    with pytest.raises(FrameError, match=r"\(2, 16, 16, 3\)"):
        follower.step([0, 0], frames(1))
    with pytest.raises(ActionError, match="action 3 of row 1"):
        follower.step([0, 3], frames(1, 2))
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        LatentFilter(make_world(), 0)

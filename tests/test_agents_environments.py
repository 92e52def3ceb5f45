"""Promises of the environments that agents learn in."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from drifting import make_provenance, make_world
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from toy import ToyEnv

from dreamenv.agents import DreamVecEnv, FrameStack, MixedVecEnv, ObservationConfig, RealVecEnv
from dreamenv.backbones.persistence import PersistenceConfig
from dreamenv.errors import (
    ActionError,
    ConfigError,
    FrameError,
    InputError,
    ResetNeededError,
    SeedError,
    WorldMismatchError,
)

FRAMES = ObservationConfig(kind="frame", stack=2, grey=True, size=16)
LATENTS = ObservationConfig(kind="latent")


class Brightness(gym.Env):
    """A real environment for the drifting world: its grey level rises by the action; it ends after some steps."""

    def __init__(self, steps=5, **changes):
        self.observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(3)
        self.provenance = make_provenance(**changes)
        self.steps, self.render_mode, self.closed = steps, None, False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level, self.count = int(self.np_random.integers(100)), 0
        return np.full((16, 16, 3), self.level, np.uint8), {}

    def step(self, action):
        self.level += int(action)
        self.count += 1
        ended = self.count >= self.steps
        info = {"score": float(self.count), "success": ended}
        return np.full((16, 16, 3), self.level, np.uint8), float(action), ended, False, info

    def close(self):
        self.closed = True


def roll(env, steps, seed=0):
    """Reset and step under fixed actions; everything that came back."""
    env.seed(seed)
    out = [env.reset()]
    rng = np.random.default_rng(1)
    for _ in range(steps):
        observations, rewards, dones, infos = env.step(rng.integers(3, size=env.num_envs))
        out += [observations, rewards, dones]
        out += [infos[row]["terminal_observation"] for row in np.flatnonzero(dones)]
    return out


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


# Observations


def test_grey_is_luma_and_shrinking_is_the_mean():
    config = ObservationConfig(kind="frame", stack=1, size=8)
    stack = FrameStack(config, 1, (16, 16, 3))
    frame = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    seen = stack.reset(np.array([0]), frame)
    luma = frame[0].astype(float) @ [0.299, 0.587, 0.114]
    expected = luma.reshape(8, 2, 8, 2).mean(axis=(1, 3))
    assert seen.shape == (1, 1, 8, 8)
    assert np.abs(seen[0, 0] - expected).max() <= 1.5


def test_wide_frames_are_shrunk_alike_both_ways():
    stack = FrameStack(ObservationConfig(kind="frame", stack=1, size=8), 1, (16, 32, 3))
    frame = np.random.default_rng(0).integers(0, 256, (1, 16, 32, 3), dtype=np.uint8)
    expected = (frame[0].astype(float) @ [0.299, 0.587, 0.114]).reshape(8, 2, 16, 2).mean(axis=(1, 3))
    seen = stack.reset(np.array([0]), frame)
    assert seen.shape == (1, 1, 8, 16)
    assert np.abs(seen[0, 0] - expected).max() <= 1.5
    with pytest.raises(ConfigError, match="64x90"):
        ObservationConfig(kind="frame", size=16).frame_space((64, 90, 3))


def test_colour_stacks_keep_their_channels_in_order():
    config = ObservationConfig(kind="frame", stack=2, grey=False, size=16)
    stack = FrameStack(config, 2, (16, 16, 3))
    first = np.arange(3, dtype=np.uint8)[None, None, None].repeat(2, 0).repeat(16, 1).repeat(16, 2)
    seen = stack.reset(np.array([0, 1]), first)
    assert seen[0, :, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert stack.push(first + 10)[1, :, 5, 5].tolist() == [0, 1, 2, 10, 11, 12]
    assert stack.reset(np.array([1]), first[:1] + 20)[0, :, 0, 0].tolist() == [20, 21, 22, 20, 21, 22]
    assert stack.push(first + 30)[0, :, 0, 0].tolist() == [10, 11, 12, 30, 31, 32]  # row 0 was left alone


def test_observations_are_not_overwritten_later():
    stack = FrameStack(FRAMES, 1, (16, 16, 3))
    seen = stack.reset(np.array([0]), np.zeros((1, 16, 16, 3), np.uint8))
    pushed = stack.push(np.full((1, 16, 16, 3), 100, np.uint8))
    stack.push(np.full((1, 16, 16, 3), 200, np.uint8))
    assert seen.max() == 0
    assert pushed[0, :, 0, 0].tolist() == [0, 100]


def test_observations_that_cannot_be_made_are_named():
    with pytest.raises(ConfigError, match="kind"):
        ObservationConfig(kind="pixels")
    with pytest.raises(ConfigError, match="stack"):
        ObservationConfig(kind="frame", stack=0)
    with pytest.raises(ConfigError, match="height of 24"):
        ObservationConfig(kind="frame", size=24).frame_space((64, 64, 3))
    with pytest.raises(FrameError, match="uint8"):
        FrameStack(FRAMES, 1, (16, 16, 3)).push(np.zeros((1, 16, 16, 3), np.float32))


# Dreams


@pytest.mark.parametrize("observation", ["frame", "latent", FRAMES, LATENTS])
@pytest.mark.parametrize("chunk", [1, 2])
def test_a_dream_steps_as_stable_baselines3_expects(observation, chunk):
    env = DreamVecEnv(make_world(chunk=chunk), 4, observation=observation, horizon=3)
    observations = env.reset()
    assert observations.shape == (4, *env.observation_space.shape)
    assert observations.dtype == env.observation_space.dtype
    for step in range(1, 7):
        observations, rewards, dones, infos = env.step(np.array([0, 1, 2, 1]))
        assert rewards.tolist() == [0, 1, 2, 1]
        assert rewards.dtype == np.float32
        assert dones.tolist() == [step % 3 == 0] * 4
        assert len(infos) == 4
    assert infos[2]["TimeLimit.truncated"] is True
    assert infos[2]["episode"]["r"] == 6.0
    assert infos[2]["episode"]["l"] == 3
    assert infos[2]["terminal_observation"].shape == env.observation_space.shape
    env.close()


def test_the_terminal_observation_is_the_last_of_the_ended_dream():
    env = DreamVecEnv(make_world(noise=0.0), 2, observation="latent", horizon=2)
    env.reset()
    before = env.step(np.array([2, 2]))[0]
    after, _, _, infos = env.step(np.array([2, 2]))
    np.testing.assert_allclose(infos[0]["terminal_observation"][0], (before[0, 0] + 0.02) % 1, atol=1e-6)
    assert infos[0]["terminal_observation"][1] == before[0, 1] + 1
    assert after[0, 1] < before[0, 1] + 1 or after[0, 0] != infos[0]["terminal_observation"][0]


def test_a_stack_of_frames_restarts_with_the_dream():
    env = DreamVecEnv(make_world(noise=0.0), 2, observation=FRAMES, horizon=2)
    env.reset()
    env.step(np.array([1, 1]))
    observations, _, dones, infos = env.step(np.array([1, 1]))
    assert dones.all()
    assert (observations[:, 0] == observations[:, 1]).all()
    last = infos[0]["terminal_observation"][:, 0, 0].astype(int)
    assert 1 <= (last[1] - last[0]) % 256 <= 4  # one action's step of 0.01


def test_termination_is_not_called_a_time_limit():
    env = DreamVecEnv(make_world(termination=1.0), 2, observation="latent", horizon=1)
    env.reset()
    _, _, dones, infos = env.step(np.zeros(2, int))
    assert dones.all()
    assert infos[0]["TimeLimit.truncated"] is False


@pytest.mark.parametrize("observation", ["latent", FRAMES])
def test_seeded_dreams_repeat(observation):
    env = DreamVecEnv(make_world(), 3, observation=observation, horizon=4)
    first = roll(env, 10, seed=3)
    assert_equal(first, roll(env, 10, seed=3))
    other = roll(env, 10, seed=4)
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_a_row_reset_by_hand_depends_on_its_seed_alone():
    env = DreamVecEnv(make_world(), 3, observation="latent")
    env.reset_rows(np.arange(3), np.array([1, 2, 3]))
    first = env.reset_rows(np.array([2]), np.array([7]))
    follow = env.step_rows(np.zeros(3, int)).observations[2]
    alone = DreamVecEnv(make_world(), 1, observation="latent")
    np.testing.assert_array_equal(alone.reset_rows(np.array([0]), np.array([7])), first)
    np.testing.assert_array_equal(alone.step_rows(np.zeros(1, int)).observations[0], follow)


def test_bad_dreams_are_named():
    with pytest.raises(ConfigError, match="num_envs"):
        DreamVecEnv(make_world(), 0)
    with pytest.raises(ConfigError, match="autoreset_mode"):
        DreamVecEnv(make_world(), 1, autoreset_mode="NextStep")
    env = DreamVecEnv(make_world(), 2)
    with pytest.raises(ResetNeededError):
        env.step(np.zeros(2, int))
    with pytest.raises(SeedError):
        env.seed(-1)
    env.reset()
    with pytest.raises(ActionError, match="7"):
        env.step(np.array([0, 7]))
    with pytest.raises(InputError, match="2"):
        env.step(np.zeros(3, int))


def test_stable_baselines3_learns_in_a_dream_without_a_warning():
    env = DreamVecEnv(make_world(), 4, observation="latent", horizon=8)
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(128)
    assert model.num_timesteps == 128
    assert model.ep_info_buffer[0]["l"] == 8


def test_stable_baselines3_reads_frames_of_a_dream_without_a_warning():
    env = DreamVecEnv(make_world(size=48), 2, observation="frame", horizon=8)
    PPO("CnnPolicy", env, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu").learn(16)


# Reality


@pytest.mark.parametrize("observation", [FRAMES, LATENTS])
def test_real_episodes_depend_on_their_seed_and_not_on_threads_or_rows(observation):
    runs = []
    for rows, threads in ((1, None), (3, None), (3, 1)):
        env = RealVecEnv(Brightness, rows, observation=observation, world=make_world(), threads=threads)
        seeds = np.arange(10, 10 + rows)
        first = env.reset_rows(np.arange(rows), seeds)
        second = env.step_rows(np.full(rows, 2)).observations
        runs.append((first[0].copy(), second[0].copy()))
        env.close()
    for run in runs[1:]:
        np.testing.assert_array_equal(run[0], runs[0][0])
        np.testing.assert_array_equal(run[1], runs[0][1])


def test_a_real_batch_repeats_when_seeded_and_reports_what_stable_baselines3_needs():
    env = RealVecEnv(Brightness, 3, observation=FRAMES)
    assert_equal(roll(env, 12, seed=2), roll(env, 12, seed=2))
    env.reset()
    for _ in range(5):
        _, _, dones, infos = env.step(np.array([0, 1, 2]))
    assert dones.all()
    assert infos[2]["episode"]["r"] == 10.0
    assert infos[2]["score"] == 5.0
    assert infos[2]["TimeLimit.truncated"] is False
    env.close()
    assert all(one.closed for one in env.envs)


def test_dream_and_reality_show_the_same_space():
    world = make_world()
    for observation in (FRAMES, LATENTS):
        dream = DreamVecEnv(world, 2, observation=observation)
        real = RealVecEnv(Brightness, 2, observation=observation, world=world)
        assert dream.observation_space == real.observation_space
        assert dream.action_space == real.action_space
        real.close()


def test_real_latents_are_the_filters():
    env = RealVecEnv(Brightness, 2, observation=LATENTS, world=make_world())
    first = env.reset_rows(np.arange(2), np.array([1, 2]))
    levels = env.frames[:, 0, 0, 0] / 255
    np.testing.assert_allclose(first[:, 0], levels, rtol=1e-6)
    second = env.step_rows(np.array([2, 0])).observations
    np.testing.assert_allclose(second[:, 0], levels + np.array([2 / 255, 0]), rtol=1e-6)
    np.testing.assert_array_equal(second[:, 1], [1, 1])
    env.close()


def test_a_real_environment_unlike_the_worlds_is_refused():
    with pytest.raises(WorldMismatchError, match="frame_skip"):
        RealVecEnv(lambda: Brightness(frame_skip=2), 1, observation=FRAMES, world=make_world())
    with pytest.raises(WorldMismatchError, match="action_table"):
        RealVecEnv(ToyEnv, 1, observation=FRAMES, world=make_world())
    with pytest.raises(ConfigError, match="world"):
        RealVecEnv(Brightness, 1, observation=LATENTS)
    with pytest.raises(ConfigError, match="num_envs"):
        RealVecEnv(Brightness, 0)


def test_attributes_are_read_and_set_through_wrappers():
    env = RealVecEnv(lambda: gym.wrappers.OrderEnforcing(Brightness()), 2)
    assert env.get_attr("steps") == [5, 5]
    env.set_attr("steps", 9, [1])
    assert env.get_attr("steps") == [5, 9]
    assert env.env_is_wrapped(gym.wrappers.OrderEnforcing) == [True, True]
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [False, False]
    assert env.env_is_wrapped(Monitor) == [False, False]  # or VecMonitor would warn of a second one
    with pytest.raises(AttributeError):
        env.get_attr("nothing")
    env.close()


# Both


def test_mixed_rows_are_those_of_the_parts():
    world = make_world()
    dream = DreamVecEnv(world, 2, observation=LATENTS, horizon=3)
    real = RealVecEnv(Brightness, 3, observation=LATENTS, world=world)
    env = MixedVecEnv([dream, real])
    assert env.num_envs == 5
    assert_equal(roll(env, 7), roll(env, 7))
    _, rewards, _, _ = env.step(np.array([0, 1, 2, 0, 1]))
    assert rewards.tolist() == [0, 1, 2, 0, 1]
    assert env.get_attr("num_envs", [0]) == [2]
    assert env.get_attr("steps", [2, 4]) == [5, 5]
    env.close()
    with pytest.raises(ConfigError, match="agree"):
        MixedVecEnv([dream, RealVecEnv(Brightness, 1, observation=FRAMES)])


class Speckled(Brightness):
    """The same, with a white pixel in a corner of every frame, which the drifting world does not draw."""

    def reset(self, *, seed=None, options=None):
        frame, info = super().reset(seed=seed)
        return self._speckle(frame), info

    def step(self, action):
        frame, *others = super().step(action)
        return self._speckle(frame), *others

    def _speckle(self, frame):
        frame[0, 0] = 255
        return frame


def test_reconstructed_frames_are_the_worlds_in_reality_and_the_dreams_own_in_dreams():
    reconstructed = dataclasses.replace(FRAMES, reconstructed=True)
    plain_env = RealVecEnv(Speckled, 2, observation=FRAMES)
    env = RealVecEnv(Speckled, 2, observation=reconstructed, world=make_world())
    assert env.observation_space == plain_env.observation_space
    seen = ([part for part in roll(one, 7) if np.ndim(part) == 4] for one in (plain_env, env))
    for plain, drawn in zip(*seen, strict=True):
        assert plain[..., 0, 0].min() == 255
        assert (drawn == drawn[..., :1, :1]).all()  # level frames
        assert np.abs(drawn[..., 5, 5].astype(int) - plain[..., 5, 5]).max() <= 1
    assert env.frames[:, 0, 0].min() == 255  # what is shown to people stays as it was
    dreams = (DreamVecEnv(make_world(), 2, observation=config) for config in (FRAMES, reconstructed))
    for one, other in zip(*(roll(env, 7) for env in dreams), strict=True):
        np.testing.assert_array_equal(one, other)


def test_reconstruction_needs_a_world_that_can():
    reconstructed = dataclasses.replace(FRAMES, reconstructed=True)
    with pytest.raises(ConfigError, match="give the world that reconstructs them"):
        RealVecEnv(Brightness, 1, observation=reconstructed)
    world = make_world()
    world.model = PersistenceConfig().build(world.spec)
    with pytest.raises(ConfigError, match="Persistence cannot reconstruct frames"):
        RealVecEnv(Brightness, 1, observation=reconstructed, world=world)
    with pytest.raises(ConfigError, match="reconstructed is of frames"):
        ObservationConfig(kind="latent", reconstructed=True)

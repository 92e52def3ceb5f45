"""One dream as an ordinary environment."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from drifting import make_world
from gymnasium.utils.env_checker import check_env

from dreamenv.dream import DreamEnv, DreamVectorEnv
from dreamenv.dream.registration import register
from dreamenv.dream.render import tile
from dreamenv.errors import ActionError, ConfigError, ResetNeededError, SeedError, StateError


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("observation", ["frame", "latent"])
def test_gymnasiums_checker_finds_nothing_to_warn_of(observation, chunk):
    world = make_world(chunk=chunk)
    env = gym.make("dreamenv:dreamenv/Dream-v0", world=world, observation=observation, render_mode="rgb_array")
    check_env(env.unwrapped)


def test_it_is_one_row_of_the_vector_environment():
    world = make_world(termination=0.1)
    one, many = DreamEnv(world, horizon=5), DreamVectorEnv(world, 1, horizon=5, autoreset_mode="Disabled")
    observation, info = one.reset(seed=4)
    observations, infos = many.reset(seed=4)
    np.testing.assert_array_equal(observation, observations[0])
    assert info == {name: value[0] for name, value in infos.items() if not name.startswith("_")}
    assert {name: type(value) for name, value in info.items()} == {
        "start": int, "termination_probability": float, "uncertainty": float
    }  # fmt: skip
    for _ in range(20):
        left, right = one.step(1), many.step([1])
        np.testing.assert_array_equal(left[0], right[0][0])
        assert left[1:4] == (right[1][0], right[2][0], right[3][0])
        assert [type(value) for value in left[1:4]] == [float, bool, bool]
        if left[2] or left[3]:
            np.testing.assert_array_equal(one.reset()[0], many.reset()[0][0])


def test_stepping_before_a_reset_or_after_the_end_is_refused():
    env = DreamEnv(make_world(), horizon=1)
    with pytest.raises(ResetNeededError, match="before step"):
        env.step(0)
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(ResetNeededError, match="have ended"):
        env.step(0)
    env.reset()
    env.step(0)


@pytest.mark.parametrize("action", [3, -1, 1.0, None, "left", [0], True])
def test_actions_outside_the_space_are_refused(action):
    env = DreamEnv(make_world())
    env.reset(seed=0)
    with pytest.raises(ActionError):
        env.step(action)


@pytest.mark.parametrize("action", [2, np.int64(2), np.array(2), np.uint8(2)])
def test_every_kind_of_integer_is_an_action(action):
    env = DreamEnv(make_world())
    env.reset(seed=0)
    assert env.step(action)[1] == 2.0


def test_negative_seeds_are_refused():
    with pytest.raises((SeedError, gym.error.Error)):
        DreamEnv(make_world()).reset(seed=-1)


def test_settings_of_batches_are_refused():
    for setting in ({"num_envs": 2}, {"autoreset_mode": "SameStep"}):
        with pytest.raises(ConfigError, match="use DreamVectorEnv"):
            DreamEnv(make_world(), **setting)


def test_a_state_is_restored_and_branches_continue_it():
    env = DreamEnv(make_world())
    env.reset(seed=0)
    env.step(1)
    state = env.get_state()
    first = [env.step(1)[0] for _ in range(5)]
    env.set_state(state)
    np.testing.assert_array_equal(first, [env.step(1)[0] for _ in range(5)])
    env.set_state(state)
    many = DreamVectorEnv(env.world, 3)
    many.set_state(env.branch(3))
    np.testing.assert_array_equal(many.step([1] * 3)[0][2], first[0])
    with pytest.raises(StateError, match=r"\[3\] rows"):
        env.set_state(env.branch(3))


def test_rendering_shows_the_enlarged_dream_next_to_its_start():
    env = DreamEnv(make_world(noise=0.0), render_mode="rgb_array", render_scale=3, render_start=True)
    env.reset(options={"start": 7})
    env.step(2)
    picture = env.render()
    assert picture.shape == (16 * 3, (16 + 2 + 16) * 3, 3)
    assert picture.dtype == np.uint8
    assert (picture[:, : 16 * 3] == 7).all()
    assert (picture[:, -16 * 3 :] == 12).all()


def test_latent_dreams_can_be_rendered_too():
    env = DreamEnv(make_world(noise=0.0), observation="latent", render_mode="rgb_array")
    env.reset(options={"start": 7})
    assert (env.render() == 7).all()
    env.step(2)
    assert (env.render() == 12).all()


def test_rendering_without_a_mode_says_how_to_choose_one():
    env = DreamEnv(make_world())
    env.reset()
    with pytest.raises(ConfigError, match="render_mode='rgb_array'"):
        env.render()


def test_a_window_opens_shows_and_closes(monkeypatch):
    import pygame

    env = DreamEnv(make_world(noise=0.0), render_mode="human", render_scale=2)
    monkeypatch.setattr("pygame.time.Clock", lambda: type("Clock", (), {"tick": lambda *_: 0})())
    env.reset(options={"start": 9})
    surface = pygame.display.get_surface()
    assert surface.get_size() == (32, 32)
    assert surface.get_at((5, 5))[:3] == (9, 9, 9)
    env.step(2)
    assert surface.get_at((5, 5))[:3] == (14, 14, 14)
    env.close()
    env.close()
    assert pygame.display.get_surface() is None


def test_frames_are_tiled_as_square_as_can_be():
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 2, 3, 3), np.uint8)
    picture = tile(frames)
    assert picture.shape == (4, 9, 3)
    assert picture[::2, ::3, 0].tolist() == [[0, 1, 2], [3, 4, 0]]


def test_registering_again_changes_nothing():
    register()
    spec = gym.spec("dreamenv/Dream-v0")
    register()
    assert gym.spec("dreamenv/Dream-v0") is spec
    assert spec.max_episode_steps is None


def test_registering_imports_no_torch():
    code = "import sys, dreamenv.dream.registration as r; r.register(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_seed_alone_and_among_others_is_the_same_dream_in_the_world_that_ships():
    alone, many = DreamEnv(), DreamVectorEnv(num_envs=5)
    pairs = [(alone.reset(seed=7)[0], many.reset(seed=[7, 1, 2, 3, 4])[0][0])]
    for step in range(12):
        pairs.append((alone.step(step % 3)[0], many.step(np.full(5, step % 3))[0][0]))
    # One grey level, since a batch of another size may round otherwise.
    assert max(int(np.abs(one.astype(int) - other).max()) for one, other in pairs) <= 1

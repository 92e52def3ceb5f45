"""Promises of Minecraft, with MineRL's real Python client and a fake Malmo server in place of the game."""

from __future__ import annotations

import contextlib
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from minerl_games import client_python, fake_malmo_here
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from dreamenv.agents import AgentConfig, ObservationConfig, PPOConfig, evaluate, train_agent
from dreamenv.data import StickyRandomPolicy, collect
from dreamenv.envs import full_id, make_real
from dreamenv.envs.minerl.tasks import MINERL_TASKS
from dreamenv.errors import ActionError, ConfigError

TRAVEL = MINERL_TASKS["minerl_navigate_dense"].action_names
CHOP = MINERL_TASKS["minerl_treechop"].action_names


@pytest.fixture(scope="module")
def python():
    """MineRL's interpreter."""
    return client_python()


@pytest.fixture(scope="module")
def make(python):
    """Makes environments, each in a game of its own; gives one made before again, since MineRL starts slowly."""
    with contextlib.ExitStack() as stack:
        made = {}

        def make_one(task, **settings):
            key = (task, *sorted(settings.items()))
            if key not in made:
                port = stack.enter_context(fake_malmo_here())
                made[key] = make_real(task, minerl_python=python, port=port, **settings)
                stack.callback(made[key].close)
            return made[key]

        yield make_one


def walk(env, *names, seed=3):
    """Play named actions from an episode's start; all frames, rewards and the last info."""
    frame, info = env.reset(seed=seed)
    frames, rewards = [frame], []
    for name in names:
        frame, reward, terminated, truncated, info = env.step(env.unwrapped.task.action_names.index(name))
        frames.append(frame)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.stack(frames), np.array(rewards), info


def moved(before, after, axis):
    """By how many pixels the picture moved along an axis: rightwards, or downwards."""

    def difference(shift):
        one, other = np.moveaxis(before, axis, 0).astype(int), np.moveaxis(after, axis, 0).astype(int)
        return np.abs(
            one[max(0, -shift) : len(one) - max(0, shift)] - other[max(0, shift) : len(one) + min(0, shift)]
        ).mean()

    return min(range(-24, 25), key=difference)


# One face


@pytest.mark.parametrize("task", ["minerl_navigate_dense", "minerl_navigate", "minerl_treechop", "minerl_find_cave"])
def test_every_task_has_small_rgb_frames_and_a_noop_first(task, make, monkeypatch, python):
    monkeypatch.setenv("DREAMENV_MINERL_PYTHON", python)
    env = make(task)
    frames, _, info = walk(env, "noop")
    assert frames.shape == (2, 64, 64, 3)
    assert frames.dtype == np.uint8
    assert frames[0].std() > 5
    assert info["native_action"] == {}
    assert info["success"] is False
    assert info["fake_malmo"] is True  # it does not pass for Minecraft
    provenance = env.get_wrapper_attr("provenance")
    assert (provenance.environment_id, provenance.frame_skip, provenance.frame_rate) == (full_id(task), 4, 5.0)
    assert "minerl_python" not in provenance.environment_kwargs
    again = gym.make(provenance.environment_id, **provenance.environment_kwargs)  # from the variable; starts nothing
    assert again.get_wrapper_attr("provenance") == provenance
    again.close()


def test_frames_are_upright_and_in_rgb(make):
    frame = walk(make("minerl_treechop"))[0][0].astype(int)
    top, bottom = frame[:8].mean((0, 1)), frame[-8:].mean((0, 1))
    assert top.argmax() == 2  # the sky is blue
    assert bottom.argmax() == 1  # the grass is green


def test_gymnasium_and_stable_baselines3_accept_it_without_a_warning(make):
    env = make("minerl_navigate_dense")
    check_env(env.unwrapped, skip_render_check=True)
    sb3_check_env(env)


def test_native_pictures_are_rendered_unshrunk(make):
    env = make("minerl_treechop", size=16, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (64, 64, 3)


# Actions


def test_the_camera_turns_the_view_by_its_name(make):
    env = make("minerl_treechop")
    for name, axis, sign in (("turn_left", 1, 1), ("turn_right", 1, -1), ("look_up", 0, 1), ("look_down", 0, -1)):
        frames = walk(env, name)[0]
        assert sign * moved(frames[0], frames[1], axis) in range(9, 16), name  # 15 of 70 degrees in 64 pixels: 12


def test_a_turn_is_15_degrees_whatever_the_frame_skip(make):
    for env in (make("minerl_navigate"), make("minerl_navigate", frame_skip=1)):
        before = env.reset(seed=3)[1]["compass_angle"]
        after = env.step(TRAVEL.index("turn_right"))[4]["compass_angle"]
        assert (before - after) % 360 == pytest.approx(15)


def test_walking_brings_the_tree_ahead_nearer_and_back_takes_it_away(make):
    frames = walk(make("minerl_treechop"), *["forward"] * 3, *["back"] * 3)[0].astype(int)
    ahead = frames[:, :, 24:40]  # other trees leave the picture at its sides
    bark = ((ahead[..., 0] > ahead[..., 1]) & (ahead[..., 1] > ahead[..., 2])).mean((1, 2))
    assert bark[0] < bark[1] < bark[2] < bark[3]
    assert bark[3] > bark[4] > bark[5] > bark[6]
    assert frames[0].tobytes() == frames[6].tobytes()


def test_nothing_moves_under_the_noop_and_a_jump_comes_down_again(make):
    frames = walk(make("minerl_treechop"), "noop", "noop", "jump", "noop", "noop")[0]
    assert frames[0].tobytes() == frames[1].tobytes() == frames[2].tobytes() == frames[5].tobytes()
    assert frames[3].tobytes() != frames[2].tobytes()


def test_native_dictionaries_are_taken_and_checked(make):
    env = make("minerl_navigate", native_actions=True, frame_skip=1)
    keys = {"attack", "back", "camera", "forward", "jump", "left", "place", "right", "sneak", "sprint"}
    assert set(env.action_space) == keys
    assert env.action_space["place"].n == 2
    noop = {key: np.zeros(2, np.float32) if key == "camera" else 0 for key in keys}
    before = env.reset(seed=3)[1]["compass_angle"]
    info = env.step({**noop, "camera": np.array([0, 20], np.float32), "place": 1})[4]
    assert (before - info["compass_angle"]) % 360 == pytest.approx(20)
    with pytest.raises(ActionError, match="forward"):
        env.unwrapped.step({**noop, "forward": 7})
    provenance = env.get_wrapper_attr("provenance")
    assert provenance.environment_kwargs["native_actions"] is True
    assert provenance.action_table == []
    for _ in range(3):
        env.step(env.action_space.sample())


# Rewards and terminations


def test_a_seed_fixes_the_episode(make):
    env = make("minerl_navigate_dense")
    names = np.random.default_rng(0).choice(TRAVEL, 20)
    first, other, again = walk(env, *names, seed=5), walk(env, *names, seed=6), walk(env, *names, seed=5)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert other[0].tobytes() != first[0].tobytes()


@pytest.mark.parametrize("task", ["minerl_navigate_dense", "minerl_navigate"])
def test_following_the_compass_leads_to_the_goal(task, make):
    env = make(task)
    _, info = env.reset(seed=4)
    start = total = 0.0
    for _ in range(80):
        angle = info["compass_angle"]
        name = "turn_right" if angle > 8 else "turn_left" if angle < -8 else "forward"
        _, reward, terminated, truncated, info = env.step(TRAVEL.index(name))
        total += reward
        if terminated or truncated:
            break
        assert info["score"] == 0.0
        assert not info["success"]
    assert terminated
    assert not truncated
    assert (info["score"], info["success"]) == (1.0, True)
    start = 16.0 if task == "minerl_navigate_dense" else 0.0  # metres, of which the last is not walked
    assert total == pytest.approx(100 + start, abs=1.8 if start else 1e-9)


def test_a_log_pays_one_and_is_counted(make):
    env = make("minerl_treechop")
    _, rewards, info = walk(env, *["forward_attack"] * 14)
    assert rewards.sum() == info["score"] >= 2
    assert set(rewards) == {0.0, 1.0}
    assert not info["success"]


def test_rewards_that_the_game_does_not_pay_are_computed_from_position_and_inventory(make):
    names = [*["forward"] * 3, *["back"] * 3, *["forward"] * 5, *["attack"] * 6]
    paid = {}
    for reward in ("distance", "logs", "native"):
        settings = {} if reward == "distance" else {"reward": reward}
        _, paid[reward], info = walk(make("minerl_find_cave", **settings), *names)
        if reward == "distance":
            assert info["score"] == info["metres_walked"] == pytest.approx(paid[reward].sum())
        if reward == "logs":
            assert info["logs_gained"] == paid[reward].sum()
            assert info["score"] == pytest.approx(paid["distance"].sum())
    np.testing.assert_allclose(paid["distance"][:6], 4 * 0.216, atol=1e-6)
    assert not paid["distance"][-6:].any()
    assert paid["logs"][-6:].sum() == 3  # 24 ticks, 8 a log
    assert not paid["logs"][:-6].any()
    assert not paid["native"].any()


# The loop


def test_it_is_recorded_learned_from_and_evaluated_like_any_other(python, tmp_path):
    with fake_malmo_here(random_frames=True) as port:
        where = {"minerl_python": python, "port": port}
        maker = partial(make_real, "minerl_find_cave", reward="native", frame_skip=100, **where)
        size = len(MINERL_TASKS["minerl_find_cave"].action_table)
        policy = partial(StickyRandomPolicy, gym.spaces.Discrete(size))
        data = collect(maker, policy, tmp_path / "data", steps=40, num_workers=0, progress=False)
        assert data.total_steps == 40
        assert (data[0].truncated, data[0].terminated) == (True, False)
        assert len(data[0].actions) == 35  # our limit of 3,500 ticks comes before the game's 3,600
        assert data.provenance.environment_id == "dreamenv/MinerlFindCave-v0"
        config = AgentConfig(
            where="real",
            observation=ObservationConfig(kind="frame", stack=2, size=32),
            total_steps=16,
            num_envs=1,
            ppo=PPOConfig(n_steps=8, batch_size=8, n_epochs=1),
        )
        learned = train_agent(config, out=tmp_path / "agent", real=maker, progress=False)
        outcome = evaluate(learned, maker, episodes=1, num_envs=1)
        assert outcome.lengths == [35]
        assert outcome.truncated == [True]


def test_settings_that_cannot_work_are_named(python):
    for settings, named in (
        ({"port": 0}, "65535"),
        ({"step_timeout": 0.0}, "positive"),
        ({"frame_skip": 0}, "frame_skip"),
    ):
        with pytest.raises(ConfigError, match=named):
            make_real("minerl_treechop", minerl_python=python, **settings)

"""Promises that every navigation environment keeps behind the one face."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from navigation import TASKS, here, make
from PIL import Image
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from dreamenv.envs import find_task, make_real
from dreamenv.envs.families import family_of
from dreamenv.envs.miniworld.opengl import INSTALL_LIBRARIES
from dreamenv.errors import UnknownNameError


def play(env, seed, actions):
    """Play until the actions or the episode end; return the frames, the rewards, and the info of each step."""
    frame, info = env.reset(seed=seed)
    frames, rewards, infos, ends = [frame], [], [info], []
    for chosen in actions:
        frame, reward, terminated, truncated, info = env.step(chosen)
        frames.append(frame)
        rewards.append(reward)
        infos.append(info)
        ends.append((terminated, truncated))
        if terminated or truncated:
            break
    return np.stack(frames), np.array(rewards), infos, ends


def chosen_actions(env, count, seed=0):
    return np.random.default_rng(seed).integers(env.action_space.n, size=count)


@pytest.fixture
def small_map(request, monkeypatch):
    """Let Crafter draw a quarter of its map, where only the face is looked at."""
    if request.getfixturevalue("name") == "crafter":
        import crafter

        defaults = crafter.Env.__init__.__defaults__
        assert defaults[0] == (64, 64)
        monkeypatch.setattr(crafter.Env.__init__, "__defaults__", ((32, 32), *defaults[1:]))


@pytest.mark.parametrize("name", here(*TASKS))
@pytest.mark.usefixtures("small_map")
def test_the_checkers_of_gymnasium_and_stable_baselines3_find_nothing(name):
    env = make(name)
    windows = "human" in env.unwrapped.metadata["render_modes"]  # the checker would open one
    check_env(env.unwrapped, skip_render_check=windows)
    check_for_sb3(env.unwrapped)
    env.close()


@pytest.mark.parametrize("name", here(*TASKS))
@pytest.mark.usefixtures("small_map")
def test_a_task_says_what_it_shows_takes_and_counts(name):
    env = make(name)
    task = env.unwrapped.task
    frame, info = env.reset(seed=3)
    assert (frame.shape, frame.dtype) == ((64, 64, 3), np.uint8)
    assert frame.std() > 5  # it shows something
    assert env.action_space == gym.spaces.Discrete(len(task.action_names))
    assert task.action_names[0] == "noop"
    assert (info["success"], info["score"]) == (False, 0.0)
    for number, native in enumerate(task.action_table):
        _, _, terminated, truncated, info = env.step(number)
        assert info["native_action"] == (list(native) if isinstance(native, tuple) else native)
        assert info["success"] == (info["score"] >= task.solved)
        if terminated or truncated:
            env.reset(seed=3)
    provenance = env.get_wrapper_attr("provenance")
    again = gym.make(provenance.environment_id, **provenance.environment_kwargs)
    assert again.get_wrapper_attr("provenance") == provenance
    assert len(task.about) > 60
    again.close()
    env.close()


@pytest.mark.parametrize("name", here(*TASKS))
@pytest.mark.usefixtures("small_map")
def test_the_same_seed_gives_the_same_episode_and_another_seed_another(name):
    one, other = make(name), make(name)
    actions = chosen_actions(one, 40)
    first = play(one, 5, actions)
    other.reset(seed=99)
    second = play(other, 5, actions)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert first[2] == second[2]
    assert play(one, 6, actions)[0].tobytes() != first[0].tobytes()
    one.reset(seed=7)
    following = one.reset()[0]
    other.reset(seed=7)
    np.testing.assert_array_equal(following, other.reset()[0])
    one.close()
    other.close()


@pytest.mark.parametrize("name", here("crafter"))
@pytest.mark.usefixtures("small_map")
def test_crafter_repeats_itself_where_crafter_itself_does_not(name):
    """Which of its creatures vanishes depends on addresses in memory; of these seeds that changes the episode."""
    for seed in (1, 3):
        lives = []
        for clutter in (0, 1001):
            kept = [object() for _ in range(clutter)]
            env = make(name)
            env.reset()
            env.unwrapped._reset_sim(seed)
            actions = np.random.default_rng(seed).integers(7, size=130)
            lives.append([env.step(chosen)[0] for chosen in actions])
            env.close()
            del kept
        np.testing.assert_array_equal(lives[0], lives[1])


@pytest.mark.parametrize("name", here(*TASKS))
@pytest.mark.usefixtures("small_map")
def test_frame_skip_holds_the_action_and_sums_the_rewards(name):
    every, third = make(name, frame_skip=1), make(name, frame_skip=3)
    actions = chosen_actions(third, 12, seed=1)
    frames, rewards, infos, ends = play(every, 2, np.repeat(actions, 3))
    skipped, sums, step_infos, skipped_ends = play(third, 2, actions)
    np.testing.assert_array_equal(skipped, np.concatenate([frames[::3], frames[-1:]])[: len(skipped)])
    np.testing.assert_allclose(sums, np.add.reduceat(rewards, np.arange(0, len(rewards), 3)), atol=1e-9)
    assert step_infos[-1] == infos[-1]
    assert skipped_ends[-1] == ends[-1]
    every.close()
    third.close()


@pytest.mark.parametrize("name", here(*(name for name in TASKS if find_task(name).solved == 1.0)))
def test_the_time_limit_truncates_a_step_that_would_pass_it(name):
    env = make(name, size=16, frame_skip=7)
    limit = find_task(name).max_native_steps
    _, _, infos, ends = play(env, 3, [0] * limit)
    assert len(ends) == -(-limit // 7) == env.get_wrapper_attr("provenance").max_episode_steps
    assert ends[-1] == (False, True)
    assert infos[-1]["success"] is False
    env.close()


@pytest.mark.parametrize("name", here("crafter"))
@pytest.mark.usefixtures("small_map")
def test_death_terminates_in_crafter(name):
    env = make(name, frame_skip=25)
    _, rewards, infos, ends = play(env, 0, [0] * 100)
    assert ends[-1] == (True, False)
    assert infos[-1]["inventory"]["health"] == 0
    assert rewards.sum() == pytest.approx(-0.9 + infos[-1]["score"])  # nine points of health, and what it achieved
    env.close()


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("name", here(*TASKS))
@pytest.mark.usefixtures("small_map")
def test_every_size_shows_the_same_scene(name, size):
    frames = []
    for side in (64, size):
        env = make(name, size=side)
        frame = env.reset(seed=3)[0]
        assert frame.shape == env.observation_space.shape == (side, side, 3)
        frames.append(np.asarray(Image.fromarray(frame).resize((16, 16), Image.Resampling.BOX)).astype(float))
        env.close()
    assert np.abs(frames[0] - frames[1]).mean() < 12


@pytest.mark.parametrize("name", here(*TASKS))
@pytest.mark.usefixtures("small_map")
def test_the_unshrunk_picture_can_be_looked_at(name):
    env = make(name, size=16, render_mode="rgb_array")
    frame = env.reset(seed=1)[0]
    picture = env.render()
    assert picture.shape[0] >= 60
    np.testing.assert_array_equal(frame, Image.fromarray(picture).resize((16, 16), Image.Resampling.BOX))
    env.close()


def test_a_name_that_does_not_exist_is_answered_with_near_ones():
    for wrong, near in (
        ("minigrid_four_room", "minigrid_four_rooms"),
        ("miniworld_t_maze", "miniworld_tmaze"),
        ("dreamenv/MiniworldHalway-v0", "dreamenv/MiniworldHallway-v0"),
        ("craftr", "crafter"),
    ):
        with pytest.raises(UnknownNameError, match=f"Did you mean .*'{near}'"):
            make_real(wrong)


@pytest.mark.parametrize("name", here("minigrid_door_key", "miniworld_hallway", "crafter"))
def test_a_family_refuses_the_task_of_another(name):
    import importlib

    module, kind = family_of(find_task(name)).entry_point.split(":")
    with pytest.raises(UnknownNameError, match=r"No .* task named 'take_cover'"):
        getattr(importlib.import_module(module), kind)("take_cover")


ROOT = Path(__file__).resolve().parents[1]


def test_the_documentation_lists_every_task_with_its_id_and_all_its_actions():
    page = (ROOT / "docs" / "real_environments.md").read_text()
    for name in TASKS:
        task = find_task(name)
        assert f"| `{name}` | `{task.id}` |" in page
    for name in ("take_cover", "health_gathering", "minigrid_four_rooms", "miniworld_hallway"):
        for words in find_task(name).action_names:
            assert words in page


def test_make_installs_the_packages_that_the_error_names():
    assert f"\t{INSTALL_LIBRARIES}\n" in (ROOT / "Makefile").read_text()

"""Minetest runs in lock-step: a frame shows its own step, and a seed gives its world."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from minetest_games import (
    FORWARD,
    JUMP,
    LEFT,
    NOOP,
    RIGHT,
    engine_of,
    in_one_of_three_tries,
    needs_minetest,
    play,
    run_explorer,
)
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from dreamenv.agents import RealVecEnv
from dreamenv.data import collect
from dreamenv.envs import make_real
from dreamenv.envs.minetest import missing, programs
from dreamenv.envs.minetest.explorers import explorer
from dreamenv.envs.minetest.tasks import MINETEST_TASKS
from dreamenv.errors import ActionError, UnavailableError


@pytest.fixture(scope="module")
def maze():
    with make_real("minetest_maze") as env:
        yield env


@pytest.fixture(scope="module")
def navigate():
    with make_real("minetest_navigate") as env:
        yield env


@pytest.fixture(scope="module")
def treechop():
    with make_real("minetest_treechop") as env:
        yield env


def test_missing_parts_are_named_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr(
        missing, "find_program", lambda name: None if name == "minetest" else programs.find_program(name)
    )
    with pytest.raises(UnavailableError, match=r"no program minetest.*make minetest.*apt-get install"):
        make_real("minetest_maze")


@needs_minetest
@pytest.mark.parametrize("task", MINETEST_TASKS)
def test_every_task_has_small_frames_a_noop_first_and_a_provenance(task, request):
    env = request.getfixturevalue(task.removeprefix("minetest_"))
    frame, info = env.reset(seed=3)
    assert frame.shape == (64, 64, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 5
    assert env.action_space.n == len(MINETEST_TASKS[task].action_names)
    _, reward, _, _, info = env.step(0)
    assert not any(info["native_action"])
    assert (reward, info["score"], info["success"]) == (0.0, 0.0, False)
    provenance = env.get_wrapper_attr("provenance")
    assert provenance.environment_id == MINETEST_TASKS[task].id
    assert provenance.frame_rate == 10
    again = gym.make(provenance.environment_id, **provenance.environment_kwargs)
    assert again.get_wrapper_attr("provenance") == provenance
    again.close()


@needs_minetest
def test_the_checkers_of_gymnasium_and_stable_baselines3_find_nothing(maze):
    check_env(maze.unwrapped, skip_render_check=True)
    check_for_sb3(maze.unwrapped)


@needs_minetest
def test_another_size_and_native_actions_work():
    env = make_real("minetest_maze", size=32, native_actions=True, render_mode="rgb_array")
    assert env.reset(seed=0)[0].shape == (32, 32, 3)
    yaw = env.step(np.array([0, 0, 45, 0, 0, 0], np.float32))[4]["yaw"]
    assert env.step(np.array([0, 0, 45, 0, 0, 0], np.float32))[4]["yaw"] == (yaw + 45) % 360
    assert env.render().shape == (64, 64, 3)
    with pytest.raises(ActionError):
        env.step(np.array([2, 0, 0, 0, 0, 0], np.float32))
    env.close()


@needs_minetest
@in_one_of_three_tries
def test_the_same_seed_gives_the_same_terrain_start_and_frames_in_another_engine(navigate):
    actions = np.random.default_rng(0).choice(5, size=60, p=[0.1, 0.4, 0.15, 0.15, 0.2])
    navigate.reset(seed=8)  # another history
    frames, positions = play(navigate, 2, actions)
    with make_real("minetest_navigate") as other:
        other_frames, other_positions = play(other, 2, actions)
    np.testing.assert_array_equal(positions, other_positions)
    assert np.ptp(positions[:, [0, 2]], 0).max() > 2  # it went somewhere
    differing = (frames != other_frames).any(-1).sum((1, 2))
    assert differing.max() <= 8  # of 4096 pixels: faces in one plane may be drawn in another order
    assert (differing > 0).mean() < 0.3
    assert play(navigate, 3, actions[:1])[0].tobytes() != frames[:2].tobytes()


@needs_minetest
@pytest.mark.parametrize("world", ["maze", "navigate"])
@in_one_of_three_tries
def test_noops_give_the_same_frame_and_a_turn_changes_the_very_next_one(world, request):
    env = request.getfixturevalue(world)
    left, right = (2, 3)
    frame, _ = env.reset(seed=6)
    for repeat in range(25):
        for _ in range(4):
            np.testing.assert_array_equal(env.step(NOOP)[0], frame)
        turned = env.step(left)[0]
        assert (turned != frame).any(-1).mean() > 0.05, repeat
        np.testing.assert_array_equal(env.step(NOOP)[0], turned)
        np.testing.assert_array_equal(env.step(right)[0], frame)


@needs_minetest
def test_turning_left_shows_objects_further_left(navigate):
    frame, info = navigate.reset(seed=1)
    turned, _, _, _, after = navigate.step(LEFT)
    assert after["yaw"] == (info["yaw"] + 15) % 360
    errors = {
        shift: np.abs(turned[:, 20:44].astype(float) - frame[:, 20 - shift : 44 - shift]).mean()
        for shift in range(-18, 19)
    }
    assert min(errors, key=errors.__getitem__) in range(9, 18)  # it moved right by about 13 pixels


@needs_minetest
@in_one_of_three_tries
def test_every_frame_shows_its_own_step_over_many_random_turns_and_steps(maze):
    maze.reset(seed=4)
    known = {}
    rng = np.random.default_rng(0)
    for _ in range(500):  # forth and back only: the places come again, and each must look as before
        frame, _, terminated, truncated, info = maze.step(
            int(rng.choice([NOOP, LEFT, RIGHT, FORWARD], p=[0.2, 0.35, 0.35, 0.1]))
        )
        place = (info["position"], info["yaw"])
        np.testing.assert_array_equal(known.setdefault(place, frame), frame)
        if terminated or truncated:
            break
    assert len(known) > 20


@needs_minetest
def test_a_frame_that_python_missed_is_rendered_again(navigate, monkeypatch):
    expected, _ = play(navigate, 5, [LEFT, FORWARD])
    navigate.reset(seed=5)
    engine = engine_of(navigate)
    shows, request, requested = engine._screen.shows, engine.request, []
    monkeypatch.setattr(
        engine, "request", lambda command, *rest: (requested.append(command), request(command, *rest))[1]
    )
    monkeypatch.setattr(engine._screen, "shows", lambda number: {"again": True} in requested and shows(number))
    turned = navigate.step(LEFT)[0]
    assert requested.count({"again": True}) >= 1
    monkeypatch.undo()
    np.testing.assert_array_equal(turned, expected[1])
    np.testing.assert_array_equal(navigate.step(FORWARD)[0], expected[2])


@needs_minetest
def test_the_agent_follows_the_engines_physics(maze, navigate):
    maze.reset(seed=0)
    walked = [np.array(maze.step(FORWARD)[4]["position"]) for _ in range(60)]
    ways = np.linalg.norm(np.diff(walked, axis=0), axis=1)
    assert ways[-1] == 0  # against a wall
    assert ways.max() == pytest.approx(0.4, abs=0.01)  # 4 m/s for 0.1 s
    assert ((np.array(walked)[:, [0, 2]] - 0.5) % 1).min() >= 0  # never inside
    navigate.reset(seed=1)
    for _ in range(5):
        ground = navigate.step(NOOP)[4]["position"][1]
    heights = [navigate.step(JUMP if not step else NOOP)[4]["position"][1] - ground for step in range(12)]
    assert max(heights) == pytest.approx(1.125)
    assert heights[:3] == [0.5625, 0.9375, 1.125]  # gravity bends the path


@needs_minetest
@in_one_of_three_tries
def test_digging_takes_its_time_and_placing_puts_a_node_in_the_way(treechop):
    treechop.reset(seed=1)
    table = {name: index for index, name in enumerate(MINETEST_TASKS["minetest_treechop"].action_names)}
    for _ in range(4):
        frame = treechop.step(table["look_down"])[0]
    hole = frame
    changed = []
    for step in range(12):
        now = treechop.step(table["dig"])[0]
        if (now[24:40, 24:40] != hole[24:40, 24:40]).any():
            changed.append(step)
            hole = now
    assert changed
    assert 3 <= changed[0] <= 10  # dirt by hand: 0.4 to 0.9 s
    treechop.step(table["noop"])
    before = treechop.step(table["look_up"])[0]
    after = treechop.step(table["place"])[0]
    assert (before != after).any(-1).mean() > 0.02
    np.testing.assert_array_equal(treechop.step(table["noop"])[0], after)


@needs_minetest
@in_one_of_three_tries
def test_what_is_dug_and_placed_looks_the_same_in_the_first_episode_of_an_engine_and_in_the_second():
    table = {name: index for index, name in enumerate(MINETEST_TASKS["minetest_treechop"].action_names)}
    names = ["look_down"] * 4 + ["dig"] * 12 + ["noop", "look_up"]
    names += (["place"] + ["noop"] * 5) * 2 + ["turn_right"] * 6 + ["noop", "place", "noop", "turn_left"]
    actions = [table[name] for name in names]
    places = [step for step, name in enumerate(names) if name == "place"]

    def pausing():
        time.sleep(2.5)  # every 2 s the engine may look for blocks to send by itself; the camera is on the ground now
        yield from actions

    with make_real("minetest_treechop") as env:
        first, _ = play(env, 1, pausing())
        second, _ = play(env, 1, actions)
    for frames in (first, second):
        shown = [(frames[step] != frames[step + 1]).any(-1).mean() for step in places]
        assert min(shown) > 0.02
    np.testing.assert_array_equal(first, second)


@needs_minetest
@pytest.mark.parametrize(("task", "seed", "least"), [("navigate", 1, 17), ("maze", 0, 15), ("treechop", 0, 4)])
@in_one_of_three_tries
def test_each_task_can_be_solved_by_a_script_that_sees_frames_only(task, seed, least, request):
    total, info = run_explorer(request.getfixturevalue(task), f"minetest_{task}", seed)
    assert info["success"]
    assert total >= least


@needs_minetest
@in_one_of_three_tries
def test_progress_and_arrival_are_paid(maze):
    _, info = maze.reset(seed=0)
    start = info["distance"]
    total, info = run_explorer(maze, "minetest_maze", 0)
    assert total == pytest.approx(start - info["distance"] + 10, abs=1e-3)
    assert info["score"] == 1.0


@needs_minetest
@in_one_of_three_tries
def test_eight_run_side_by_side_and_each_as_if_alone(maze):
    actions = np.random.default_rng(0).integers(4, size=12)
    expected = [play(maze, seed, actions)[0] for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        envs = list(pool.map(lambda _: make_real("minetest_maze"), range(8)))
        got = list(pool.map(lambda pair: play(pair[1], pair[0], actions)[0], enumerate(envs)))
        assert len({engine_of(env).display for env in envs}) == 8
        list(pool.map(lambda env: env.close(), envs))
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_array_equal(one, other)


@needs_minetest
@in_one_of_three_tries
def test_rows_step_in_threads_and_recordings_in_processes(tmp_path):
    rows = RealVecEnv(partial(make_real, "minetest_maze"), 2)
    rows.seed(0)
    rows.reset()
    rewards = [rows.step(np.array([FORWARD, LEFT]))[1] for _ in range(5)]
    assert np.abs(rewards).sum() > 0
    rows.close()
    data = collect(
        partial(make_real, "minetest_maze"), partial(explorer, "minetest_maze"), tmp_path / "data", steps=60,
        num_workers=2, progress=False,
    )  # fmt: skip
    assert data.total_steps == 60

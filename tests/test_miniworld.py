"""MiniWorld draws alone in one thread, for any number of environments, threads and processes."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import subprocess
import sys
import threading

import numpy as np
import pytest
from navigation import here, make, play_randomly, play_there

from dreamenv.agents import RealVecEnv
from dreamenv.envs.miniworld import opengl
from dreamenv.errors import UnavailableError


def memory() -> float:
    """What this process holds, in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


RUNS = here("miniworld_four_rooms")[0].marks  # a skip with its reason, where MiniWorld cannot run
pytestmark = list(RUNS)


def test_the_pictures_are_miniworlds_own():
    def draw_with_miniworld_alone():
        import miniworld.envs

        world = miniworld.envs.FourRooms(obs_width=80, obs_height=60, window_width=8, window_height=8)
        return world.reset(seed=seed)[0]

    env = make("miniworld_four_rooms", size=60, render_mode="rgb_array")
    env.reset(seed=4)
    seed = int(np.random.default_rng(np.random.PCG64(4)).integers(2**31))  # what a reset makes of its seed
    np.testing.assert_array_equal(env.render(), opengl.call_in_render_thread(draw_with_miniworld_alone))
    env.close()


def test_environments_of_one_process_do_not_see_each_others_rooms():
    names = ["miniworld_four_rooms", "miniworld_maze_s3", "miniworld_hallway"]
    alone = []
    for name in names:
        env = make(name)
        alone.append(play_randomly(env, 1))
        env.close()
    envs = [make(name) for name in names]
    frames = [[env.reset(seed=1)[0]] for env in envs]
    for action in np.random.default_rng(1).integers(4, size=25):
        for row, env in enumerate(envs):
            frames[row].append(env.step(action)[0])
    for row, env in enumerate(envs):
        np.testing.assert_array_equal(alone[row], np.stack(frames[row]))
        env.close()


def test_threads_may_share_out_environments_and_pass_them_on():
    alone = []
    for seed in range(4):
        env = make("miniworld_four_rooms")
        alone.append(play_randomly(env, seed))
        env.close()
    envs = [make("miniworld_four_rooms") for _ in range(4)]
    for turn in range(2):  # in the second turn every environment is used by another thread than before
        found = [None] * 4

        def work(row, found=found, turn=turn):
            found[row] = play_randomly(envs[(row + turn) % 4], row)

        threads = [threading.Thread(target=work, args=(row,)) for row in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for expected, got in zip(alone, found, strict=True):
            np.testing.assert_array_equal(expected, got)
    for env in envs:
        env.close()


def test_agents_learn_from_rows_that_are_stepped_in_threads():
    one, many = RealVecEnv("miniworld_hallway", 3, threads=1), RealVecEnv("miniworld_hallway", 3, threads=3)
    for env in (one, many):
        env.seed(5)
        env.reset()
    for action in np.random.default_rng(0).integers(4, size=(15, 3)):
        one.step(action)
        many.step(action)
        np.testing.assert_array_equal(one.frames, many.frames)
    one.close()
    many.close()


def test_memory_does_not_grow_with_environments_that_were_closed_or_forgotten():
    def use(count):
        for number in range(count):
            env = make("miniworld_four_rooms")
            env.reset(seed=0)
            if number % 2:
                env.close()
        gc.collect()

    use(4)
    before = memory()
    use(12)
    assert memory() - before < 6  # of MiniWorld itself, 30 MiB and more would stay of each


def from_a_process(method):
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=play_there, args=(theirs,))
    process.start()
    theirs.close()
    assert ours.poll(120)
    said = ours.recv()
    process.join(30)
    assert process.exitcode == 0
    return said


def test_processes_draw_side_by_side_and_alike():
    env = make("miniworld_maze_s3")
    here_ = play_randomly(env, 3)
    env.close()
    kind, there = from_a_process("spawn")
    assert kind == "frames"
    np.testing.assert_array_equal(here_, there)


def test_a_fork_of_a_process_that_has_rendered_is_refused_instead_of_hanging():
    env = make("miniworld_hallway")
    env.reset(seed=0)
    kind, message = from_a_process("fork")
    assert kind == "refused"
    assert "spawn" in message
    env.close()


def test_a_fork_before_any_rendering_may_render():
    """As gymnasium's AsyncVectorEnv does: it makes an environment to ask for its spaces, closes it, and forks."""
    code = (
        "import gymnasium as gym\n"
        "from functools import partial\n"
        "from dreamenv.envs import make_real\n"
        "env = gym.vector.AsyncVectorEnv([partial(make_real, 'miniworld_hallway')] * 2, context='fork')\n"
        "frames, _ = env.reset(seed=[1, 2])\n"
        "frames, *_ = env.step([3, 3])\n"
        "print(frames.shape, frames.std() > 5)\n"
        "env.close()\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert answer.stdout == "(2, 64, 64, 3) True\n"


def test_a_closed_environment_can_be_used_again():
    env = make("miniworld_hallway")
    first = play_randomly(env, 2)
    env.close()
    env.close()
    np.testing.assert_array_equal(first, play_randomly(env, 2))
    env.close()


@pytest.mark.parametrize("library", ["libGL.so.1", "libEGL.so.1", "libGLU.so.1"])
def test_a_missing_library_of_the_system_is_named_with_the_command_that_brings_it(monkeypatch, library):
    load = ctypes.CDLL

    def without(name, *arguments, **settings):
        if name == library:
            raise OSError(f"{name}: cannot open shared object file")
        return load(name, *arguments, **settings)

    monkeypatch.setattr(ctypes, "CDLL", without)
    with pytest.raises(UnavailableError, match=rf"miniworld_tmaze .*{library}.*apt-get install -y .*libgl1"):
        make("miniworld_tmaze")
    make("minigrid_four_rooms").close()  # and no other family minds


def test_a_missing_driver_is_noticed_before_anything_starts(monkeypatch):
    monkeypatch.setattr(opengl, "_VENDOR_FOLDERS", opengl._VENDOR_FOLDERS[1:])
    monkeypatch.setattr(opengl, "_MESA_DRIVERS", ("/no/such/folder/*_dri.so",))
    monkeypatch.setattr(opengl.Path, "glob", lambda *_: iter([opengl.Path("50_mesa.json")]))
    missing = opengl.find_missing()
    assert missing is not None
    assert "driver" in missing.what
    assert missing.remedy == opengl.INSTALL_LIBRARIES

"""Play Minetest in tests, and look for what an engine leaves behind."""

from __future__ import annotations

import functools
import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from dreamenv.envs.minetest import missing
from dreamenv.envs.minetest.explorers import explorer
from dreamenv.envs.minetest.missing import missing_parts

MISSING = missing_parts()
needs_minetest = pytest.mark.skipif(MISSING is not None, reason=f"{MISSING and MISSING.what}: {missing.REMEDY}")
NOOP, FORWARD, LEFT, RIGHT, JUMP = range(5)


def play(env, seed, actions):
    """Return the frames and the positions of an episode, its beginning included."""
    frame, info = env.reset(seed=seed)
    frames, positions = [frame], [info["position"]]
    for action in actions:
        frame, _, terminated, _, info = env.step(int(action))
        frames.append(frame)
        positions.append(info["position"])
        if terminated:
            break
    return np.stack(frames), np.array(positions)


def run_explorer(env, name, seed):
    """Play an episode by script; return the sum of rewards and the last info."""
    policy, total = explorer(name), 0.0
    frame, info = env.reset(seed=seed)
    policy.reset(seed)
    while True:
        frame, reward, terminated, truncated, info = env.step(policy.act(frame))
        total += reward
        if terminated or truncated or info["success"]:
            return total, info


def play_on(env):
    for _ in range(50):
        env.step(0)


def engine_of(env):
    return env.unwrapped.engine


def in_one_of_three_tries(test):
    """Repeat a test of single frames: where other processes starve the engine, a frame may lack some of its terrain."""

    @functools.wraps(test)
    def tried(*args, **kwargs):
        for _ in range(2):
            try:
                return test(*args, **kwargs)
            except AssertionError as error:
                print(f"once more, after: {str(error)[:200]}")
        return test(*args, **kwargs)

    return tried


def left_behind(pids, folder, display):
    """Name what is still there of an engine; wait up to 10 s for it to go."""
    deadline = time.monotonic() + 10
    while True:
        left = [f"process {pid}" for pid in pids if os.path.exists(f"/proc/{pid}") and not is_zombie(pid)]
        left += [str(folder)] if os.path.exists(folder) else []
        left += [f"display {display}"] if is_abandoned(f"/tmp/.X11-unix/X{display}") else []
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def is_abandoned(path):
    """Whether a socket is there where nobody listens; a display that others started since would listen."""
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(path)
        except ConnectionRefusedError:
            return True
        except FileNotFoundError:
            return False
    return False


def is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True

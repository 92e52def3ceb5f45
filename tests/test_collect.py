"""Promises of recording."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from test_supervisor import is_running
from toy import ToyEnv, toy_dataset

from dreamenv.commands.collect import Collect, policy_maker
from dreamenv.data import EpisodeDataset, RandomPolicy, StickyRandomPolicy, collect, recording
from dreamenv.data.episode_runner import EpisodeRunner, episode_seed
from dreamenv.data.policies import EpsilonPolicy, MixturePolicy
from dreamenv.errors import ConfigError, DatasetError, StorageError, WorkerError

SPACE = gym.spaces.Discrete(3)
sticky = partial(StickyRandomPolicy, SPACE)


class SelfishEnv(ToyEnv):
    """Kills its process in the third episode."""

    count = 0

    def reset(self, **kwargs):
        SelfishEnv.count += 1
        if SelfishEnv.count == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset(**kwargs)


class LeakyEnv(SelfishEnv):
    """Starts a process that holds all pipes of the worker open when it dies."""

    def __init__(self):
        super().__init__()
        for descriptor in map(int, os.listdir("/dev/fd")):
            with suppress(OSError):
                os.set_inheritable(descriptor, True)
        code = "import sys, time; open(sys.argv[1], 'w'); time.sleep(25)"
        subprocess.Popen([sys.executable, "-c", code, "started"], close_fds=False)
        while not os.path.exists("started"):
            time.sleep(0.01)


class StuckEnv(ToyEnv):
    """Says which process it is in, and never ends a step."""

    def step(self, action):
        Path("stuck").write_text(str(os.getpid()))
        time.sleep(60)


class BlindEnv(gym.Env):
    observation_space, action_space = gym.spaces.Discrete(2), SPACE


class BrokenEnv(ToyEnv):
    def step(self, action):
        raise RuntimeError("the monster ate the pixels")


class CuriousEnv(ToyEnv):
    """Tells in its score where it works and with how many threads."""

    def _info(self):
        with open("mine.txt", "a") as file:
            file.write("here\n")
        return {"score": float(os.environ["OMP_NUM_THREADS"]), "success": os.getcwd().endswith(("0", "1"))}


def test_recordings_do_not_depend_on_the_workers(tmp_path):
    alone = collect(ToyEnv, sticky, tmp_path / "0", steps=150, num_workers=0, progress=False)
    both = collect(ToyEnv, sticky, tmp_path / "2", steps=150, num_workers=2, progress=False)
    assert alone.content_hash() == both.content_hash()
    assert [vars(record) for record in alone.records] == [vars(record) for record in both.records]
    assert sorted(os.listdir(tmp_path / "2")) == [".lock", "data", "pending"]
    assert os.listdir(tmp_path / "2" / "pending") == []


def test_what_a_killed_recording_left_is_cleared_when_it_is_found_complete(tmp_path):
    first = collect(ToyEnv, sticky, tmp_path / "d", steps=50, num_workers=0, progress=False)
    (tmp_path / "d" / "pending" / "run-1").mkdir()
    again = collect(ToyEnv, sticky, tmp_path / "d", steps=50, num_workers=0, progress=False)
    assert again.content_hash() == first.content_hash()
    assert os.listdir(tmp_path / "d" / "pending") == []


def test_exactly_so_many_steps_are_recorded_and_the_last_episode_says_that_it_was_cut(tmp_path):
    for steps in (1, 57, 100):
        dataset = collect(ToyEnv, sticky, tmp_path / str(steps), steps=steps, num_workers=0, progress=False)
        assert dataset.total_steps == steps
        whole = [e for e in dataset if e.score is not None]
        assert len(whole) >= len(dataset) - 1
        if len(whole) < len(dataset):
            last = dataset[-1]
            assert (last.terminated, last.truncated, last.success) == (False, True, None)
        assert all(e.terminated != e.truncated for e in dataset)


def test_an_episode_can_be_played_again_from_its_record(tmp_path):
    dataset = collect(ToyEnv, partial(RandomPolicy, SPACE), tmp_path / "d", episodes=3, num_workers=0, progress=False)
    env = ToyEnv()
    for number, episode in enumerate(dataset):
        assert episode.seed == episode_seed(0, number)
        frame, _ = env.reset(seed=episode.seed)
        frames = [frame] + [env.step(action)[0] for action in episode.actions]
        np.testing.assert_array_equal(episode.frames, frames)
        assert (episode.policy, episode.score) == ("random", env._info()["score"])


def test_more_can_be_recorded_later_with_another_policy(tmp_path):
    first = collect(ToyEnv, sticky, tmp_path / "d", episodes=4, num_workers=0, progress=False)
    hashes = [record.sha256 for record in first.records]
    more = collect(ToyEnv, partial(RandomPolicy, SPACE), tmp_path / "d", episodes=6, num_workers=0, progress=False)
    assert [record.sha256 for record in more.records][:4] == hashes
    assert [record.policy for record in more.records] == ["sticky"] * 4 + ["random"] * 2
    assert len({record.seed for record in more.records}) == 6
    again = collect(BrokenEnv, sticky, tmp_path / "d", episodes=6, num_workers=0, progress=False)
    assert again.content_hash() == more.content_hash()  # nothing to do, so no environment is made


RECORD = """
import sys, time
sys.path.insert(0, {tests!r})
from toy import ToyEnv
from dreamenv.data import StickyRandomPolicy, collect
import gymnasium as gym

class Slow(ToyEnv):
    def step(self, action):
        time.sleep(0.002)
        return super().step(action)

if __name__ == "__main__":
    collect(Slow, lambda: StickyRandomPolicy(gym.spaces.Discrete(3)), {path!r}, steps=250, num_workers=2)
"""


def test_a_killed_recording_resumes_with_nothing_lost_doubled_or_half_written(tmp_path):
    path, script = tmp_path / "killed", tmp_path / "record.py"
    script.write_text(RECORD.format(tests=str(Path(__file__).parent), path=str(path)))
    kept: list[str] = []
    for least in (3, 9):
        with subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not (path / "data" / str(least)).exists():
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        found = EpisodeDataset.open(path)
        assert least < len(found)
        hashes = [episode.digest() for episode in found]  # reading checks them, too
        assert hashes[: len(kept)] == kept
        kept = hashes
    resumed = collect(ToyEnv, sticky, path, steps=250, num_workers=0, progress=False)
    whole = collect(ToyEnv, sticky, tmp_path / "whole", steps=250, num_workers=0, progress=False)
    assert resumed.content_hash() == whole.content_hash()
    assert [record.sha256 for record in resumed.records][: len(kept)] == kept


def test_the_death_of_a_worker_is_an_error_and_what_was_recorded_stays(tmp_path):
    with pytest.raises(WorkerError, match=r"recording worker 0 \(process \d+\), playing episode 2 .*signal 9.*resume"):
        collect(SelfishEnv, sticky, tmp_path / "d", episodes=5, num_workers=1, progress=False)
    assert len(collect(ToyEnv, sticky, tmp_path / "d", episodes=5, num_workers=0, progress=False)) == 5


def test_the_death_of_a_worker_is_noticed_though_another_process_holds_its_pipes(tmp_path):
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"playing episode 2 .*signal 9"):
        collect(LeakyEnv, sticky, tmp_path / "d", episodes=5, num_workers=1, progress=False)
    assert time.monotonic() - began < 20  # most of which a worker takes to start on a busy machine


def test_a_worker_that_is_in_the_middle_of_a_step_ends_with_a_killed_recording(tmp_path):
    script = tmp_path / "record.py"
    script.write_text(
        RECORD.format(tests=str(Path(__file__).parent), path=str(tmp_path / "d")).replace(
            "collect(Slow", "from test_collect import StuckEnv\n    collect(StuckEnv"
        )
    )
    with subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL) as process:
        while len(found := list((tmp_path / "d").glob("pending/workers-*/*/stuck"))) < 2:
            time.sleep(0.01)
        workers = [int(file.read_text()) for file in found]
        process.kill()
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_running, workers))


class EagerPool:
    """A pool whose other episodes are played at once while the first one never ends."""

    def __init__(self):
        self.submitted = []

    def describe(self):
        return EpisodeRunner((ToyEnv, sticky)).describe()

    def has_capacity(self):
        return len(self.submitted) < 500

    def submit(self, job, number):
        self.submitted.append(number)
        if number:
            (job.folder / str(number)).mkdir()

    def wait(self):
        raise WorkerError("nothing more happens")


def test_only_so_many_episodes_are_played_ahead_of_one_that_does_not_end(tmp_path):
    pool = EagerPool()
    with pytest.raises(WorkerError, match="nothing more"):
        recording._record(tmp_path, pool, 10_000, by_steps=True, seed=0, keep=tmp_path / "w", progress=False, ahead=20)
    assert pool.submitted == list(range(20))


def test_an_error_of_the_environment_is_passed_on(tmp_path):
    with pytest.raises(WorkerError, match=r"(?s)playing episode 0.*the monster ate the pixels"):
        collect(BrokenEnv, sticky, tmp_path / "d", episodes=1, num_workers=1, progress=False)


def test_every_worker_has_one_thread_and_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.chdir(tmp_path)
    dataset = collect(CuriousEnv, sticky, "d", episodes=4, num_workers=2, progress=False)
    assert {record.score for record in dataset.records} == {1.0}
    assert {record.success for record in dataset.records} == {True}
    assert os.listdir(tmp_path) == ["d"]
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_dataset_of_another_environment_is_refused(tmp_path):
    toy_dataset(tmp_path / "d", 2)
    with pytest.raises(DatasetError, match=r"recorded in another way.*argument max_episode_steps: 7 against 30"):
        collect(partial(ToyEnv, max_episode_steps=7), sticky, tmp_path / "d", episodes=3, num_workers=0, progress=False)
    assert len(EpisodeDataset.open(tmp_path / "d")) == 2


def test_two_recordings_into_one_folder_are_refused(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match="being recorded by another process"):
            collect(ToyEnv, sticky, tmp_path, episodes=1, num_workers=0, progress=False)


def test_a_full_disk_ends_the_recording_and_keeps_what_there_was(tmp_path, monkeypatch):
    collect(ToyEnv, sticky, tmp_path / "d", episodes=2, num_workers=0, progress=False)
    sync, calls = os.fsync, []

    def fill(handle):
        calls.append(handle)
        if len(calls) > 10:
            raise OSError(28, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        with pytest.raises(StorageError, match="No space left"):
            collect(ToyEnv, sticky, tmp_path / "d", episodes=9, num_workers=0, progress=False)
    done = collect(ToyEnv, sticky, tmp_path / "d", episodes=9, num_workers=0, progress=False)
    fresh = collect(ToyEnv, sticky, tmp_path / "fresh", episodes=9, num_workers=0, progress=False)
    assert done.content_hash() == fresh.content_hash()


def test_settings_that_cannot_work_are_refused(tmp_path):
    for wrong, message in (
        ({}, "either steps or episodes"),
        ({"steps": 1, "episodes": 1}, "either steps or episodes"),
        ({"steps": 0}, "steps must be a whole number, at least 1, not 0"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"episodes": "ten"}, "episodes must be a whole number"),
        ({"episodes": 2, "num_workers": -1}, "num_workers"),
        ({"episodes": 2, "num_workers": None}, "num_workers"),
        ({"episodes": 2, "num_workers": 100_000}, "num_workers must be at most 1024"),
        ({"episodes": 2, "seed": -1}, "seed"),
        ({"episodes": 2, "seed": None}, "seed"),
    ):
        with pytest.raises(ConfigError, match=message):
            collect(ToyEnv, sticky, tmp_path / "d", **wrong)
    with pytest.raises(ConfigError, match="no image to record"):
        collect(BlindEnv, sticky, tmp_path / "d", episodes=1, num_workers=1, progress=False)
    assert not (tmp_path / "d" / "data").exists()


def play_policy(policy, seed, steps=2000):
    policy.reset(seed)
    frame = np.zeros((16, 16, 3), np.uint8)
    return [int(policy.act(frame)) for _ in range(steps)]


def test_a_sticky_policy_keeps_its_action_as_often_as_it_says():
    actions = np.array(play_policy(StickyRandomPolicy(SPACE, 0.75), 0, 6000))
    kept = (actions[1:] == actions[:-1]).mean()
    assert kept == pytest.approx(0.75 + 0.25 / 3, abs=0.02)  # a fresh draw of three repeats it by chance
    assert len(set(actions)) == 3
    with pytest.raises(ConfigError, match="stickiness"):
        StickyRandomPolicy(SPACE, 1.0)


@pytest.mark.parametrize(
    "make",
    [
        sticky,
        partial(RandomPolicy, SPACE),
        lambda: EpsilonPolicy(StickyRandomPolicy(SPACE), 0.3, SPACE),
        lambda: MixturePolicy([(1, RandomPolicy(SPACE)), (2, StickyRandomPolicy(SPACE))]),
    ],
)
def test_a_policy_follows_its_seed_whatever_it_played_before(make):
    one, other = make(), make()
    play_policy(one, 1, 30)
    assert play_policy(one, 5, 50) == play_policy(other, 5, 50)
    assert play_policy(one, 5, 50) != play_policy(other, 6, 50)


def test_policies_do_not_share_the_space_they_are_given():
    space = gym.spaces.Discrete(3, seed=1)
    expected = [gym.spaces.Discrete(3, seed=1).sample() for _ in range(1)]
    play_policy(RandomPolicy(space), 9, 20)
    assert [space.sample()] == expected


class Remembering:
    name = "remembering"

    def reset(self, seed):
        self.taken = []

    def act(self, frame):
        self.taken.append(0)
        return 0

    def set_last_action(self, action):
        self.taken[-1] = int(action)


def test_epsilon_replaces_so_many_actions_and_the_policy_hears_of_it():
    inner = Remembering()
    policy = EpsilonPolicy(MixturePolicy([(1, inner)]), 0.3, SPACE)
    actions = play_policy(policy, 0, 4000)
    assert np.mean(np.array(actions) != 0) == pytest.approx(0.3 * 2 / 3, abs=0.02)
    assert inner.taken == actions
    assert policy.name == "remembering, epsilon 0.3"
    with pytest.raises(ConfigError, match="epsilon"):
        EpsilonPolicy(inner, 1.5, SPACE)


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ("explorer", "explorer, epsilon 0.2"),
        ("sticky", "sticky"),  # random already
        ("random", "random"),
    ],
)
def test_the_command_disturbs_whoever_does_not_act_at_random(policy, name):
    command = Collect(env="my_way_home", out=Path("unused"), steps=1, policy=policy, epsilon=0.2)
    assert policy_maker(command, SPACE, ("noop", "turn_left", "forward"))().name == name


def test_a_mixture_plays_each_policy_by_its_weight_for_whole_episodes(tmp_path):
    policy = MixturePolicy([(3.0, RandomPolicy(SPACE)), (1.0, StickyRandomPolicy(SPACE))])
    names = []
    for seed in range(2000):
        policy.reset(seed)
        names.append(policy.name)
    assert names.count("random") / 2000 == pytest.approx(0.75, abs=0.04)
    dataset = collect(ToyEnv, lambda: policy, tmp_path / "d", episodes=8, num_workers=0, progress=False)
    assert {record.policy for record in dataset.records} == {"random", "sticky"}
    for parts in ([], [(0.0, RandomPolicy(SPACE))], [(-1.0, RandomPolicy(SPACE)), (3.0, RandomPolicy(SPACE))]):
        with pytest.raises(ConfigError, match="weights"):
            MixturePolicy(parts)


def test_seeds_of_episodes_differ_for_environment_and_policy():
    seeds = {episode_seed(seed, number, stream) for seed in range(3) for number in range(300) for stream in (0, 1)}
    assert len(seeds) == 1800
    assert 0 <= min(seeds) <= max(seeds) < 2**31


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_recording_that_is_long_enough_is_returned_only_if_it_is_of_the_same_environment(tmp_path, num_workers):
    settings = {"steps": 20, "num_workers": num_workers, "progress": False}
    collect(ToyEnv, sticky, tmp_path / "d", **settings)
    before = sorted(path for path in tmp_path.rglob("*") if "pending" not in path.parts)
    assert collect(ToyEnv, sticky, tmp_path / "d", **settings).total_steps == 20
    for other in (partial(ToyEnv, max_episode_steps=7), partial(ToyEnv, lethal=False)):
        with pytest.raises(DatasetError, match="was recorded in another way"):
            collect(other, sticky, tmp_path / "d", **settings)
    assert sorted(path for path in tmp_path.rglob("*") if "pending" not in path.parts) == before

"""Any environment with pictures is a real environment: by its class, by its id, on the command line."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from own_envs import FIELD, Blind, Dot
from PIL import Image

from dreamenv import World
from dreamenv.agents import RandomActor, RealVecEnv, evaluate
from dreamenv.cli import main
from dreamenv.data import EpisodeDataset, RandomPolicy, collect
from dreamenv.envs import full_id, make_real
from dreamenv.errors import (
    ActionError,
    ConfigError,
    FrameError,
    ResetNeededError,
    UnavailableError,
    UnknownNameError,
)

TESTS = Path(__file__).parent
CHOICES = spaces.Discrete(3)


def provenance(env: gym.Env[Any, Any]) -> Any:
    return env.get_wrapper_attr("provenance")


# Which environments


@pytest.mark.parametrize(
    "environment", [Dot, partial(Dot, level=4), lambda: Dot(), "own_envs:Dot", "own_envs:OwnDot-v0", "OwnDot-v0"]
)
def test_a_class_a_function_an_id_and_a_name_are_taken_alike(environment: Any) -> None:
    env = make_real(environment, size=16, frame_skip=2)
    frame, info = env.reset(seed=3)
    assert env.observation_space == spaces.Box(0, 255, (16, 16, 3), np.uint8)
    assert env.observation_space.contains(frame)
    after, reward, terminated, truncated, info = env.step(1)
    assert (reward, terminated, truncated) == (2.0, False, False)
    assert info["score"] == env.unwrapped.x
    assert frame.tobytes() != after.tobytes()
    assert provenance(env).frame_rate == 10.0
    assert provenance(env).score == "pixels to the right"
    assert provenance(env).action_names == ("stay", "right", "down")
    env.close()


def test_a_registered_environment_whose_observations_are_numbers_is_rendered() -> None:
    env = make_real("CartPole-v1", size=(32, 48))
    frame, _ = env.reset(seed=0)
    assert frame.shape == (32, 48, 3)
    assert len(np.unique(frame)) > 10  # it shows something
    assert (provenance(env).environment_id, provenance(env).max_episode_steps) == ("CartPole-v1", 500)
    env.close()


@pytest.mark.parametrize(
    ("shows", "channels"), [("picture", 3), ("grey", 1), ("flat", 1), ("dict", 3), ("vector", 3), ("symbols", 3)]
)
def test_frames_come_from_the_image_that_there_is(shows: str, channels: int) -> None:
    env = make_real(Dot, shows=shows, size=FIELD)
    frame, _ = env.reset(seed=1)
    assert frame.shape == env.observation_space.shape == (FIELD, FIELD, channels)
    np.testing.assert_array_equal(frame, env.unwrapped._draw()[..., :channels])
    env.close()


def test_frames_can_be_chosen() -> None:
    for frames in ("left", "render"):
        env = make_real(Dot, shows="two", frames=frames, size=16)
        again = make_real(Dot, **provenance(env).environment_kwargs)
        assert provenance(again) == provenance(env)
        np.testing.assert_array_equal(env.reset(seed=0)[0], again.reset(seed=0)[0])
    with pytest.raises(ConfigError, match=r"several images; choose one: frames='left' or 'right'"):
        make_real(Dot, shows="two")
    with pytest.raises(ConfigError, match="'left', 'right', 'render' or None, not 'middle'"):
        make_real(Dot, shows="two", frames="middle")


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
def test_gymnasium_accepts_what_is_made_of_an_environment() -> None:
    env = make_real(Dot, size=16)
    check_env(env, skip_render_check=True)
    registered = make_real("own_envs:OwnDot-v0", size=16, frame_skip=2, level=2)
    again = gym.make(registered.spec)
    assert provenance(again) == provenance(registered)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.Box(-1, 2, (2,), np.float32),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiBinary(2),
        spaces.Dict({"go": spaces.Discrete(3), "aim": spaces.Box(-1, 1, (2,), np.float64)}),
    ],
)
def test_every_action_space_with_a_layout_reaches_the_environment_as_its_own(space: gym.Space[Any]) -> None:
    env = make_real(lambda: Dot(actions=space))
    assert env.action_space == space
    env.reset(seed=0)
    for _ in range(5):
        env.step(space.sample())
    assert len(env.unwrapped.taken) == 5
    assert all(space.contains(action) for action in env.unwrapped.taken)


# What becomes of it


def test_actions_are_repeated_rewards_summed_and_the_end_of_an_episode_is_kept() -> None:
    env = make_real(Dot, frame_skip=4, level=3)
    env.reset(seed=0)
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(1)
        rewards.append(reward)
    steps = -(-(FIELD - 8 - _first_place(0)) // 3)
    assert rewards == [4.0] * (steps // 4) + ([float(steps % 4)] if steps % 4 else [])
    assert not truncated
    assert info["success"] is True
    assert type(info["score"]) is float
    with pytest.raises(ResetNeededError, match="reset"):
        env.step(1)
    env.reset()
    assert env.step(0)[4]["success"] is False


def _first_place(seed: int) -> int:
    env = Dot()
    env.reset(seed=seed)
    return env.x


@pytest.mark.parametrize(
    ("environment", "settings", "steps"),
    [
        (Dot, {"max_episode_steps": 7}, 7),
        (Dot, {"lasts": 5}, 5),
        ("OwnDot-v0", {}, 10),
        ("OwnDot-v0", {"max_episode_steps": 13}, 13),
        (Dot, {"max_episode_steps": 7, "frame_skip": 3}, 3),
    ],
)
def test_a_time_limit_truncates(environment: Any, settings: dict[str, Any], steps: int) -> None:
    env = make_real(environment, size=16, **settings)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(steps)]
    assert ends == [(False, False)] * (steps - 1) + [(False, True)]
    assert provenance(env).max_episode_steps == (None if "lasts" in settings else steps)


def test_the_first_episode_can_be_seeded_and_frames_are_not_drawn_over() -> None:
    env, other = make_real(Dot, seed=5), make_real(Dot)
    first, _ = env.reset()
    np.testing.assert_array_equal(first, other.reset(seed=5)[0])
    kept = first.copy()
    env.step(2)
    np.testing.assert_array_equal(first, kept)
    assert env.reset()[0].tobytes() == other.reset()[0].tobytes()


def test_its_arguments_are_part_of_the_provenance() -> None:
    made = make_real(partial(Dot, level=2), size=(16, 24), shows="grey", env_kwargs={"lasts": np.int64(9)})
    kwargs = provenance(made).environment_kwargs
    assert kwargs == {"size": [16, 24], "frame_skip": 1, "env_kwargs": {"level": 2, "shows": "grey", "lasts": 9}}
    assert provenance(make_real("own_envs:Dot", **json.loads(json.dumps(kwargs)))) == provenance(made)
    assert provenance(make_real(lambda: gym.make("OwnDot-v0"))).environment_id == "OwnDot-v0"
    assert [full_id(name) for name in (Dot, "own_envs:Dot", "take_cover")] == [
        "own_envs:Dot", "own_envs:Dot", "dreamenv/VizdoomTakeCover-v0",
    ]  # fmt: skip


def test_a_script_and_the_processes_it_starts_give_its_class_one_name(tmp_path: Path) -> None:
    script = tmp_path / "my_game.py"
    script.write_text(
        "from own_envs import Dot\n"
        "from dreamenv.data import RandomPolicy, collect\n"
        "from dreamenv.envs import make_real\n"
        "class Game(Dot):\n    pass\n"
        "if __name__ == '__main__':\n"
        "    for workers, folder in ((1, 'one'), (0, 'one'), (0, 'none')):\n"
        "        data = collect(Game, lambda: RandomPolicy(Game().action_space), folder, episodes=2 + (not workers),\n"
        "                       num_workers=workers, progress=False)\n"
        "        print(data.provenance.environment_id, data.content_hash())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["my_game:Game"] * 3
    assert lines[1] == lines[2]


# Errors


@pytest.mark.parametrize(
    ("environment", "settings", "error", "said"),
    [
        ("OwnDott-v0", {}, UnknownNameError, "'OwnDot-v0'.*import the module that registers it, or write package:id"),
        ("nobody_has_this", {}, UnknownNameError, "crafter.*package:Class"),
        ("own_envs:Dott", {}, UnknownNameError, "Did you mean 'own_envs:Dot'"),
        ("no_such_package_at_all:Dot", {}, ConfigError, "cannot be imported.*Install it, or run in the folder"),
        ("OwnMissing-v0", {}, UnavailableError, "no_such_package_at_all"),
        (Blind, {}, ConfigError, r"no image to record: it observes Discrete\(2\).*rgb_array"),
        (partial(Dot, shows="stack"), {}, ConfigError, r"\(32, 32, 4\).*frames='render'"),
        (Dot, {"levle": 3}, ConfigError, "levle.*It takes .*level"),
        ("OwnDot-v0", {"levle": 3}, ConfigError, "levle.*It takes .*level"),
        (lambda: Dot(actions=spaces.Tuple([CHOICES])), {}, ConfigError, "Tuple"),
        (Dot(), {}, ConfigError, "must be given as a name, or a class or function"),
        (None, {}, ConfigError, "must be given as a name, or a class or function"),
        (dict, {}, ConfigError, "made a dict, which is no gymnasium.Env"),
        (Dot, {"frame_skip": 1.5}, ConfigError, "frame_skip must be a whole number"),
        (Dot, {"max_episode_steps": 0}, ConfigError, "max_episode_steps must be a whole number"),
        (Dot, {"size": 6}, ConfigError, "size must be from 8"),
        (Dot, {"size": 32.5}, ConfigError, "size must be a whole number"),
        (partial(Dot, shows="vector"), {"render_mode": "human"}, ConfigError, "'rgb_array', not 'human'"),
        (Dot, {"actions": CHOICES}, ConfigError, "argument actions of own_envs:Dot .* make_real\\(lambda"),
        (partial(make_real, Dot), {"size": 16}, ConfigError, "already; give size=16 to the function"),
        ("take_cover", {"frames": "render"}, ConfigError, "takes no argument frames"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_with_the_remedy(
    environment: Any, settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        make_real(environment, **settings)


def test_what_an_environment_does_wrong_is_named() -> None:
    class Shrinking(Dot):
        def _draw(self) -> np.ndarray:
            return super()._draw().astype(np.float32) if self.count else super()._draw()

    class Wordy(Dot):
        def _tell(self) -> dict[str, Any]:
            return {"score": "plenty"}

    env = make_real(Shrinking)
    with pytest.raises(ResetNeededError):
        env.step(0)
    env.reset(seed=0)
    for action in (3, -1, 0.5, "left", np.nan):
        with pytest.raises(ActionError):
            env.step(action)
    with pytest.raises(FrameError, match="float32 where uint8"):
        env.step(0)
    with pytest.raises(ConfigError, match=r"info\['score'\].*'plenty'"):
        make_real(Wordy).reset()


# Recorded, batched, evaluated


@pytest.mark.parametrize("environment", [Dot, "own_envs:OwnDot-v0", partial(make_real, Dot, size=64)])
def test_recordings_and_agents_take_it_through_the_same_door(environment: Any, tmp_path: Path) -> None:
    made = make_real(environment)
    data = collect(environment, partial(RandomPolicy, CHOICES), tmp_path / "d", steps=30, num_workers=0, progress=False)
    assert data.provenance == provenance(made)
    assert data.frame_shape == (64, 64, 3)
    whole = [episode for episode in data if episode.score is not None]
    assert whole[0].success == (whole[0].score == FIELD - 8)
    env = RealVecEnv(environment, 2)
    assert env.provenance == data.provenance
    env.close()
    result = evaluate(RandomActor(CHOICES), environment, episodes=3)
    assert result.target == data.provenance.environment_id
    assert result.score_name == "pixels to the right"
    assert result.scores is not None
    assert result.successes is not None


def test_scores_without_a_name_are_not_called_returns() -> None:
    class Nameless(Dot):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    assert ": score " in str(evaluate(RandomActor(CHOICES), Nameless, episodes=2))


def test_an_unknown_name_is_refused_before_any_worker_starts(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="OwnDot-v0"):
        collect("OwnDott-v0", partial(RandomPolicy, CHOICES), tmp_path / "d", steps=3)
    assert not (tmp_path / "d").exists()


def test_the_command_line_goes_all_the_way_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_package.py").write_text(
        "import gymnasium as gym, own_envs\n"
        "class MyEnv(own_envs.Dot):\n    pass\n"
        "gym.register('MyEnv-v0', entry_point=MyEnv, max_episode_steps=12)\n"
    )
    monkeypatch.chdir(tmp_path)  # where a package of one's own lies; it is not installed
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    for arguments in (
        ["collect", "my_package:MyEnv-v0", "--env-kwargs", '{"level": 5}', "--out", "data", "--episodes", "4", "--size",
         "16", "--workers", "1"],
        ["train", "data", "--out", "run", "--backbone", "persistence", "--starts", "8", "--eval-windows", "2",
         "--eval-horizon", "5", "--holdout", "0.5", "--no-progress"],
        ["agent", "--world", "run", "--out", "ppo", "--total-steps", "32", "--num-envs", "2", "--ppo.n-steps", "8",
         "--ppo.batch-size", "16", "--ppo.n-epochs", "1", "--observation.kind", "frame", "--dream.horizon", "5"],
        ["evaluate", "ppo", "--on", "my_package:MyEnv-v0", "--episodes", "2", "--out", "real.json"],
        ["evaluate", "random", "--on", "my_package:MyEnv", "--frame-skip", "2", "--max-episode-steps", "9",
         "--episodes", "2"],
    ):  # fmt: skip
        assert main(arguments) == 0, capsys.readouterr().err
    recorded = EpisodeDataset.open("data").provenance
    assert recorded.environment_id == "my_package:MyEnv-v0"
    assert recorded.environment_kwargs["env_kwargs"] == {"level": 5}
    assert json.loads(Path("real.json").read_text())["target"] == "my_package:MyEnv-v0"
    assert "pixels to the right" in capsys.readouterr().out
    for arguments, said in (
        (["collect", "my_package:MyEnv-v0", "--out", "x", "--steps", "1", "--env-kwargs", "{level: 5}"], "no JSON"),
        (["collect", "my_package:MyEnv-v0", "--out", "x", "--steps", "1", "--env-kwargs", "[5]"], "a dictionary"),
        (["collect", "my_package:MyEnv-v1", "--out", "x", "--steps", "1"], "my_package:MyEnv-v0"),
        (["collect", "my_packag:MyEnv-v0", "--out", "x", "--steps", "1"], "cannot be imported"),
        (["collect", "my_package:MyEnv-v0", "--out", "x", "--steps", "1", "--policy", "scripted"], "my_package"),
        (["evaluate", "random", "--on", "my_package:MyEnv-v0", "--reward", "shaped"], "shaped"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1
        assert said in error
    assert not Path("x").exists()


def test_the_example_goes_from_a_grid_world_to_a_policy_that_learned_in_its_dreams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(TESTS.parent / "examples"))
    example = importlib.import_module("own_environment")
    example.main(tmp_path, steps=400, joint_steps=3, dynamics_steps=3, agent_steps=2048, episodes=2, num_workers=0)
    picture = np.asarray(Image.open(tmp_path / "dream.png"))
    above, below = np.split(picture[: len(picture) // 2 * 2], 2)
    assert above.std() > 10
    assert above.tobytes() != below.tobytes()
    assert (
        provenance_of(tmp_path / "data") == provenance_of(tmp_path / "world" / "world") == "own_environment:GridWorld"
    )
    shown = capsys.readouterr().out
    for line in ("PPO in the dream:", "PPO in reality:", "random actions in reality:"):
        assert line in shown
    assert shown.count("goal reached (0 or 1)") == 2  # a dream has returns alone


def provenance_of(folder: Path) -> str:
    held = EpisodeDataset.open(folder) if (folder / "data").is_dir() else World.load(folder)
    assert held.provenance is not None
    return held.provenance.environment_id

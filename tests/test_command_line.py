"""The command line goes all the way round, explains itself, and turns bad input into one line."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import gymnasium as gym
import numpy as np
import pygame
import pytest
from PIL import Image

import dreamenv.envs
from dreamenv import World
from dreamenv.agents import SavedPolicy, evaluate
from dreamenv.cli import COMMANDS, main
from dreamenv.commands import doctor
from dreamenv.commands.arguments import in_flags
from dreamenv.commands.keyboard import choose_action, describe_keys
from dreamenv.commands.script import scripted_actions
from dreamenv.commands.worlds import terminal_picture
from dreamenv.envs import FAMILIES, find_task, make_real, task_names
from dreamenv.envs.families import family_of
from dreamenv.errors import CheckpointError, ConfigError, DreamenvError, UnavailableError, UnknownNameError
from dreamenv.shipped import shipped_worlds

WALK = ("noop", "turn_left", "turn_right", "forward", "forward_left", "forward_right")


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recording, a world that was trained on it and a policy that was trained in its dreams."""
    folder = tmp_path_factory.mktemp("loop")
    run = [
        ["collect", "take_cover", "--out", "data", "--episodes", "2", "--workers", "1"],
        ["train", "data", "--out", "run", "--backbone", "persistence", "--starts", "8", "--eval-windows", "2",
         "--eval-horizon", "5", "--holdout", "0.5", "--no-progress"],
        ["agent", "--world", "run", "--out", "ppo", "--total-steps", "32", "--num-envs", "2", "--ppo.n-steps", "8",
         "--ppo.batch-size", "16", "--ppo.n-epochs", "1", "--observation.kind", "frame", "--dream.horizon", "5"],
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in run:
            assert main(arguments) == 0, arguments
    return folder


@pytest.fixture
def in_loop(loop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(loop)
    return loop


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert main([]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options_and_their_defaults(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: dreamenv {command}" in shown
    assert command in ("convert", "doctor") or "default:" in shown


def test_the_settings_of_a_backbone_become_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "data", "--out", "world", "--backbone", "rssm", "--preset", "tiny", "--help"])
    shown = capsys.readouterr().out
    assert "--model.deter" in shown
    assert "--model.training.joint.steps" in shown
    assert "--learning-rate" in shown or "--seed" in shown


def test_asking_for_help_imports_no_torch() -> None:
    code = "import sys; from dreamenv.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_an_unknown_command_suggests_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["colect"]) == 2
    hint = "Did you mean 'collect' or 'convert' or 'score'?"
    assert capsys.readouterr().err == f"error: No command named 'colect'. {hint}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info", "no/such/world"], "no/such/world"),
        (["play", "no/such/world", "--headless"], "no/such/world"),
        (["evaluate", "random", "--on", "take_covr"], "take_cover"),
        (["evaluate", "random", "--on", "no/such/world"], "no/such/world"),
        (["evaluate", "no/such/policy", "--on", "take_cover"], "no/such/policy"),
        (["train", "no/such/data", "--out", "out"], "no/such/data"),
        (["train", ".", "--out", "out", "--backbone", "rsm"], "rssm"),
        (["collect", "take_covr", "--out", "out", "--steps", "1"], "take_cover"),
        (["collect", "take_cover", "--out", "out", "--steps", "1", "--policy", "sticky=0,random=1"], "positive share"),
        (["agent", "--out", "out", "--world", "no/such/world"], "no/such/world"),
        (["collect", "take_cover", "--out", "out", "--steps", "0"], "--steps must be a whole number, at least 1"),
        (["collect", "take_cover", "--out", "out", "--steps", "9", "--workers", "100000"], "--workers must be at most"),
        (["collect", "vizdoom", "--out", "out", "--steps", "9"], "vizdoom needs a configuration file: --config"),
        (["collect", "take_cover", "--out", "", "--steps", "9"], "--out is empty"),
        (["train", "", "--out", "out"], "an argument is empty"),
        (["agent", "--out=", "--world", "default"], "--out is empty"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1
    assert shown[0].startswith("error: ")
    assert said in shown[0]
    assert list(tmp_path.iterdir()) == []


def test_the_origin_of_an_error_is_shown_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMENV_DEBUG", "1")
    with pytest.raises(UnknownNameError):
        main(["colect"])


def test_an_interruption_says_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dreamenv.commands import info

    def interrupt(path: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "describe", interrupt)
    assert main(["info"]) == 130
    assert "same command" in capsys.readouterr().err


def test_collecting_again_adds_no_duplicates(in_loop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "take_cover", "--out", "data", "--episodes", "2", "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("2 episodes, ")
    assert shown.endswith("Wrote data\n")


@pytest.mark.parametrize(
    ("path", "kind"), [("data", "recording"), ("run", "world"), ("run/world", "world"), ("ppo", "policy")]
)
def test_info_describes_worlds_recordings_and_policies(
    path: str, kind: str, in_loop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", path, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == kind
    assert facts["provenance"]["environment_id"] == "dreamenv/VizdoomTakeCover-v0"
    assert main(["info", path]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"A {kind} of dreamenv/VizdoomTakeCover-v0"), "a summary comes first"
    assert f"kind:                  {kind}\n" in shown


def test_info_refuses_a_folder_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path)]) == 2
    assert "neither a world" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["run", "take_cover"])
def test_a_policy_is_scored_in_the_dream_and_in_the_real_environment(
    place: str, in_loop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "ppo", "--on", place, "--episodes", "2", "--num-envs", "1", "--out", "score.json"]
    horizon = ["--horizon", "5"] if place == "run" else []
    assert main([*arguments, *horizon]) == 0
    result = json.loads((in_loop / "score.json").read_text())
    assert result["episodes"] == 2
    assert len(result["returns"]) == 2
    shown = capsys.readouterr().out
    assert "n = 2" in shown
    assert shown.endswith("Wrote score.json\n")


def test_without_a_display_play_writes_a_video_of_the_dream(
    in_loop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dreamenv.commands.play.has_display", lambda: False)
    video = in_loop / "video.mp4"
    assert main(["play", "run", "--out", str(video), "--steps", "6", "--actions", "left*2,1", "--horizon", "5"]) == 0
    shown = capsys.readouterr().out
    assert "no display" in shown
    assert shown.endswith(f"Wrote {video}\n")
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 6  # the start, and five steps to the horizon
    assert frames[0].shape == (512, 512, 3)


def test_keys_control_save_and_restore_a_dream(in_loop: Path) -> None:
    from dreamenv.commands.window import control
    from dreamenv.dream import DreamEnv

    def press(*keys: int) -> list[pygame.event.Event]:
        return [pygame.event.Event(pygame.KEYDOWN, key=key) for key in keys]

    turns: Iterator[list[pygame.event.Event]] = iter(
        [
            press(pygame.K_LEFT),
            [pygame.event.Event(pygame.KEYUP, key=pygame.K_LEFT)],
            press(pygame.K_F5),
            press(pygame.K_r),
            press(pygame.K_F9),
            press(pygame.K_p),
            [],
            press(pygame.K_ESCAPE),
        ]
    )
    done: list[int] = []

    class Watched(DreamEnv):
        def step(self, action):  # type: ignore[no-untyped-def]
            done.append(int(action))
            return super().step(action)

    env = Watched(in_loop / "run" / "world", horizon=100)
    steps = control(env, ("noop", "left", "right"), frame_rate=1000.0, scale=2, seed=0, poll=lambda: next(turns))
    assert done == [1, 0, 0, 0, 0]  # paused after five, then left
    assert steps == 5
    env.close()


def test_keys_choose_the_action_that_matches_most_pressed_keys() -> None:
    assert choose_action(WALK, {"up"}) == 3
    assert choose_action(WALK, {"w", "a"}) == 4
    assert choose_action(WALK, {"left"}) == 1
    assert choose_action(WALK, {"left", "right", "up"}) == 3, "opposite keys cancel"
    assert choose_action(WALK, {"down"}) == 0, "no such action here"
    assert choose_action(WALK, {"2"}) == 2
    assert choose_action(("noop", "attack"), {"space"}) == 1
    assert "left + up, or 4" in describe_keys(WALK)


def test_scripts_of_actions_repeat_indefinitely() -> None:
    space = gym.spaces.Discrete(3)
    script = scripted_actions("left*2, noop, 2", space, ("noop", "left", "right"), seed=0)
    assert [next(script) for _ in range(6)] == [1, 1, 0, 2, 1, 1]


def test_random_scripts_follow_their_seed_and_sticky_ones_stick() -> None:
    def sample(kind: str, seed: int) -> list[int]:
        script = scripted_actions(kind, gym.spaces.Discrete(5), (), seed=seed)
        return [int(next(script)) for _ in range(400)]

    def changes(actions: list[int]) -> float:
        return float(np.mean(np.diff(actions) != 0))

    assert sample("random", 1) == sample("random", 1) != sample("random", 2)
    assert changes(sample("random", 0)) == pytest.approx(0.8, abs=0.1)
    assert changes(sample("sticky", 0)) == pytest.approx(0.08, abs=0.05)


@pytest.mark.parametrize(
    ("script", "space", "error"),
    [
        ("lft", gym.spaces.Discrete(2), UnknownNameError),
        ("left*x", gym.spaces.Discrete(2), ConfigError),
        ("left*0", gym.spaces.Discrete(2), ConfigError),
        (" , ", gym.spaces.Discrete(2), ConfigError),
        ("left", gym.spaces.Box(-1, 1, (2,)), ConfigError),
    ],
)
def test_a_script_that_cannot_be_read_is_refused(
    script: str, space: gym.Space[object], error: type[DreamenvError]
) -> None:
    with pytest.raises(error):
        scripted_actions(script, space, ("noop", "left"), seed=0)


def test_doctor_checks_packages_and_environments_and_fails_if_one_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = doctor.Finding(name="broken", ok=False, detail="does not start", remedy="pip install broken")
    monkeypatch.setattr(doctor, "check_worlds", lambda: iter([broken]))
    monkeypatch.setattr(doctor, "check_real_environments", lambda: iter([]))
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 1
    shown = capsys.readouterr().out
    assert "ok    torch" in shown
    assert "FAILS broken" in shown
    assert "make it run: pip install broken" in shown


def test_doctor_names_the_command_that_installs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    extras = {finding.name: finding for finding in doctor.check_extras()}
    assert extras["minigrid"].remedy == "pip install 'dreamenv[minigrid]'"
    assert not extras["minigrid"].required
    assert all(not finding.ok and finding.remedy for finding in doctor.check_packages())


def test_doctor_starts_every_available_real_environment() -> None:
    found = {finding.name: finding for finding in doctor.check_real_environments()}
    assert set(found) == set(task_names())
    for family in FAMILIES:
        for name in family.tasks:
            assert found[name].ok == (family.missing_for(name) is None), found[name]


@pytest.mark.parametrize(("package", "task"), [("minigrid", "minigrid_door_key"), ("crafter", "crafter")])
def test_doctor_and_the_error_agree_on_a_missing_family(
    package: str, task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(package, monkeypatch)
    family = family_of(find_task(task))
    monkeypatch.setattr(dreamenv.envs, "FAMILIES", (family, FAMILIES[0]))
    monkeypatch.setattr(doctor, "check_worlds", lambda: iter([]))
    main(["doctor"])  # an optional family that is missing is no failure
    shown = capsys.readouterr().out
    what, remedy = f"the package {package} is not installed", f"pip install 'dreamenv[{package}]'"
    lines = shown.splitlines()
    for name in family.tasks:
        (line,) = (number for number, text in enumerate(lines) if text.split()[:2] == ["-", name])
        assert lines[line].endswith(what)
        assert lines[line + 1].strip() == f"make it run: {remedy}"
    assert "ok    take_cover" in shown  # and breaks no other
    with pytest.raises(UnavailableError) as error:
        make_real(task)
    assert str(error.value) == f"{task} cannot run here: {what}. Make it run: {remedy}"


def test_doctor_names_the_remedy_of_environments_that_fail_at_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **_: object) -> None:
        raise UnavailableError(name, "OpenGL does not start", "apt-get install -y libgl1")

    monkeypatch.setattr(dreamenv.envs, "make_real", fail)
    found = list(doctor.check_real_environments())
    assert {(finding.detail, finding.remedy) for finding in found if finding.name == "take_cover"} == {
        ("OpenGL does not start", "apt-get install -y libgl1")
    }


def test_everything_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hide("miniworld", monkeypatch)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    monkeypatch.setattr(sys, "platform", "linux")
    missing = family_of(find_task("miniworld_hallway")).missing_for("miniworld_hallway")
    assert missing is not None
    for name in ("the package miniworld", "libGL.so.1", "libEGL.so.1", "libGLU.so.1"):
        assert name in missing.what
    assert missing.remedy.startswith("pip install 'dreamenv[miniworld]' && apt-get install -y ")


def hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a package look as if it were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["agent", "--out", "out", "--num-envs", "0"], "--num-envs must be a whole number, at least 1, not 0."),
        (["agent", "--out", "out", "--ppo.gamma", "2"], "--ppo.gamma must be a finite number, at least 0, at most 1"),
        (["agent", "--out", "out", "--where", "mixed", "--real-envs", "64"], "between 1 and --num-envs - 1 = 63"),
        (["play", "--steps", "0"], "--steps must be at least 1, not 0."),
        (["play", "--frame-rate", "0"], "--frame-rate must be positive"),
        (["train", ".", "--out", "out", "--model.training.joint.steps", "-1"], "--model.training.joint.steps must be"),
        (["collect", "take_cover", "--out", "out", "--steps", "1", "--policy", "nope"], "'nope'"),
        (["collect", "take_cover", "--out", "out", "--steps", "1", "--policy", "sticky=0.5,no/pe=0.5"], "no/pe"),
        (["collect", "take_cover", "--out", "out", "--steps", "1", "--policy", "scripted"], "scripted policy"),
        (["collect", "take_cover", "--out", "out", "--steps", "1", "--world", "no/pe"], "no/pe"),
        (["import", "diamond", "no.pt", "--starts", ".", "--out", "out"], "no.pt"),
        (["train", ".", "--out", "out", "--initial", "no/pe"], "no/pe"),
        (["agent", "--out", "out", "--where", "real", "--env", "take_covr"], "take_cover"),
        (["agent", "--out", "out", "--evaluate-in", "no/pe"], "no/pe"),
    ],
)  # fmt: skip
def test_messages_name_the_flag_and_come_before_anything_is_started(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dreamenv.commands.collect.collect", None)
    assert main(arguments) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1
    assert said in shown[0]
    assert list(tmp_path.iterdir()) == []


def test_values_within_a_message_are_left_as_they_are() -> None:
    assert main(["collect", "take_cover", "--out", "out", "--steps", "1", "--policy", "sticky=0"]) == 2
    assert in_flags("as in 'sticky=0.3,runs/policy=0.7'.") == "as in 'sticky=0.3,runs/policy=0.7'."
    assert in_flags("pass resume=False to start over") == "pass --fresh to start over"


@pytest.mark.parametrize(
    "arguments",
    [
        *([command, "--help"] for command in COMMANDS),
        ["train", "no/such/data", "--out", "out"],
        ["play", "no/such/world"],
        ["info", "no/such/world"],
        ["evaluate", "no/such/policy", "--on", "take_cover"],
        ["evaluate", "random", "--on", "no/such/world"],
        ["agent", "--out", "out", "--world", "no/such/world"],
        ["collect", "take_cover", "--out", "out", "--steps", "1", "--policy", "no/such/policy"],
        ["import", "oasis", "no/such/file", "--starts", ".", "--out", "out"],
    ],
    ids=" ".join,
)
def test_help_and_wrong_paths_do_not_wait_for_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom dreamenv.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'stable_baselines3', 'vizdoom', 'matplotlib', 'tensordict'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr


def test_the_preset_for_tests_says_so(
    in_loop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dreamenv.training.train", lambda *_, **__: None, raising=False)
    for preset, said in (("tiny", True), ("small", False)):
        assert main(["train", "data", "--out", "unused", "--preset", preset]) == 0
        assert ("for tests" in capsys.readouterr().out) is said


def test_training_ends_with_what_the_world_is_worth(in_loop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "data", "--out", "run", "--backbone", "persistence", "--starts", "8", "--eval-windows", "2",
                 "--eval-horizon", "5", "--holdout", "0.5"]  # fmt: skip
    assert main(arguments) == 0  # it is trained already, and measured
    *_, verdict, written = capsys.readouterr().out.splitlines()
    assert written == "Wrote run/world"
    assert verdict.startswith("World against repeating the last frame")
    assert "1 step ahead" in verdict


@pytest.mark.parametrize("name", ["default", "take_cover"])
def test_the_world_in_the_package_has_a_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "world"


def test_python_takes_the_folder_of_a_run_as_the_command_line_does(in_loop: Path) -> None:
    assert World.load("run").content_hash() == World.load("run/world").content_hash()
    env = gym.make("dreamenv:dreamenv/Dream-v0", world="run")
    env.reset(seed=0)
    env.close()
    assert SavedPolicy.load("ppo").record == SavedPolicy.load("ppo/policy").record
    by_folder = evaluate("ppo", "run", episodes=2, horizon=5)
    by_object = evaluate(SavedPolicy.load("ppo/policy"), World.load("run/world"), episodes=2, horizon=5)
    assert by_folder.returns == by_object.returns
    assert evaluate("ppo", in_loop / "run", episodes=2, horizon=5).returns == by_object.returns
    with pytest.raises(CheckpointError, match="no policy at nope"):
        evaluate("nope", "run")


@pytest.mark.parametrize("target", ["run", "take_cover"])
def test_chance_is_evaluated_by_its_name(target: str, in_loop: Path) -> None:
    settings = {"horizon": 5} if target == "run" else {}
    result = evaluate("random", target, episodes=2, **settings)
    assert result.episodes == 2
    assert result.returns == evaluate("random", target, episodes=2, num_envs=1, **settings).returns


def test_worlds_lists_what_ships_with_an_id_and_a_picture_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["worlds", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == set(shipped_worlds())
    assert [name for name, world in listed.items() if world["default"]] == ["take_cover"]
    for world in listed.values():
        env = gym.make(world["id"])
        assert list(env.observation_space.shape) == world["frame"]
        env.close()
    assert main(["worlds", "--pictures", str(tmp_path / "pictures")]) == 0
    assert all(name in capsys.readouterr().out for name in list(listed)[:1])
    for name in listed:
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            assert picture.width > 6 * picture.height  # seven frames in a row


def test_a_terminal_shows_two_pixels_in_a_character() -> None:
    frame = np.zeros((1, 4, 2, 3), np.uint8)
    frame[0, 0, 0], frame[0, 1, 0] = (1, 2, 3), (4, 5, 6)
    lines = terminal_picture(frame).split("\n")
    assert len(lines) == 2
    assert lines[0].startswith("\x1b[38;2;1;2;3m\x1b[48;2;4;5;6m\u2580")

"""A bare install dreams, trains and plays; what needs an optional package names the extra that brings it."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from drifting import make_world

from dreamenv.benchmarks import demo, draw_matrices, showing
from dreamenv.benchmarks.peers import nwm
from dreamenv.commands import window
from dreamenv.dream import DreamEnv, DreamVectorEnv
from dreamenv.envs import FAMILIES, make_real
from dreamenv.errors import MissingDependencyError, UnavailableError
from dreamenv.extras import require

ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = (
    "crafter",
    "diffusers",
    "matplotlib",
    "minigrid",
    "miniworld",
    "pygame",
    "pyglet",
    "torchrl",
    "vizdoom",
)


# Neither imported nor installed: some libraries ask the metadata whether they may import a package.
HIDE = f"""
import importlib.metadata, sys

hidden, look_up = {OPTIONAL!r}, importlib.metadata.Distribution.from_name

def from_name(name):
    if name.lower().removesuffix("-ce") in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return look_up(name)

sys.modules.update(dict.fromkeys(hidden))
importlib.metadata.Distribution.from_name = from_name
"""


def bare(code: str) -> list[str]:
    """Run code where no optional package is installed; return the lines that it prints."""
    answer = subprocess.run([sys.executable, "-c", HIDE + code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a package look as if it were not installed."""
    return lambda package: monkeypatch.setitem(sys.modules, package, None)


def test_a_bare_install_dreams() -> None:
    shapes = bare(
        "import gymnasium as gym\n"
        "with gym.make('dreamenv:dreamenv/Dream-v0', render_mode='rgb_array') as env:\n"
        "    env.reset(seed=0)\n"
        "    for _ in range(3):\n"
        "        frame = env.step(env.action_space.sample())[0]\n"
        "    print(frame.shape, env.render().shape)\n"
        "envs = gym.make_vec('dreamenv:dreamenv/Dream-v0', num_envs=2)\n"
        "envs.reset(seed=0)\n"
        "print(envs.step(envs.action_space.sample())[0].shape)\n"
    )
    assert shapes == ["(64, 64, 3) (64, 64, 3)", "(2, 64, 64, 3)"]


def test_a_bare_install_records_trains_and_runs_ppo(tmp_path: Path) -> None:
    *_, scores = bare(
        f"sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        f"folder = {str(tmp_path)!r}\n"
        "from functools import partial\n"
        "from toy import ToyEnv\n"
        "import trainable\n"
        "from dreamenv import World\n"
        "from dreamenv.agents import AgentConfig, PPOConfig, evaluate, train_agent\n"
        "from dreamenv.data import RandomPolicy, collect\n"
        "from dreamenv.training import TrainConfig, train\n"
        "random = partial(RandomPolicy, ToyEnv().action_space)\n"
        "recording = collect(ToyEnv, random, folder + '/data', steps=150, num_workers=0, progress=False)\n"
        "train(TrainConfig(), trainable.TrainableConfig(), recording, folder + '/world')\n"
        "world = World.default()\n"
        "ppo = PPOConfig(n_steps=16, batch_size=16)\n"
        "agent = AgentConfig(total_steps=32, num_envs=2, ppo=ppo, checkpoint_every=0)\n"
        "policy = train_agent(agent, world=world, out=folder + '/policy')\n"
        "print(len(evaluate(policy, world, episodes=1).returns))\n"
    )
    assert scores == "1"


def test_only_the_simulators_own_modules_need_a_simulator() -> None:
    modules = bare(
        "import importlib, pkgutil, dreamenv\n"
        "for module in pkgutil.walk_packages(dreamenv.__path__, 'dreamenv.'):\n"
        "    if module.name.rpartition('.')[2] in ('__main__', 'worker', 'oasis_program'):\n"
        "        continue\n"
        "    try:\n"
        "        importlib.import_module(module.name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        print(module.name)\n"
    )
    assert set(modules) <= {"dreamenv.envs.vizdoom.config", "dreamenv.envs.vizdoom.env"}


@pytest.mark.parametrize("package", ["vizdoom", "minigrid", "miniworld", "crafter"])
def test_a_simulator_that_is_missing_is_named_with_its_extra(package: str, hide: Callable[[str], None]) -> None:
    hide(package)
    (family,) = (family for family in FAMILIES if family.title.lower() == package)
    for task in family.tasks:
        with pytest.raises(UnavailableError, match=re.escape(f"pip install 'dreamenv[{package}]'")):
            make_real(task)


@pytest.mark.parametrize("env", [DreamEnv, lambda world, **kwargs: DreamVectorEnv(world, num_envs=2, **kwargs)])
def test_a_window_onto_dreams_needs_the_extra_play(env: Callable[..., object], hide: Callable[[str], None]) -> None:
    hide("pygame")
    with pytest.raises(MissingDependencyError, match=r"pygame is not installed.*'dreamenv\[play\]'"):
        env(make_world(), render_mode="human")


def test_playing_in_a_window_needs_the_extra_play(hide: Callable[[str], None]) -> None:
    hide("pygame")
    with pytest.raises(MissingDependencyError, match=r"'dreamenv\[play\]'"):
        window.control(DreamEnv(make_world()), (), frame_rate=10.0, scale=1, seed=0)


@pytest.mark.parametrize(
    "draw",
    [
        lambda folder: showing.draw_lines([("line", [0.0], [0.0])], x="x", y="y"),
        lambda folder: draw_matrices.draw(folder / "matrices.png"),
        lambda folder: demo.run(demo.DemoConfig(out=folder / "demo")),
    ],
    ids=["lines", "matrices", "demo"],
)
def test_drawings_need_the_extra_report(
    draw: Callable[[Path], object], hide: Callable[[str], None], tmp_path: Path
) -> None:
    hide("matplotlib")
    with pytest.raises(MissingDependencyError, match=r"matplotlib is not installed.*'dreamenv\[report\]'"):
        draw(tmp_path)
    assert not list(tmp_path.iterdir())  # the demo says so before it records anything


def test_a_public_program_says_what_it_needs(hide: Callable[[str], None], tmp_path: Path) -> None:
    hide("diffusers")
    with pytest.raises(UnavailableError, match="pip install diffusers"):
        nwm.parity(tmp_path)


def test_checking_for_an_installed_package_does_not_import_it() -> None:
    require("numpy", extra="none")
    assert bare(
        "from dreamenv.extras import require; require('imageio', extra='x'); print('imageio' in sys.modules)"
    ) == ["False"]


def test_doctor_of_a_bare_install_finds_no_fault_and_names_every_extra() -> None:
    shown = bare("from dreamenv.cli import main; sys.exit(main(['doctor']))")
    assert not [line for line in shown if "FAILS" in line]
    for extra in {"play", "report", "vizdoom", "minigrid", "miniworld", "crafter"}:
        assert any(f"pip install 'dreamenv[{extra}]'" in line for line in shown), extra
    assert not [line for line in shown if "dreamenv[all]" in line or "dreamenv[dev]" in line]


def test_an_extra_names_its_packages_once_and_all_holds_what_users_need() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = {name: text.split("\n") for name, text in config["options.extras_require"].items()}
    assert all(any(lines) for lines in extras.values()), "an extra that installs nothing"
    (everything,) = filter(None, extras["all"])
    inside = set(re.fullmatch(r"dreamenv\[(.*)\]", everything).group(1).split(","))  # type: ignore[union-attr]
    assert inside == {"vizdoom", "minigrid", "crafter", "miniworld", "play", "report", "compression"}


def test_a_dream_of_the_registry_needs_no_window(hide: Callable[[str], None]) -> None:
    for package in OPTIONAL:
        hide(package)
    with gym.make("dreamenv:dreamenv/Dream-v0") as env:
        frame, _ = env.reset(seed=0)
    assert frame.dtype == np.uint8

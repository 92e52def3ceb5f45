"""Networks are compiled where that was asked for or is found to pay, and a run that resumes does as it did before."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_training_resumes import settings
from toy import toy_dataset
from trainable import Trainable, TrainableConfig

from dreamenv import devices
from dreamenv.devices import compiler_problem
from dreamenv.errors import CheckpointError, ConfigError
from dreamenv.training import compiling
from dreamenv.training.compiling import Compiling, compiled
from dreamenv.training.stepper import Stepper
from dreamenv.training.trainer import train
from dreamenv.world import World
from dreamenv.world_model import Stage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toy_dataset(tmp_path_factory.mktemp("data") / "toy", 6)


@pytest.fixture
def calls(monkeypatch):
    """Stand in for `torch.compile`: what was compiled, and how often it was called then."""
    calls = {"compiled": 0, "run": 0}

    def compile_(method, **options):
        calls["compiled"] += 1
        del options

        def run(*args, **kwargs):
            calls["run"] += 1
            return method(*args, **kwargs)

        return run

    monkeypatch.setattr(compiling.torch, "compile", compile_)
    return calls


def same_weights(first, second):
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_only_learning_runs_compiled_and_the_methods_are_restored(calls):
    layer = torch.nn.Linear(2, 2)
    names, inputs = list(layer.state_dict()), torch.ones(1, 2)
    with compiled([(layer, "forward")]) as switch:
        layer(inputs)
        assert calls == {"compiled": 0, "run": 0}
        switch.on = True
        layer(inputs)
        assert calls["run"] == 1
        with torch.no_grad():
            layer(inputs)
        layer.eval()
        layer(inputs)
        assert calls["run"] == 1
        assert list(layer.state_dict()) == names
    assert "forward" not in vars(layer)
    layer.train()
    layer(inputs)
    assert calls["run"] == 1


class Clock:
    """A machine on which steps take so many seconds, eager and compiled, and compiling takes a minute."""

    def __init__(self, monkeypatch, eager, fast):
        self.now, self.rehearsals, self.switch, self.warm = 0.0, 0, None, False
        self.seconds = {False: eager, True: fast}
        monkeypatch.setattr(compiling.time, "perf_counter", lambda: self.now)
        original = compiling.compiled

        @contextmanager
        def remember(networks):
            with original(networks) as self.switch:
                yield self.switch

        monkeypatch.setattr(compiling, "compiled", remember)

    def rehearse(self):
        compiles = self.switch.on and not self.warm
        self.warm = self.warm or self.switch.on
        self.rehearsals += 1
        self.now += self.seconds[self.switch.on] + 60.0 * compiles


def a_stage():
    layer = torch.nn.Linear(1, 1)
    return Stage(
        name="long", objectives=[], steps=1, batch_size=1, sequence_length=1, learning_rate=1.0,
        networks=[(layer, "forward")],
    )  # fmt: skip


def choice_of(tmp_path, clock, steps, **changes):
    fabric = SimpleNamespace(device=CPU, is_global_zero=True, broadcast=lambda value: value)
    chooser = Compiling(settings(**changes), fabric, tmp_path)
    chooser.restore(resume=True)
    with chooser.stage(a_stage(), steps, clock.rehearse):
        assert clock.switch.on == (chooser.choices["long"] == "compiled")
    return chooser.choices["long"]


@pytest.mark.parametrize(
    ("steps", "eager", "fast", "expected"),
    [
        (1000, 1.0, 0.5, "compiled"),
        (1000, 1.0, 1.2, "eager"),
        (1000, 1.0, 0.99, "eager"),  # within the error of measurement
        (1000, 0.1, 0.05, "eager"),  # over before a compiler would pay
        (100, 100.0, 1.0, "eager"),
    ],
)
def test_auto_keeps_what_pays(calls, monkeypatch, tmp_path, steps, eager, fast, expected):
    clock = Clock(monkeypatch, eager, fast)
    assert choice_of(tmp_path, clock, steps) == expected
    tried = steps * eager >= 600 and steps >= 200
    assert (clock.now > 60) == tried


def test_what_was_chosen_is_not_measured_again(calls, monkeypatch, tmp_path):
    assert choice_of(tmp_path, Clock(monkeypatch, 1.0, 0.5), 1000) == "compiled"
    clock = Clock(monkeypatch, 1.0, 5.0)
    assert choice_of(tmp_path, clock, 10) == "compiled"
    assert clock.rehearsals == 1  # which compiles
    (tmp_path / "compile.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"compile\.json.*resume=False"):
        choice_of(tmp_path, clock, 10)


def test_auto_stays_eager_without_a_compiler(calls, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    clock = Clock(monkeypatch, 10.0, 1.0)
    assert choice_of(tmp_path, clock, 1000, progress=True) == "eager"
    assert clock.rehearsals == 0
    told = capsys.readouterr().out.strip().splitlines()
    assert len(told) == 1
    assert "no-such-compiler" in told[0]


def test_auto_stays_eager_where_compiling_fails(monkeypatch, tmp_path):
    from torch._dynamo.exc import BackendCompilerFailed

    def fail(method, **options):
        def run(*args, **kwargs):
            raise BackendCompilerFailed(method, RuntimeError("no luck"), None)

        return run

    monkeypatch.setattr(compiling.torch, "compile", fail)
    layer = torch.nn.Linear(1, 1)
    stage = Stage(
        name="long", objectives=[], steps=1, batch_size=1, sequence_length=1, learning_rate=1.0,
        networks=[(layer, "forward")],
    )  # fmt: skip
    monkeypatch.setattr(compiling, "_SHORTEST_SECONDS", 0.0)
    fabric = SimpleNamespace(device=CPU, is_global_zero=True, broadcast=lambda value: value)

    def rehearse():
        layer(torch.ones(1, 1)).sum().backward()

    chooser = Compiling(settings(), fabric, tmp_path)
    with chooser.stage(stage, 1000, rehearse):
        rehearse()
    assert chooser.choices == {"long": "eager"}
    with (
        pytest.raises(ConfigError, match=r"'long'.*torch\.compile failed.*no luck.*compile='off'"),
        Compiling(settings(compile="on"), fabric, tmp_path).stage(stage, 1000, rehearse),
    ):
        pytest.fail("it ran")


def test_compilation_that_cannot_work_is_refused_before_training(dataset, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="compile must be one of auto, on, off, not 'yes'"):
        settings(compile="yes")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler \(no-such-compiler\).*install one.*compile='auto'"):
        train(settings(compile="on"), TrainableConfig(), dataset, tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr(Trainable, "stages", lambda self: [stage for stage in STAGES(self) if not stage.networks])
    with pytest.raises(ConfigError, match="name no networks; use 'off'"):
        train(settings(compile="on"), TrainableConfig(), dataset, tmp_path / "none")
    assert not (tmp_path / "run" / "checkpoints").exists()


STAGES = Trainable.stages


def test_what_a_compiler_needs_is_named(monkeypatch, tmp_path):
    assert compiler_problem(torch.device("cuda")) is None or "riton" in compiler_problem(torch.device("cuda"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "apt-get install g++" in compiler_problem(CPU)
    monkeypatch.undo()
    monkeypatch.setattr(devices.sysconfig, "get_path", lambda _: str(tmp_path))
    if (problem := compiler_problem(CPU)) is not None and "compiler" not in problem:
        assert "python3-dev" in problem


def test_measuring_changes_nothing_about_a_run(calls, dataset, tmp_path, monkeypatch):
    """Dropout, noise and objectives in turn: the rehearsals leave streams, gradients and statistics as they were."""
    off = train(settings(compile="off"), TrainableConfig(), dataset, tmp_path / "off")
    assert calls["compiled"] == 0
    monkeypatch.setattr(compiling, "_FEWEST_STEPS", 1)
    monkeypatch.setattr(compiling, "_SHORTEST_SECONDS", 0.0)
    auto = train(settings(), TrainableConfig(), dataset, tmp_path / "auto")
    assert calls["run"] > 5
    assert same_weights(off.model, auto.model)
    assert off.record["compile"] == {}
    assert World.load(tmp_path / "auto" / "world").record["compile"].keys() == {"images"}


@pytest.mark.slow
@pytest.mark.skipif(compiler_problem(CPU) is not None, reason="there is no compiler here")
def test_a_compiled_run_is_the_eager_one_up_to_rounding(dataset, tmp_path):
    """Also: no process is left behind, and the weights keep their names."""

    def children():
        return [child for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()]

    before = children()
    eager = train(settings(compile="off"), TrainableConfig(), dataset, tmp_path / "off")
    world = train(settings(compile="on"), TrainableConfig(), dataset, tmp_path / "on")
    assert world.record["compile"] == {"images": "compiled"}
    assert json.loads((tmp_path / "on" / "compile.json").read_text()) == {"images": "compiled"}
    expected, found = eager.model.state_dict(), World.load(tmp_path / "on" / "world").model.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.allclose(value, found[name], atol=1e-3), name
    assert children() == before


@pytest.mark.slow
@pytest.mark.skipif(compiler_problem(CPU) is not None, reason="there is no compiler here")
def test_a_compiled_run_that_is_interrupted_ends_with_the_same_weights(dataset, tmp_path, monkeypatch):
    config = settings(compile="on", steps={"rewards": 0})
    whole = train(config, TrainableConfig(), dataset, tmp_path / "whole")
    step = Stepper.step

    def interrupted(self, number, *others):
        if number == 16:
            raise InterruptedError
        step(self, number, *others)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", interrupted)
        with pytest.raises(InterruptedError):
            train(config, TrainableConfig(), dataset, tmp_path / "cut")
    assert sorted((tmp_path / "cut" / "checkpoints").iterdir())[-1].name == "step-00000014"
    assert same_weights(whole.model, train(config, TrainableConfig(), dataset, tmp_path / "cut").model)

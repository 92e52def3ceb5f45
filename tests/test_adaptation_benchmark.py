"""Environments change as they say, and the benchmark of adapting to them runs from end to end."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamenv.benchmarks import adaptation
from dreamenv.benchmarks.shifts import SHIFTS, make_shifted, shifts_of
from dreamenv.errors import ConfigError, UnknownNameError

pytest.importorskip("minigrid")
TASK = "minigrid_lava_gap"


def test_every_change_changes_what_it_says_and_nothing_else() -> None:
    plain = make_shifted(TASK, size=28)()
    first, _ = plain.reset(seed=0)
    after = {action: (plain.reset(seed=0), plain.step(action)[0])[1] for action in range(4)}
    for shift in SHIFTS:
        env = pickle.loads(pickle.dumps(make_shifted(TASK, shift, size=28)))()
        assert env.action_space == plain.action_space
        begun, _ = env.reset(seed=0)
        assert begun.shape == first.shape
        stepped = {action: (env.reset(seed=0), env.step(action)[0])[1] for action in range(4)}
        if shift == "turns":
            assert np.array_equal(begun, first)
            assert [np.array_equal(stepped[a], after[b]) for a, b in ((1, 2), (2, 1), (3, 3))] == [True] * 3
        elif shift == "colours":
            assert not np.array_equal(begun, first)
            assert np.array_equal(begun[1::4], first[1::4][..., [1, 2, 0]])
        elif shift == "speed":
            assert np.array_equal(begun, first)
            assert env.get_wrapper_attr("provenance").frame_skip == 2
            plain.reset(seed=0)
            plain.step(1)
            assert np.array_equal(stepped[1], plain.step(1)[0])
        else:
            assert env.get_wrapper_attr("provenance").environment_id == "dreamenv/MinigridFourRooms-v0"
        env.close()
    plain.close()


def test_changes_that_a_task_does_not_have_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="turns"):
        make_shifted(TASK, "turn")
    with pytest.raises(ConfigError, match="no other room"):
        make_shifted("take_cover", "room")
    assert "room" not in shifts_of("take_cover")


def test_the_benchmark_measures_every_arm_resumes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = adaptation.Adaptation(
        out=tmp_path / "run", frames=(20, 40, 60), old_frames=120, test_frames=120, budget=2, steps=2, scratch_steps=2,
        shifts=("colours", "turns"), agent_steps=2048, episodes=2, windows=2, calibration_steps=30,
        picture=tmp_path / "errors.png",
    )  # fmt: skip
    results = json.loads(adaptation.run(config).read_text())["results"]
    (colours,), (turns,) = results["shifts"]["colours"], results["shifts"]["turns"]
    assert set(turns) == {"zero-shot", "adapted, 40", "all, none"}
    assert set(colours) == set(turns) | {
        "adapted, 20", "adapted, 60", "scratch, 20", "scratch, 40", "scratch, 60", "all, recording",
        "low_rank, dreams", "heads, dreams",
    }  # fmt: skip
    for arm in colours.values():
        assert set(arm["new"]["psnr"]) == {"1", "5", "10"}
        assert arm["new"]["termination_log_loss"] > 0
    assert colours["heads, dreams"]["new"]["psnr"] == colours["zero-shot"]["new"]["psnr"]  # the picture is as it was
    assert set(results["policies"]["colours"][0]) == {"random", "old world", "adapted"}
    assert np.asarray(Image.open(tmp_path / "errors.png")).std() > 0
    shown = capsys.readouterr().out
    assert "| heads, dreams " in shown
    kept = {
        path: path.stat().st_mtime_ns for name in ("measured", "played") for path in (tmp_path / "run" / name).iterdir()
    }
    adaptation.run(config)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

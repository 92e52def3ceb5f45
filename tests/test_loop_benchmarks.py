"""The benchmarks of the whole loop resume, report what they measured, and write a readable report."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dreamenv.agents import PPOConfig
from dreamenv.backbones.rssm.presets import tiny
from dreamenv.benchmarks import demo, recipes, sim_to_real
from dreamenv.benchmarks.report import Page, Section, Strips, Table, write_page
from dreamenv.errors import UnknownNameError


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> recipes.Recipe:
    """The real recipe of take_cover, with everything made small."""
    real = recipes.RECIPES["take_cover"]
    world = tiny()
    agent = dataclasses.replace(
        real.latent_agent, num_envs=4, ppo=PPOConfig(n_steps=32, batch_size=64), total_steps=128
    )
    small = dataclasses.replace(
        real,
        rounds=(recipes.Round(frames=200), recipes.Round(frames=200, steps={"joint": 2, "dynamics": 2})),
        episodes=2,
        backbone=dataclasses.replace(
            world,
            training=dataclasses.replace(
                world.training,
                joint=dataclasses.replace(world.training.joint, steps=3),
                dynamics=dataclasses.replace(world.training.dynamics, steps=3),
            ),
        ),
        recording_agent=agent,
        latent_agent=agent,
        frame_agent=dataclasses.replace(agent, observation=real.frame_agent.observation),
        real_agent=dataclasses.replace(real.real_agent, num_envs=2, ppo=PPOConfig(n_steps=32, batch_size=32)),
    )
    monkeypatch.setitem(recipes.RECIPES, "take_cover", small)
    return small


def test_the_demo_runs_the_loop_once_and_then_reads_its_results(
    small_recipe: recipes.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = demo.DemoConfig(out=tmp_path, rounds=2, seed=1, workers=0, threads=1, open=False)
    report = demo.run(config)
    text = report.read_text(encoding="utf-8")
    assert text.count("data:video/mp4;base64,") >= 3
    assert "step 15" in text
    assert not re.search(r'(src|href)="?https?:', text)  # it opens without a network
    results = json.loads((tmp_path / "demo.json").read_text())["results"]
    assert results["recorded_frames"] == small_recipe.frames
    assert {summary["count"] for summary in results["measured"].values()} == {small_recipe.episodes}

    def never(*_: object, **__: object) -> None:
        raise AssertionError("done before")

    for name in ("train", "train_agent", "evaluate"):
        monkeypatch.setattr(f"dreamenv.benchmarks.loop.{name}", never)
    demo.run(config)


def test_sim_to_real_reports_every_arm_by_seed(small_recipe: recipes.Recipe, tmp_path: Path) -> None:
    config = sim_to_real.SimToReal(
        out=tmp_path, seeds=2, episodes=2, arms=("random", "real", "dream_frames"), workers=0, threads=1
    )
    path = sim_to_real.run(config)
    results = json.loads(path.read_text())["results"]
    arms = results["arms"]
    assert arms["random"]["real"]["count"] == 2
    assert arms["real"]["dream"] is None
    for place in ("real", "dream"):
        measured = arms["dream_frames"][place]
        assert measured["seeds"] == 2
        assert measured["count"] == 4
        assert np.mean(measured["by_seed"]) == pytest.approx(measured["mean"])
    assert results["facts"]["frames"] == small_recipe.frames
    with av.open(str(tmp_path / "side_by_side.mp4")) as video, Image.open(tmp_path / "side_by_side.png") as image:
        assert video.streams.video[0].width == 2 * (64 + 2 + 64)
        assert video.streams.video[0].frames > 1
        assert image.height == 2 * (64 + 2 + 64)


def test_a_task_without_a_recipe_is_refused_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match="take_cover"):
        recipes.recipe_for("take_kover")


def test_the_report_escapes_text_and_shows_every_frame(tmp_path: Path) -> None:
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    strips = Strips(steps=(1, 5), rows=[("reality", frames), ("dream", frames)], caption="a < b")
    table = Table(header=("<name>", "value"), rows=[("x & y", "1")])
    page = Page(title="T", lead="L", facts=[("k", "v")], sections=[Section(title="S", parts=[table, strips])])
    text = write_page(tmp_path / "page.html", page).read_text(encoding="utf-8")
    assert "&lt;name&gt;" in text
    assert "x &amp; y" in text
    assert "a &lt; b" in text
    assert text.count("<img") == 4
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]

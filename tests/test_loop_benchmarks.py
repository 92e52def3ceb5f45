"""The benchmarks of the whole loop resume, report what they measured, and write a readable report."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from test_evaluation import make_policy
from toy import random_episode, toy_dataset

from dreamenv.agents import PPOConfig, SavedPolicy
from dreamenv.backbones.rssm.presets import tiny
from dreamenv.benchmarks import demo, films, recipes, scaling, ship_world, shipped_worlds, sim_to_real, usefulness
from dreamenv.benchmarks.demo_page import Scores, score_table, verdict
from dreamenv.benchmarks.loop import Loop
from dreamenv.benchmarks.report import Page, Section, Strips, Table, write_page
from dreamenv.data import EpisodeDataset
from dreamenv.errors import ConfigError, DatasetError, UnknownNameError
from dreamenv.metrics.statistics import Summary
from dreamenv.world import World


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


def test_the_demo_goes_round_the_loop_and_then_only_looks_up(
    small_recipe: recipes.Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = demo.DemoConfig(out=tmp_path, rounds=2, seed=1, workers=0, threads=1, open=False)
    report = demo.run(config)
    text = report.read_text(encoding="utf-8")
    assert text.count("data:video/mp4;base64,") >= 3
    assert "step 15" in text
    assert not re.search(r'(src|href)="?https?:', text)  # it opens without a network
    shown = capsys.readouterr().out
    assert shown.startswith("9 stages, about ")
    assert str(tmp_path.resolve()) in shown
    assert [line[3:10] for line in shown.splitlines() if line.startswith("== ")] == [f"{n} of 9:" for n in range(1, 10)]
    assert "Does a policy that learned in the dream alone work" in shown
    text = report.read_text(encoding="utf-8")
    for setting in ("0.75 of the recipe", ">seed<", ">effort<", ">threads<", ">rounds<"):
        assert setting in text
    results = json.loads((tmp_path / "demo.json").read_text())["results"]
    assert results["recorded_frames"] == small_recipe.frames
    assert {summary["count"] for summary in results["measured"].values()} == {small_recipe.episodes}

    def never(*_: object, **__: object) -> None:
        raise AssertionError("done before")

    for name in ("train", "train_agent", "evaluate"):
        monkeypatch.setattr(f"dreamenv.benchmarks.loop.{name}", never)
    demo.run(config)
    assert "9 of them done before" in capsys.readouterr().out


def summary(mean: float, margin: float = 10.0) -> Summary:
    interval = (mean - margin, mean + margin)
    return Summary(
        mean=mean, iqm=mean, std=1.0, mean_interval=interval, iqm_interval=interval, confidence=0.95, count=100
    )


@pytest.mark.parametrize(
    ("dreamer", "rival", "answer", "bold"),
    [
        (500.0, 300.0, "Yes, and better than", [2]),
        (500.0, 495.0, "Yes, and as well as", []),
        (300.0, 500.0, "In part: better than chance, but worse than", [1]),
        (105.0, 100.0, "No: this time it does no better than chance", []),
        (50.0, 100.0, "No: this time it does no better than chance", []),
    ],
)
def test_the_report_says_in_words_what_came_out_and_nothing_that_lost_is_bold(
    dreamer: float, rival: float, answer: str, bold: list[int]
) -> None:
    scores = Scores(
        name="points", frames=1000, random=summary(100.0), rival=summary(rival), dreamer=summary(dreamer),
        in_dream=summary(dreamer + 200),
    )  # fmt: skip
    said = verdict(scores)
    assert answer in said
    assert "1,000" in said
    assert "the dream flatters it" in said
    assert score_table(scores).emphasised == bold


def test_a_page_can_be_read_on_a_narrow_screen(tmp_path: Path) -> None:
    """Rows become blocks whose cells name their columns; pictures shrink to the screen's width."""
    table = Table(header=("policy", "mean"), rows=[("x", "1")])
    page = Page(title="T", lead="L", verdict="a < b", facts=[], sections=[Section(title="S", parts=[table])])
    text = write_page(tmp_path / "page.html", page).read_text(encoding="utf-8")
    assert "<td data-name='mean'>1</td>" in text
    assert "@media (max-width: 40rem)" in text
    assert "<p class=verdict>a &lt; b</p>" in text
    assert "width: 128px" not in text.replace("max-width: 128px", "")


def test_sim_to_real_takes_a_world_that_is_there(small_recipe: recipes.Recipe, tmp_path: Path) -> None:
    config = sim_to_real.SimToReal(
        world="take_cover",
        out=tmp_path,
        seeds=1,
        episodes=2,
        arms=("dream_latents",),
        sampled=False,
        workers=0,
        threads=1,
        temperature=0.5,
        steps=64,
    )
    results = json.loads(sim_to_real.run(config).read_text())["results"]
    trained = SavedPolicy.load(tmp_path / "agents" / "dream_latents-0" / "policy").config
    assert (trained.dream.temperature, trained.total_steps) == (0.5, 64)
    assert results["facts"]["world"] == World.load("take_cover").content_hash()
    assert results["arms"]["dream_latents"]["real"]["count"] == small_recipe.episodes
    assert not (tmp_path / "recording").exists()
    assert not list(tmp_path.glob("world-*"))


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


def test_what_was_measured_is_looked_up_by_all_it_depends_on(
    small_recipe: recipes.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Loop(small_recipe, tmp_path, workers=0)
    assert len(first.measure("random", None)["scores"]) == 2
    more = Loop(dataclasses.replace(small_recipe, episodes=3), tmp_path, workers=0)
    assert len(more.measure("random", None)["scores"]) == 3
    other = dataclasses.replace(small_recipe, task="health_gathering", reward="medkit", episodes=2)
    scores = Loop(other, tmp_path, workers=0).measure("random", None)["scores"]
    assert scores != first.measure("random", None)["scores"]
    one, two = make_policy(), make_policy()
    two.network.value_net.bias.data += 1
    played: list[Any] = []
    monkeypatch.setattr(first, "_play", lambda policy, **_: played.append(policy) or {"scores": []})
    for policy in (one, two, one):
        first.measure("agent", policy)
    assert played == [one, two]
    file = next((tmp_path / "measurements").glob("random-real-*.json"))
    file.write_text(file.read_text().replace("scores", "scares", 1))
    again = {2: first, 3: more}[len(json.loads(file.read_text())["result"]["lengths"])]
    if json.loads(file.read_text())["key"]["task"] == "health_gathering":
        again = Loop(other, tmp_path, workers=0)
    with pytest.raises(ConfigError, match="Delete it"):
        again.measure("random", None)


def test_a_folder_that_was_made_in_another_way_is_refused(small_recipe: recipes.Recipe, tmp_path: Path) -> None:
    one_round = small_recipe.in_rounds(1)
    Loop(one_round, tmp_path, workers=0, threads=1).world(1)
    other = dataclasses.replace(one_round, rounds=(recipes.Round(frames=100),))
    with pytest.raises(ConfigError, match="frames: 400 then, 100 now"):
        Loop(other, tmp_path, workers=0, threads=1).world(1)
    with pytest.raises(ConfigError, match="task: take_cover then, my_way_home now"):
        Loop(dataclasses.replace(one_round, task="my_way_home"), tmp_path, workers=0, threads=1).record(1)
    with pytest.raises(ConfigError, match=r"train.steps.joint: 3 then, 1 now"):
        Loop(one_round, tmp_path, workers=0, threads=1, effort=0.5).world(1)


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


def test_the_table_of_shipped_worlds_reads_what_each_carries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped_worlds.main([])
    assert "take_cover" in capsys.readouterr().out
    (tmp_path / "world.json").write_text(json.dumps({"record": {"seconds": 120}}))
    assert shipped_worlds.row_of("untold", tmp_path)[:5] == ("untold", "2", "0.0", "-", "-")
    with pytest.raises(UnknownNameError, match="take_covr"):
        shipped_worlds.main(["--names", "take_covr"])


def test_films_show_a_world_beside_reality(tmp_path: Path) -> None:
    world = World.load("take_cover")
    assert world.provenance is not None
    recording = tmp_path / "data"
    dataset = EpisodeDataset.create(recording, world.provenance, world.spec.action_space, (64, 64, 3))
    for seed in range(2):
        dataset.append(random_episode(40, seed=seed, size=64))
    written = films.run(films.Films(recordings=(f"take_cover={recording}",), out=tmp_path / "films", episodes=2))
    assert [path.name for path in written] == ["take_cover.mp4", "take_cover.png", "worlds.webp"]
    with Image.open(written[-1]) as moving:
        assert (moving.size, moving.n_frames) == ((2 * 64, 2 * (2 * 64 + 2)), 31)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="must be WORLD=RECORDING"):
        films.Films(recordings=("take_cover",))


def test_a_world_too_large_to_ship_replaces_nothing(tmp_path: Path) -> None:
    config = ship_world.ShipWorld(
        world=Path("take_cover"), out=tmp_path / "small", command="made by hand", starts=4, limit=10
    )
    size = ship_world.ship(config)
    small = World.load(tmp_path / "small")
    assert (len(small.starts), small.record["command"]) == (4, "made by hand")
    with pytest.raises(ConfigError, match=r"more than 0\.1: keep fewer starts"):
        ship_world.ship(dataclasses.replace(config, starts=8, limit=0.1))
    assert World.load(tmp_path / "small").content_hash() == small.content_hash()
    assert size == sum(path.stat().st_size for path in (tmp_path / "small").rglob("*") if path.is_file())


def test_bits_are_set_against_what_is_learned_in_the_dream_and_nothing_is_done_twice(
    small_recipe: recipes.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Loop(dataclasses.replace(small_recipe, rounds=(recipes.Round(frames=400),)), tmp_path, workers=0).record(1)
    options = f"--data {data.path} --folder {tmp_path / 'runs'} --preset tiny --frames 200 --effort 0.02 --first 0.3 "
    options += "--points 2 --agent-steps 128 --seeds 2 --episodes 2 --windows 4 --threads 1"
    usefulness.main([*options.split(), "--out", str(tmp_path / "a.json")])
    shown = capsys.readouterr().out
    assert "| 1 + 1 " in shown
    assert "| 4 + 4 " in shown
    assert "Spearman's correlation" in shown
    results = json.loads((tmp_path / "a.json").read_text())["results"]
    assert [one["steps"] for one in results["points"]] == [{"joint": n, "dynamics": n} for n in (1, 4)]
    for one in results["points"]:
        assert one["bits_per_frame"]["low"] <= one["bits_per_frame"]["mean"] <= one["bits_per_frame"]["high"]
        assert one["value"]["mean"] == pytest.approx(np.mean(one["by_seed"]))
        assert len(one["by_seed"]) == 2
    assert (results["score_of"], results["score_is"]) == ("pixels", "bound")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 300

    def never(*_: object, **__: object) -> None:
        raise AssertionError("done before")

    for name in ("scored.train", "scored.score_windows", "loop.train_agent", "loop.evaluate"):
        monkeypatch.setattr(f"dreamenv.benchmarks.{name}", never)
    usefulness.main([*options.split(), "--out", str(tmp_path / "b.json")])
    assert json.loads((tmp_path / "b.json").read_text())["results"] == results
    assert str(tmp_path) not in (tmp_path / "b.json").read_text()
    with pytest.raises(ConfigError, match="was made in another way"):
        usefulness.main(options.replace("--windows 4", "--windows 4 --effort 0.1").split())


def test_bits_are_measured_by_size_and_by_frames_and_nothing_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy_dataset(tmp_path / "toy", 40, lethal=False)
    options = f"--data {data.path} --folder {tmp_path / 'runs'} --preset tiny --frames 90 700 --sizes 0.5 1 "
    options += "--effort 0.02 --windows 4 --threads 1"
    scaling.main([*options.split(), "--out", str(tmp_path / "a.json")])
    assert "frames to learn from" in capsys.readouterr().out
    results = json.loads((tmp_path / "a.json").read_text())["results"]
    worlds = results["worlds"]
    assert [(one["size"], one["frames"]) for one in worlds] == [(0.5, 90), (0.5, 720), (1.0, 90), (1.0, 720)]
    assert worlds[0]["parameters"] == worlds[1]["parameters"] < worlds[2]["parameters"]
    assert results["steps"] == {"joint": 4, "dynamics": 4}
    assert len({one["bits_per_frame"]["mean"] for one in worlds}) == 4
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 300
    monkeypatch.setattr("dreamenv.benchmarks.scored.train", lambda *_, **__: pytest.fail("done before"))
    scaling.main([*options.split(), "--out", str(tmp_path / "b.json")])
    assert json.loads((tmp_path / "b.json").read_text())["results"] == results
    with pytest.raises(DatasetError, match="and 9000 are asked for"):
        scaling.measure(scaling.Scaling(data=data.path, frames=(9, 9000), preset="tiny", folder=tmp_path / "no"))
    assert not (tmp_path / "no").exists()
    with pytest.raises(ConfigError, match="sizes must be different"):
        scaling.Scaling(data=data.path, sizes=(1.0, 1.0))
    with pytest.raises(UnknownNameError, match="tiny"):
        scaling.Scaling(data=data.path, preset="tinny")

"""Benchmarks say where their figures come from, compare fairly and never leave half a file."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from dreamenv.benchmarks import common
from dreamenv.errors import ConfigError, StorageError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def test_a_result_names_its_machine_commit_and_settings(tmp_path):
    path = common.write_json(
        tmp_path / "deep" / "result.json", common.envelope("speed", {"rate": np.float32(2.5)}, {"rows": 4})
    )
    written = json.loads(path.read_text())
    assert written["results"] == {"rate": 2.5}
    assert written["settings"] == {"rows": 4}
    assert written["machine"]["versions"]["torch"]
    assert written["machine"]["cores"] >= 1
    assert {"commit", "command", "date"} <= set(written)


def test_a_full_disk_leaves_the_old_result_whole(tmp_path, monkeypatch):
    path = common.write_json(tmp_path / "result.json", {"value": 1})

    def refuse(*_args, **_kwargs):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="No space left"):
        common.write_json(path, {"value": 2})
    assert json.loads(path.read_text()) == {"value": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_candidates_are_timed_in_turn_and_their_ratio_is_found():
    order = []

    def sleeper(name, seconds):
        def run():
            order.append(name)
            time.sleep(seconds)
            return 10

        return run

    comparison = common.interleaved({"fast": sleeper("fast", 0.01), "slow": sleeper("slow", 0.03)}, rounds=4, warm_up=1)
    assert comparison.ratios["fast"] == 1.0
    assert 0.2 < comparison.ratios["slow"] < 0.5
    assert [set(order[i : i + 2]) for i in range(0, 10, 2)] == [{"fast", "slow"}] * 5
    assert comparison.to_json()["timings"]["fast"]["rounds"] == 4


def test_timing_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least one round"):
        common.interleaved({}, rounds=1)


def test_peak_memory_is_plausible():
    assert 50 < common.peak_memory_mib() < 100_000


def test_every_published_result_is_linked_from_a_page_and_every_link_leads_to_one():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    linked = {
        (page.parent / link).resolve()
        for page in pages
        for link in re.findall(r"\]\(([^)\s]*benchmarks/results/[^)\s]*)\)", page.read_text())
    }
    assert linked == set(RESULTS.iterdir())


def test_no_page_names_a_result_without_a_link():
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        assert not re.search(r"`[^`\n()]*(benchmarks/results|20\d\d-\d\d-\d\d-)[^`\n()]*`", page.read_text()), page


@pytest.mark.parametrize("path", sorted(RESULTS.iterdir()), ids=lambda path: path.stem)
def test_a_published_result_says_what_when_and_where_it_measured(path):
    assert re.fullmatch(r"20\d\d-\d\d-\d\d-[\w-]+\.json", path.name)
    written = json.loads(path.read_text())
    assert written["benchmark"] in path.name
    assert written["results"]
    assert written["machine"]["cores"] >= 1
    assert {"commit", "command", "date", "settings"} <= set(written)

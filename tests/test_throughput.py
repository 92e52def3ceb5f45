"""The benchmark of all presets' speed measures what it says."""

from __future__ import annotations

import json

import pytest

from dreamenv.benchmarks.throughput import Throughput, main
from dreamenv.errors import ConfigError


def test_every_preset_is_timed_alone_and_in_batches_and_chunks_also_under_changing_actions(tmp_path, capsys):
    out = tmp_path / "throughput.json"
    main([
        "--presets", "denoising:tiny", "denoising:holistic", "rssm:tiny", "--batches", "1", "2", "--size", "16",
        "--rounds", "1", "--seconds", "0.01", "--waits", "4", "--threads", "1", "--out", str(out),
    ])  # fmt: skip
    results = json.loads(out.read_text())["results"]
    assert [(row["preset"], row["batch"], row["action"]) for row in results["rows"]] == [
        ("denoising:tiny", 1, "repeated"), ("denoising:tiny", 2, "repeated"),
        ("denoising:holistic", 1, "changes"), ("denoising:holistic", 1, "repeated"),
        ("denoising:holistic", 2, "changes"), ("denoising:holistic", 2, "repeated"),
        ("rssm:tiny", 1, "repeated"), ("rssm:tiny", 2, "repeated"),
    ]  # fmt: skip
    assert all(row["frames_per_second"] > 0 for row in results["rows"])
    assert set(results["latency"]) == {"denoising:tiny", "denoising:holistic", "rssm:tiny"}
    assert "Wrote" in capsys.readouterr().out


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="batches must be positive"):
        Throughput(batches=())
    with pytest.raises(ConfigError, match="rounds must be at least 1, not 0"):
        Throughput(rounds=0)

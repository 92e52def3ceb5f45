"""The benchmark of dreams' speed measures what it says."""

from __future__ import annotations

import json

import pytest
from drifting import make_world

from dreamenv.benchmarks.dream_speed import DreamSpeedConfig, main
from dreamenv.errors import ConfigError


@pytest.mark.parametrize("chunk", [1, 2])
def test_it_measures_every_batch_thread_and_observation_and_writes_json(chunk, tmp_path, capsys):
    world = make_world(termination=0.1, chunk=chunk).save(tmp_path / "grey")
    config = DreamSpeedConfig(
        world=str(world), batches=(1, 3), threads=(1,), rounds=1, long_steps=200, out=tmp_path / "speed.json"
    )
    main(config)
    written = json.loads((tmp_path / "speed.json").read_text())
    speeds = written["results"]["speed"]
    assert [(record["observation"], record["batch"]) for record in speeds] == [
        ("frame", 1), ("frame", 3), ("latent", 1), ("latent", 3)
    ]  # fmt: skip
    assert all(record["steps_per_second"] > 0 for record in speeds)
    assert len(written["results"]["latent_over_frame"]) == 2
    for record in written["results"]["long_dream"]:
        assert record["steps"] == 200
        assert record["cost_late_over_early"] > 0
    assert "Wrote" in capsys.readouterr().out


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="positive"):
        DreamSpeedConfig(batches=(0,))
    with pytest.raises(ConfigError, match="rounds"):
        DreamSpeedConfig(rounds=0)

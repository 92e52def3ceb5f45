"""The benchmark of all presets' speed measures what it says, and the script for a GPU can be tried without one."""

from __future__ import annotations

import json

import pytest
import torch
from toy import toy_dataset

from dreamenv.benchmarks import gpu
from dreamenv.benchmarks.throughput import Throughput, main
from dreamenv.errors import ConfigError, DeviceError
from dreamenv.world import World


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


def test_the_script_for_a_gpu_runs_on_the_cpu_and_keeps_every_part(tmp_path, monkeypatch):
    """The public program beside ours is a stand-in: it is no part of this repository."""
    monkeypatch.setattr(gpu, "compare_with_peer", lambda asked: {"results": {"asked": asked}})
    toy_dataset(tmp_path / "data", episodes=4)
    settings = gpu.GPU(
        data=tmp_path / "data", out=tmp_path / "gpu", device="cpu", presets=("rssm:tiny", "denoising:tiny"),
        trained="rssm:tiny", minutes=0.01, batches=(1, 2), seconds=0.01, peers=(f"diamond={tmp_path}",),
    )  # fmt: skip
    results = json.loads(gpu.run(settings).read_text())["results"]
    assert results["equal"] == {name: {"1": 0, "8": 0} for name in settings.presets}
    assert {row["batch"] for row in results["throughput"]["rows"]} == {1, 2}
    assert results["trained"]["verdict"].startswith("World against repeating the last frame")
    asked = results["peers"]["diamond"]["asked"]
    assert asked == [
        "diamond",
        "--peer",
        str(tmp_path),
        "--full",
        "--speed",
        "--no-parity",
        "--device",
        "cpu",
        "--compile",
    ]
    assert World.load(tmp_path / "gpu" / "world").spec.frame_shape == (3, 16, 16)


@pytest.mark.parametrize("peer", ["diamond", "diamond=/nowhere", "=here"])
def test_a_public_program_that_is_not_there_is_refused(peer):
    with pytest.raises(ConfigError, match=f"such as diamond=code/diamond, not '{peer}'"):
        gpu.GPU(peers=(peer,))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_script_for_a_gpu_says_that_there_is_none(tmp_path):
    with pytest.raises(DeviceError, match=r"'cuda' is not available here. Available: cpu"):
        gpu.run(gpu.GPU(out=tmp_path))

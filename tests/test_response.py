"""Action fidelity, measured on images that are known to move."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy import empty_dataset, random_episode

from dreamenv.backbones.denoising import presets
from dreamenv.benchmarks import compare_worlds
from dreamenv.benchmarks.compare_worlds import CompareWorlds, run
from dreamenv.codecs.conv_vae import ConvVAEConfig
from dreamenv.data import EpisodeDataset
from dreamenv.errors import ConfigError, DatasetError
from dreamenv.metrics.response import horizontal_shift, response
from dreamenv.world import World
from dreamenv.world_model import Imagined

LEFT, RIGHT = 1, 2


class Panning:
    """A model whose picture moves by so many pixels a step: to the right under `LEFT`, to the left under `RIGHT`."""

    spec = SimpleNamespace(chunk=1, action_space=gym.spaces.Discrete(3))

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels

    def start(self, first, seed):
        return first

    def observe(self, state, actions, frames):
        return frames[:, -1]

    def imagine(self, state, actions, *, decode=True):
        way = (actions == LEFT).long() - (actions == RIGHT).long()
        moved = way.cumsum(1) * self.pixels
        frames = [
            torch.stack([torch.roll(frame, int(by), -1) for frame, by in zip(state, moved[:, i], strict=True)])
            for i in range(actions.shape[1])
        ]
        nothing = torch.zeros(actions.shape)
        return Imagined(torch.stack(frames, dim=1), nothing, nothing), state


def recorded(tmp_path, pixels):
    """Episodes in which the picture pans as the actions say, each kept for six steps."""
    dataset = empty_dataset(tmp_path / "panned")
    for seed in range(3):
        actions = np.repeat(np.array([LEFT, RIGHT, 0, RIGHT, LEFT, 0]), 6)
        way = np.concatenate([[0], np.cumsum((actions == LEFT).astype(int) - (actions == RIGHT))])
        still = random_episode(1, seed=seed).frames[0]
        frames = np.stack([np.roll(still, int(by) * pixels, axis=1) for by in way])
        episode = random_episode(len(actions), seed=seed, terminated=False)
        dataset.append(dataclasses.replace(episode, frames=frames, actions=actions))
    return dataset


@pytest.mark.parametrize("by", [-5, 0, 3])
def test_shifts_have_the_right_sign_and_size(by):
    picture = torch.rand(2, 3, 16, 32, generator=torch.Generator().manual_seed(0))
    assert horizontal_shift(picture, torch.roll(picture, by, -1)).tolist() == [by, by]


def test_a_world_that_pans_as_reality_does_has_full_action_fidelity_and_a_mirrored_one_none(tmp_path):
    dataset = recorded(tmp_path, 1)
    same, mirrored, still = (
        response(Panning(pixels), dataset, LEFT, RIGHT, steps=3, count=8, context=2) for pixels in (1, -1, 0)
    )
    assert same["action_fidelity"] == 1.0
    assert same["real_shift"] == same["shift"] == {"1": 3.0, "2": -3.0}
    assert same["difference"] > 0 == same["noise"]
    assert mirrored["action_fidelity"] == 0.0
    assert still["action_fidelity"] == still["difference"] == 0.0


def test_settings_that_the_recording_does_not_support_are_refused(tmp_path):
    dataset = recorded(tmp_path, 1)
    with pytest.raises(DatasetError, match="action 1 is never repeated for 7 steps"):
        response(Panning(1), dataset, LEFT, RIGHT, steps=7, context=2)
    with pytest.raises(DatasetError, match="more than 102 steps"):
        response(Panning(1), dataset, LEFT, RIGHT, steps=100, context=2)


def test_worlds_are_trained_for_a_time_measured_and_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(compare_worlds.WORLDS, "rssm", ("rssm", "tiny", lambda config: config))
    settings = CompareWorlds(
        task="health_gathering", worlds=("rssm",), minutes=0.01, frames=1200, windows=2, rounds=1, workers=1,
        out=tmp_path / "compared",
    )  # fmt: skip
    results = json.loads(run(settings).read_text())["results"]
    row = results["rows"]["rssm"]
    assert set(row["steps"]) == {"joint", "dynamics"}
    assert row["horizons"]["10"]["psnr"]["mean"] > 0
    assert 0 <= row["response"]["action_fidelity"] <= 1
    assert row["speed"]["16"]["frames_per_second"] > 0
    assert (tmp_path / "compared" / "videos" / "rssm" / "side_by_side.mp4").stat().st_size > 0
    assert "persistence" in capsys.readouterr().out
    (kept,) = (tmp_path / "compared" / "measured").iterdir()
    before = kept.stat().st_mtime_ns
    run(settings)  # nothing is done twice
    assert kept.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"made in another way \(.*minutes: 0.01 then, 0.02 now"):
        run(dataclasses.replace(settings, minutes=0.02))


def test_worlds_of_the_same_latents_share_codec_and_head(tmp_path, monkeypatch):
    tiny = presets.tiny()
    codec, head = ConvVAEConfig(channels=(8, 8)), dataclasses.replace(tiny.head, watches="latent")
    latents = dataclasses.replace(tiny, codec=codec, head=head, context_source="sampled")
    names = ("diffusion_forcing_like", "nwm_like")
    for blocks, name in enumerate(names, start=1):
        config = dataclasses.replace(latents, denoiser=dataclasses.replace(latents.denoiser, blocks=blocks))
        monkeypatch.setitem(compare_worlds.WORLDS, name, ("denoising", "tiny", lambda _, config=config: config))
    monkeypatch.setattr(compare_worlds, "_latents_config", lambda: latents)
    monkeypatch.setattr(compare_worlds, "_measure", lambda name, world, *rest: {"seconds": world.record["seconds"]})
    monkeypatch.setattr(compare_worlds, "_print", lambda rows: None)
    monkeypatch.setattr(compare_worlds, "write_sheet", lambda *args: None)
    out = tmp_path / "compared"
    settings = CompareWorlds(worlds=names, minutes=0.02, frames=400, workers=1, reward_steps=2, out=out)
    rows = json.loads(run(settings).read_text())["results"]["rows"]
    shared, *drawing = (World.load(out / "worlds" / name / "world") for name in ("latents", *names))
    for name, world in zip(names, drawing, strict=True):
        assert world.record["train_config"]["steps"]["codec"] == 0
        assert world.record["train_config"]["steps"]["denoiser"] > 0
        assert rows[name]["seconds"] == world.record["seconds"] + shared.record["seconds"]
        for part in ("codec", "head"):
            learned = getattr(shared.model, part).state_dict()
            assert all(torch.equal(learned[key], one) for key, one in getattr(world.model, part).state_dict().items())
    recording = EpisodeDataset.open(out / "recording")
    rewarded = compare_worlds._with_rewards("nwm_like", recording, settings, out)
    before, after = drawing[1].model.head.state_dict(), rewarded.model.head.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    known = World.load(out / "with_rewards" / "latents" / "world").model.head.state_dict()
    assert all(torch.equal(known[key], after[key]) for key in after)


def test_settings_that_cannot_work_are_refused_by_name():
    with pytest.raises(ConfigError, match="not 'oasis'"):
        CompareWorlds(worlds=("oasis",))
    with pytest.raises(ConfigError, match="minutes must be positive, not 0"):
        CompareWorlds(minutes=0)
    with pytest.raises(ConfigError, match="not on 'my_way_home'"):
        CompareWorlds(task="my_way_home")

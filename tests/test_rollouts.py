"""Actions are recognised in dreams, and clips compared as distributions; one table tells a newcomer what came out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from toy import empty_dataset, random_episode, toy_dataset

from dreamenv.data.store import FrameStore
from dreamenv.errors import ConfigError, DatasetError, FrameError, InputError
from dreamenv.metrics.frechet import CLIP_FRAMES, clip_features, frechet_distance
from dreamenv.metrics.images import gradient_energy
from dreamenv.metrics.inverse_dynamics import (
    InverseDynamicsConfig,
    action_rows,
    frames_before,
    train_inverse_dynamics,
)
from dreamenv.metrics.rollouts import rollout_fidelity
from dreamenv.metrics.summary import summary_table
from dreamenv.model_card import make_model_card
from dreamenv.presets import make_config
from dreamenv.world_model import WorldModelSpec

QUICK = InverseDynamicsConfig(steps=250, dropout=0.0)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Falling squares and a paddle that the actions move."""
    return toy_dataset(tmp_path_factory.mktemp("toy") / "data", 24, lethal=False)


def still_world(dataset):
    h, w, c = dataset.frame_shape
    spec = WorldModelSpec(frame_shape=(c, h, w), action_space=dataset.action_space, frame_rate=10.0)
    return make_config("persistence").build(spec)


def test_actions_are_recognised_in_reality_and_not_in_a_still_dream(recording, tmp_path):
    training, held_out = recording.split(0.3, 0)
    model = still_world(recording)
    report = rollout_fidelity(
        model, held_out, training, steps=(1, 5, 900), windows=100, context=4, inverse=QUICK, cache=tmp_path
    )
    assert list(report["actions"]["steps"]) == ["1", "5"]
    for entry in report["actions"]["steps"].values():
        assert entry["real"]["mean"] > 0.7
        assert entry["dream"]["mean"] < 0.6
        assert entry["share"]["mean"] == pytest.approx(entry["dream"]["mean"] / entry["real"]["mean"])
    assert 0.3 < report["actions"]["usual"] < 0.5
    rfvd = report["rfvd"]
    assert rfvd["dream"] == rfvd["persistence"]
    assert rfvd["floor"] < rfvd["dream"] / 3


def test_the_same_network_is_read_back_and_another_one_is_trained_anew(recording, tmp_path):
    config = InverseDynamicsConfig(steps=3)
    first = train_inverse_dynamics(recording, config, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    changed = path.stat().st_mtime_ns
    second = train_inverse_dynamics(recording, config, cache=tmp_path)
    assert path.stat().st_mtime_ns == changed
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))
    train_inverse_dynamics(recording, InverseDynamicsConfig(steps=4), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    path.write_bytes(b"damaged")
    with pytest.raises(DatasetError, match="it is trained again"):
        train_inverse_dynamics(recording, config, cache=tmp_path)


def test_training_does_not_disturb_the_random_numbers_of_others(recording):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    train_inverse_dynamics(recording, InverseDynamicsConfig(steps=1))
    assert torch.equal(torch.rand(1), expected)


def test_an_action_is_between_the_last_two_frames_and_terminal_frames_are_left_out(tmp_path):
    dataset = empty_dataset(tmp_path / "data")
    dataset.append(random_episode(5, seed=0))
    dataset.append(random_episode(4, seed=1, terminated=True))
    store = FrameStore(dataset)
    rows = action_rows(store)
    assert rows.tolist() == [2, 3, 4, 5, 8, 9]
    assert frames_before(store, rows)[:, :, 0, 0, 0].tolist() == [
        [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [0, 1, 2], [1, 2, 3]
    ]  # fmt: skip


def test_the_frechet_distance_is_that_of_gaussians():
    random = np.random.default_rng(0)
    one = random.normal(0, 1, (4000, 3))
    other = random.normal(0, 2, (4000, 3)) + np.array([3, 0, 0])
    # Means are 3 apart, and standard deviations 1 in each of three directions: 9 + 3.
    assert frechet_distance(one, other) == pytest.approx(12, rel=0.05)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match="at least 2 rows"):
        frechet_distance(one[:1], other)


def test_blurred_frozen_and_shuffled_clips_are_further_away(recording):
    store = FrameStore(recording)
    begins = np.asarray(
        [start + i for start, n in zip(store.starts, store.lengths, strict=True) for i in range(0, n - 16, 3)]
    )
    clips = store.frames[begins[:, None] + np.arange(CLIP_FRAMES)]
    real, others = clip_features(clips[::2]), clip_features(clips[1::2])
    floor = frechet_distance(real, others)
    blurred = (clips[::2] + np.roll(clips[::2].astype(int), 1, axis=3)) // 2
    frozen = np.repeat(clips[::2, :1], CLIP_FRAMES, axis=1)
    shuffled = clips[::2][:, np.random.default_rng(0).permutation(CLIP_FRAMES)]
    for worse in (blurred.astype(np.uint8), frozen, shuffled):
        assert frechet_distance(clip_features(worse), others) > 2 * floor
    with pytest.raises(FrameError, match="clips must be"):
        clip_features(clips[:, :3])


def test_gradient_energy_falls_with_blur():
    frames = torch.zeros(1, 1, 4, 4)
    frames[..., 2:] = 1.0
    assert gradient_energy(frames).item() == pytest.approx(1 / 6)  # one of three differences across, none down
    frames[..., 1] = 0.5
    assert gradient_energy(frames).item() == pytest.approx(1 / 12)


def test_bad_input_is_named(recording, tmp_path):
    model = still_world(recording)
    with pytest.raises(ConfigError, match="context at least 1"):
        rollout_fidelity(model, recording, recording, context=0)
    with pytest.raises(DatasetError, match=r"no held-out episode .* has the 80 steps of the context and 1 more"):
        rollout_fidelity(model, recording, recording, context=80, inverse=InverseDynamicsConfig(steps=1))
    with pytest.raises(ConfigError, match="steps and batch_size must be at least 1, not 0"):
        InverseDynamicsConfig(steps=0)
    short = empty_dataset(tmp_path / "short")
    short.append(random_episode(1))
    with pytest.raises(DatasetError, match="has 2 steps"):
        train_inverse_dynamics(short)
    continuous = type(short).create(tmp_path / "box", short.provenance, Box(-1, 1, (2,), np.float32), short.frame_shape)
    with pytest.raises(ConfigError, match="needs Discrete actions"):
        train_inverse_dynamics(continuous)


def share(value):
    return {"mean": value, "low": value, "high": value}


METRICS = {
    "horizons": {"1": {"psnr": share(30.0), "persistence_psnr": share(28.0)}},
    "drift": {"1": {"gradient_energy_ratio": 0.81}, "100": {"gradient_energy_ratio": None}},
    "objects": {
        "kinds": ["medkits"],
        "steps": {
            "8": {"dream": {"found": share(0.4)}, "codec": {"found": share(0.7)}},
            "30": {"dream": {"found": None}},
        },
    },
    "actions": {"steps": {"1": {"share": share(0.9)}}},
}


def test_the_table_has_what_was_measured_and_nothing_else():
    header, rows = summary_table(METRICS)
    assert header == ("step", "medkits (codec)", "actions", "sharpness", "PSNR (last frame again)")
    assert rows == [
        ("1", "-", "90%", "81%", "30.0 (28.0)"),
        ("8", "40% (70%)", "-", "-", "-"),
        ("30", "-", "-", "-", "-"),
        ("100", "-", "-", "-", "-"),
    ]
    assert summary_table({"objects": {"not_measured": "no detector"}, "rfvd": None}) == (("step",), [])


def test_the_model_card_shows_the_table():
    description = {
        "spec": {"frame_shape": [3, 64, 64], "frame_rate": 10, "action_space": {}},
        "backbone": {"kind": "rssm"},
        "metrics": METRICS,
    }
    card = make_model_card("mine", description)
    assert "## How good its dreams are" in card
    assert "| 8 | 40% (70%) | - | - | - |" in card
    assert "How good" not in make_model_card("mine", {**description, "metrics": {}})

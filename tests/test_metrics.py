"""Metrics agree with values computed by hand, and are compared with persistence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toy import empty_dataset, random_episode, toy_dataset

from dreamenv.data.episode import Episode
from dreamenv.data.store import FrameStore
from dreamenv.errors import DatasetError, FrameError, InputError
from dreamenv.metrics import images
from dreamenv.metrics.calibration import reward_calibration, termination_calibration
from dreamenv.metrics.fidelity import dream_fidelity, drift, fidelity
from dreamenv.metrics.verdict import fidelity_verdict
from dreamenv.metrics.windows import dreamed, predict_one_step
from dreamenv.presets import make_config
from dreamenv.world_model import Imagined, WorldModelSpec, new_state


def spec_of(dataset, chunk=1):
    height, width, channels = dataset.frame_shape
    return WorldModelSpec(
        frame_shape=(channels, height, width), action_space=dataset.action_space, frame_rate=10.0, chunk=chunk
    )


@pytest.fixture
def dataset(tmp_path):
    return toy_dataset(tmp_path / "toy", 6)


def persistence(dataset):
    model = make_config("persistence").build(spec_of(dataset))
    model.calibrate(FrameStore(dataset).statistics())
    return model


class Counter:
    """Imagines frame i of `random_episode` by counting: exact in the pixel that counts, black elsewhere."""

    def __init__(self, spec):
        self.spec = spec

    def start(self, first_frame, seed):
        return new_state(seed, {"count": (first_frame[:, 0, 0, 0] * 255).round().long()})

    def observe(self, state, actions, frames):
        state = state.copy()
        state["count"] = state["count"] + actions.shape[1]
        return state

    def imagine(self, state, actions, *, decode=True):
        b, k = actions.shape[:2]
        assert k % self.spec.chunk == 0
        counts = state["count"][:, None] + torch.arange(1, k + 1)  # b k
        state = state.copy()
        state["count"] = counts[:, -1]
        frames = torch.zeros(b, k, *self.spec.frame_shape)
        frames[..., 0, 0] = (counts / 255.0)[:, :, None]
        return Imagined(frames if decode else None, counts.float(), torch.zeros(b, k)), state


def test_psnr_is_the_one_by_hand():
    frames, targets = torch.full((2, 3, 3, 8, 8), 0.5), torch.full((2, 3, 3, 8, 8), 0.6)
    assert images.psnr(frames, targets) == pytest.approx(torch.full((2, 3), 20.0), abs=1e-4)  # -10 log10(0.01)
    assert images.psnr(frames, frames) == pytest.approx(torch.full((2, 3), images.PSNR_CEILING))


def test_ssim_is_one_for_equal_frames_and_agrees_with_the_formula_for_constant_ones():
    frames = torch.rand(2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert images.ssim(frames, frames) == pytest.approx(torch.ones(2, 5), abs=1e-5)
    # Of two constant images only the luminance term is left: (2 x y + c1) / (x^2 + y^2 + c1), c1 = 0.01^2.
    x, y = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.8)
    assert float(images.ssim(x, y)) == pytest.approx((2 * 0.16 + 1e-4) / (0.68 + 1e-4), abs=1e-4)
    assert images.ssim(torch.rand(4, 1, 6, 6), torch.rand(4, 1, 6, 6)).shape == (4,)


def test_blur_costs_sharpness_and_fog_costs_contrast():
    frames = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(frames, 3, stride=1, padding=1)
    report = drift(blurred, frames)
    assert report["sharpness_ratio"] < 0.5
    foggy = drift(0.5 * frames + 0.5, frames)
    assert foggy["contrast_ratio"] == pytest.approx(0.5, abs=1e-4)
    assert foggy["brightness_shift"] == pytest.approx(0.5 - 0.5 * float(frames.mean()), abs=1e-4)
    assert drift(frames, torch.zeros_like(frames))["sharpness_ratio"] is None


def test_frames_of_different_shapes_are_not_compared():
    with pytest.raises(FrameError, match="must share one shape"):
        images.psnr(torch.zeros(2, 3, 8, 8), torch.zeros(3, 3, 8, 8))
    with pytest.raises(FrameError, match="floats"):
        images.ssim(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8))


def test_perfect_probabilities_are_calibrated_and_confident_wrong_ones_are_not():
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0, 0.2, 20_000)
    terminations = rng.uniform(size=20_000) < probabilities
    honest = termination_calibration(probabilities, terminations)
    assert honest["expected_calibration_error"] < 0.01
    assert honest["log_loss"] < honest["log_loss_base_rate"]
    assert sum(row["low"] <= row["predicted"] <= row["high"] for row in honest["bins"]) >= 8
    overdone = termination_calibration(np.clip(3 * probabilities, 0, 1), terminations)
    assert overdone["expected_calibration_error"] == pytest.approx(0.2, abs=0.03)  # 3 p - p, of mean p = 0.1


def test_termination_scores_are_those_by_hand():
    report = termination_calibration([0.1, 0.1, 0.6, 0.6], [0, 0, 1, 0], bins=2)
    assert report["brier"] == pytest.approx((0.01 + 0.01 + 0.16 + 0.36) / 4)
    assert report["log_loss"] == pytest.approx(-(2 * math.log(0.9) + math.log(0.6) + math.log(0.4)) / 4)
    assert report["brier_base_rate"] == pytest.approx(0.25 * 0.75)
    assert report["expected_calibration_error"] == pytest.approx(0.1)  # both bins are off by 0.1
    assert [row["count"] for row in report["bins"]] == [2, 2]


def test_reward_errors_are_those_by_hand():
    report = reward_calibration([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 5.0], bins=2)
    assert report["mean_absolute_error"] == pytest.approx(0.5)
    assert report["bias"] == pytest.approx(-0.5)
    assert report["root_mean_squared_error"] == pytest.approx(1.0)
    assert report["explained_variance"] == pytest.approx(1 - 0.75 / 3.5)
    assert reward_calibration([1.0, 1.0], [2.0, 2.0])["explained_variance"] is None


def test_predictions_that_are_no_probabilities_are_refused():
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        termination_calibration([0.5, 1.2], [0, 1])
    with pytest.raises(InputError, match="equal lengths"):
        reward_calibration([0.5], [0, 1])
    with pytest.raises(InputError, match="finite"):
        reward_calibration([float("nan")], [0])


def test_persistence_equals_its_own_baseline_at_every_horizon(dataset):
    report = fidelity(persistence(dataset), dataset, horizons=(1, 3), windows=8, context=2)
    for entry in report["horizons"].values():
        assert entry["psnr"] == entry["persistence_psnr"]
        assert entry["psnr_gain"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert report["drift"]["1"]["sharpness_ratio"] == pytest.approx(1.0, abs=0.05)
    termination = report["termination"]
    assert termination["steps"] == dataset.total_steps
    assert termination["terminations"] == sum(episode.terminated for episode in dataset)
    # It predicts the base rate, so it can do no better than that.
    assert termination["log_loss"] == pytest.approx(termination["log_loss_base_rate"])
    assert termination["expected_calibration_error"] < 1e-6


@pytest.mark.parametrize("chunk", [1, 2])
def test_dreams_are_compared_with_the_frames_of_their_own_steps(tmp_path, chunk):
    dataset = empty_dataset(tmp_path / "counting")
    for seed in range(3):
        episode = random_episode(12, seed=seed)
        frames = np.zeros_like(episode.frames)
        frames[:, 0, 0] = episode.frames[:, 0, 0]
        dataset.append(
            Episode(
                frames=frames,
                actions=episode.actions,
                rewards=np.arange(1, 13),
                terminated=False,
                truncated=True,
            )
        )
    counter, store = Counter(spec_of(dataset, chunk)), FrameStore(dataset)
    report = dream_fidelity(counter, store, horizons=(1, 4, 5), windows=20, context=3)
    for horizon in ("1", "4", "5"):
        assert report["horizons"][horizon]["psnr"]["mean"] == images.PSNR_CEILING
        assert report["horizons"][horizon]["persistence_psnr"]["mean"] < images.PSNR_CEILING
    rows = store.starts[:2] + 1
    for batch, imagined in dreamed(counter, store, rows, context=2, horizon=5, seed=0, device="cpu"):
        assert imagined == pytest.approx(batch.frames[:, 2:], abs=1e-6)
    for part in predict_one_step(counter, store, steps=36, seed=0, device="cpu"):
        assert np.array_equal(part["reward"], part["real_reward"])  # the i-th reward is i, as is the count


def test_frames_that_end_an_episode_are_not_compared(tmp_path):
    dataset = empty_dataset(tmp_path / "termination")
    for seed in range(3):
        dataset.append(random_episode(4, seed=seed, terminated=True))
    report = dream_fidelity(persistence(dataset), FrameStore(dataset), horizons=(1, 2), windows=20, context=2)
    # After two steps of context, step 1 is step 3 of 4 in one window and the last one in the other.
    assert report["horizons"]["1"]["count"] == 3
    assert "2" not in report["horizons"]


def test_horizons_beyond_every_episode_are_left_out_and_too_long_a_context_refused(tmp_path):
    dataset = empty_dataset(tmp_path / "short")
    dataset.append(random_episode(6))
    report = fidelity(persistence(dataset), dataset, horizons=(1, 100), context=2)
    assert list(report["horizons"]) == ["1"]
    with pytest.raises(DatasetError, match="more than 6 steps"):
        fidelity(persistence(dataset), dataset, context=6)


def test_the_same_seed_gives_the_same_report(dataset):
    model = make_config("rssm", "tiny").build(spec_of(dataset)).eval()
    reports = [fidelity(model, dataset, horizons=(1, 3), windows=6, context=2, seed=4) for _ in range(2)]
    assert reports[0] == reports[1]


def measured(**gains: float) -> dict:
    """Metrics of a world whose PSNR is that much above a last frame's 20 dB; step_1=2.0."""
    return {
        "horizons": {
            name.removeprefix("step_"): {
                "psnr": {"mean": 20.0 + gain}, "persistence_psnr": {"mean": 20.0}, "psnr_gain": {"mean": gain},
            }
            for name, gain in gains.items()
        }
    }  # fmt: skip


def test_a_line_says_what_a_world_is_worth_and_warns_where_it_is_worse_than_the_last_frame():
    good = fidelity_verdict(measured(step_1=2.0, step_5=-1.0, step_30=1.5, step_100=3.0))
    assert "1 step ahead 22.0 dB PSNR against 20.0; 30 steps ahead 21.5 dB PSNR against 20.0." in good
    assert "WARNING" not in good
    bad = fidelity_verdict(measured(step_1=2.0, step_30=-3.0))
    assert "30 steps ahead 17.0 dB PSNR against 20.0" in bad
    assert "WARNING: worse than repeating the last frame at 30 steps" in bad
    assert "10 steps ahead" in fidelity_verdict(measured(step_1=2.0, step_5=1.0, step_10=1.0)), "short episodes"
    assert "no episode was held out" in fidelity_verdict({})
    assert "\n" not in good + bad

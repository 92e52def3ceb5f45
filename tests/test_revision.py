"""Postdiction: later frames revise what is remembered, in models, filters and dreams."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from drifting import make_world
from PIL import Image

from dreamenv.backbones.rssm import BackwardConfig, GradientRevision, RevisingRSSM, RevisingRSSMConfig, RSSMStage
from dreamenv.backbones.rssm.presets import tiny
from dreamenv.benchmarks.lost_frames import regained
from dreamenv.benchmarks.postdiction import FUTURE, Gap, draw, measure_gap
from dreamenv.dream import DreamEnv, DreamVectorEnv, LatentFilter, LatentObservation
from dreamenv.dream.states import load_state, save_state
from dreamenv.envs import LossyFrames
from dreamenv.errors import ConfigError, FrameError, InputError, ResetNeededError
from dreamenv.testing import SPEC, RevisionContract, assert_equal
from dreamenv.world import World
from dreamenv.world_model import Batch, DataStatistics

STAGE = RSSMStage(steps=200, batch_size=16, sequence_length=24, learning_rate=1e-3)
BACKWARD = RevisingRSSMConfig.of(tiny(), BackwardConfig(steps=5, hidden=32, training=STAGE))
BY_GRADIENT = RevisingRSSMConfig.of(tiny(), GradientRevision(steps=5))


class TestRevisingRSSM(RevisionContract):
    config = BACKWARD

    def test_one_batch_can_be_overfitted(self, model: Any) -> None:
        """By its own stage alone: after the others, which are those of the RSSM, little is left to be learned."""
        model.train()
        stage = model.stages()[-1]
        batch, losses = self.batch(model, stage.precompute), []
        optimizer = torch.optim.Adam(stage.objectives[0].parameters, lr=3e-3)
        for _ in range(self.overfit_steps):
            loss, _ = stage.objectives[0].loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert min(losses[-10:]) < 0.5 * losses[0]

    def test_a_gradient_reaches_the_backward_network(self, model: Any) -> None:
        model = self.disturbed(model.train())
        stage = model.stages()[-1]
        loss, terms = stage.objectives[0].loss(self.batch(model, stage.precompute))
        loss.backward()
        assert float(terms["imitation"].detach()) > 0
        for name, parameter in model.smoother.named_parameters():
            assert float(parameter.grad.abs().max()) > 0, name


class TestRSSMRevisedByGradient(RevisionContract):
    config = BY_GRADIENT
    # Nothing of these depends on how the model looks back.
    test_one_batch_can_be_overfitted = None
    test_a_constant_hazard_is_predicted_at_every_age = None
    test_a_rare_reward_is_not_paid_elsewhere = None

    def test_it_has_the_weights_of_the_plain_model(self, model: Any) -> None:
        plain = tiny().build(SPEC)
        plain.load_state_dict(model.state_dict())
        assert model.stages()[-1].name == "dynamics"


@pytest.mark.parametrize(
    ("revision", "setting", "value"),
    [
        (BackwardConfig, "steps", 0), (BackwardConfig, "steps", 10_000), (BackwardConfig, "hidden", 0),
        (GradientRevision, "gradient_steps", 0), (GradientRevision, "step_size", 0.0),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_by_name(revision: Any, setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting):
        revision(**{setting: value})


@pytest.mark.parametrize(("setting", "value"), [("gradient_steps", 9), ("step_size", 0.1)])
def test_settings_of_the_gradient_change_what_is_revised(setting: str, value: float) -> None:
    contract = TestRSSMRevisedByGradient()
    found = []
    for revision in (BY_GRADIENT.revision, dataclasses.replace(BY_GRADIENT.revision, **{setting: value})):
        torch.manual_seed(0)
        model = contract.build(dataclasses.replace(BY_GRADIENT, revision=revision)).eval()
        state, _ = contract.with_gap(model)
        found.append(model.embed(contract.look_back(model, state)))
    assert not torch.equal(*found)


@pytest.mark.parametrize(
    ("contract", "config"), [(TestRevisingRSSM, BACKWARD), (TestRSSMRevisedByGradient, BY_GRADIENT)]
)
def test_a_dream_younger_than_its_buffer_is_revised_alike_by_a_longer_one(contract: Any, config: Any) -> None:
    found = []
    for steps in (5, 9):
        made = contract()
        made.config = dataclasses.replace(config, revision=dataclasses.replace(config.revision, steps=steps))
        model = made.disturbed(made.make_model())
        state, _ = made.with_gap(model)
        found.append(model.embed(made.look_back(model, state)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


# A coin is thrown at the first step, and every frame shows it: bright or dark.

COINS, COIN_STEPS = 32, 6


def coin_frames() -> tuple[torch.Tensor, torch.Tensor]:
    """Return first frames (n, c, h, w), which are grey, and the frames after them."""
    bright = torch.arange(COINS) % 2 == 1
    shown = torch.where(bright, 0.9, 0.1).view(-1, 1, 1, 1, 1).expand(-1, COIN_STEPS, 3, 16, 16)
    return torch.full((COINS, 3, 16, 16), 0.5), shown.contiguous()


@pytest.fixture(scope="module")
def coin_model() -> RevisingRSSM:
    """Return a model that has learned of the coin."""
    torch.manual_seed(0)
    training = dataclasses.replace(tiny().training, dropout=0.0)
    model = dataclasses.replace(BACKWARD, training=training).build(SPEC).train()
    first, frames = coin_frames()
    model.calibrate(DataStatistics(first[0], 0.0, 1.0, 0.0, 1.0, 0.01))
    batch = Batch(
        first_frame=first, frames=frames, actions=torch.zeros(COINS, COIN_STEPS, dtype=torch.int64),
        rewards=torch.zeros(COINS, COIN_STEPS), terminated=torch.zeros(COINS, COIN_STEPS, dtype=torch.bool),
        weight=torch.ones(COINS, COIN_STEPS), generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    for stage in (model.stages()[0], model.stages()[-1]):
        if stage.precompute is not None:
            everything = torch.cat((first[:, None], frames), dim=1).flatten(0, 1)
            with torch.no_grad():
                features = stage.precompute(everything).unflatten(0, (COINS, COIN_STEPS + 1))
            batch = dataclasses.replace(batch, features=features)
        optimizer = torch.optim.Adam(stage.objectives[0].parameters, 3e-3)
        for _ in range(150):
            loss, _ = stage.objectives[0].loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize("learned", [True, False])
def test_what_comes_later_tells_what_was_hidden(coin_model: RevisingRSSM, learned: bool) -> None:
    """Three throws that nobody saw are guessed right half of the time, and nearly always once a fourth frame shows."""
    model = coin_model
    if not learned:
        model = BY_GRADIENT.build(SPEC).eval()
        model.load_state_dict({k: v for k, v in coin_model.state_dict().items() if not k.startswith("smoother")})
    first, frames = coin_frames()
    actions = torch.zeros(COINS, 4, dtype=torch.int64)
    with torch.inference_mode():
        state = model.start(first, torch.arange(COINS))
        state = model.imagine(state, actions[:, :3])[1]
        state = model.observe(state, actions[:, 3:], frames[:, 3:4])
        filtered = model.recall(state)[:, -4:-1]
        revised = model.recall(model.revise(state, frames[:, 3:4], torch.ones(COINS, 1, dtype=torch.bool)))[:, -4:-1]

    def right(recalled: torch.Tensor) -> float:
        shown = recalled.flatten(2).mean(dim=-1) > 0.5
        return float((shown == (frames[:, :3].flatten(2).mean(dim=-1) > 0.5)).float().mean())

    assert right(filtered) < 0.75
    assert right(revised) > 0.9


# Filters of real frames


def revising_world(config: RevisingRSSMConfig = BACKWARD) -> World:
    torch.manual_seed(0)
    return dataclasses.replace(make_world(), model=config.build(SPEC).eval(), config=config)


def pictures(steps: int, rows: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (steps, rows, 16, 16, 3), dtype=np.uint8)


def test_a_missing_frame_is_bridged_by_imagination_in_any_world() -> None:
    world = make_world(noise=0.0)
    follower = LatentFilter(world, 2)
    start = np.full((2, 16, 16, 3), 100, np.uint8)
    follower.reset([0, 1], start, [0, 1])
    latents = follower.step([1, 1], start + 50, ages=[0, -1])
    assert latents[0, 0] == pytest.approx(150 / 255)
    assert latents[1, 0] != pytest.approx(150 / 255)  # what stood in for its frame was not looked at
    np.testing.assert_array_equal(latents[:, 1], [1, 1])  # both have taken a step


def test_a_frame_that_comes_late_is_as_good_as_in_time() -> None:
    shown, actions = pictures(4), [[0, 1], [2, 1], [1, 1]]
    in_time, late, unrevised = (LatentFilter(revising_world(), 2, revise=revise) for revise in (True, True, False))
    for follower in (in_time, late, unrevised):
        follower.reset([0, 1], shown[0], [3, 4])
    for i in range(2):
        in_time.step(actions[i], shown[i + 1])
    first = late.step(actions[0], shown[0], ages=[-1, -1])
    kept = first.copy()
    for i in (1, 2):
        ended = late.step(actions[i], shown[i], ages=[1, 1])
    np.testing.assert_allclose(ended, in_time.step(actions[2], shown[0], ages=[-1, -1]), atol=1e-4)
    np.testing.assert_array_equal(first, kept)  # what was returned stays
    unrevised.step(actions[0], shown[0], ages=[-1, -1])
    for i in (1, 2):
        ended_blind = unrevised.step(actions[i], shown[i], ages=[1, 1])
    assert not np.allclose(ended_blind, ended, atol=1e-3)


def test_a_filter_without_gaps_never_revises(monkeypatch: pytest.MonkeyPatch) -> None:
    world, shown = revising_world(), pictures(4)
    monkeypatch.setattr(type(world.model), "revise", lambda *_: pytest.fail("nothing was hidden"))
    follower = LatentFilter(world, 2)
    follower.reset([0, 1], shown[0], [3, 4])
    for i in range(3):
        follower.step([0, 0], shown[i + 1], ages=[0, 0])


def test_ages_that_cannot_be_are_refused() -> None:
    follower, shown = LatentFilter(revising_world(), 2), pictures(2)
    follower.reset([0, 1], shown[0], [3, 4])
    with pytest.raises(InputError, match="ages must be"):
        follower.step([0, 0], shown[1], ages=[0])
    with pytest.raises(InputError, match="ages must be"):
        follower.step([0, 0], shown[1], ages=[0, -2])
    with pytest.raises(InputError, match="1 steps old"):
        follower.step([0, 0], shown[1], ages=[0, 1])
    chunked = LatentFilter(make_world(chunk=3), 1)
    chunked.reset([0], shown[0][:1], [3])
    with pytest.raises(ConfigError, match="imagines 3 frames at once"):
        chunked.step([0], shown[1][:1], ages=[-1])


# Dreams


def test_a_dream_is_revised_by_real_frames_and_what_it_returned_stays() -> None:
    env = DreamVectorEnv(revising_world(), 2, observation="latent", horizon=50)
    env.reset(seed=0)
    returned = [env.step(np.array([0, 1]))[0] for _ in range(3)]
    kept = [one.copy() for one in returned]
    real = pictures(2).swapaxes(0, 1)  # b l h w c
    revised = env.revise(real, np.array([[True, True], [False, False]]))
    assert not np.array_equal(revised[0], returned[-1][0])
    np.testing.assert_array_equal(revised[1], returned[-1][1])
    for one, other in zip(returned, kept, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_dreams_remembered_steps_are_part_of_its_state(tmp_path: Any) -> None:
    env, other = (DreamVectorEnv(revising_world(), 2, observation="latent", horizon=50) for _ in range(2))
    env.reset(seed=0)
    other.reset(seed=1)
    env.step(np.array([0, 1]))
    save_state(env.get_state(), tmp_path / "state")
    other.set_state(load_state(tmp_path / "state"))
    real, mask = pictures(1).swapaxes(0, 1), np.ones((2, 1), np.bool_)
    np.testing.assert_array_equal(env.revise(real, mask), other.revise(real, mask))
    assert_equal(env.get_state(), other.get_state())


def test_a_single_dream_is_revised_like_a_row() -> None:
    env = DreamEnv(revising_world(), horizon=50)
    with pytest.raises(ResetNeededError):
        env.revise(pictures(1, 1)[0], np.ones(1, np.bool_))
    env.reset(seed=0)
    frame = env.step(1)[0]
    np.testing.assert_array_equal(env.revise(pictures(1, 1)[0], np.ones(1, np.bool_)), frame)
    with pytest.raises(InputError, match="began"):
        env.revise(pictures(1, 2)[0].repeat(2, 0), np.ones(4, np.bool_))


def test_a_dream_refuses_frames_without_their_mask_and_worlds_that_never_look_back() -> None:
    env = DreamVectorEnv(revising_world(), 2, horizon=50)
    env.reset(seed=0)
    env.step(np.array([0, 1]))
    real = pictures(1).swapaxes(0, 1)
    with pytest.raises(InputError, match="mask must be"):
        env.revise(real, None)
    with pytest.raises(InputError, match="mask must be"):
        env.revise(real, np.ones(2, np.bool_))
    with pytest.raises(FrameError, match="uint8"):
        env.revise(real / 255, np.ones((2, 1), np.bool_))
    with pytest.raises(InputError, match="9 steps cannot be revised"):
        env.revise(real.repeat(9, 1), np.ones((2, 9), np.bool_))
    for odd in (None, 1, "x", object(), [], [[1], [2, 3]], {}, np.zeros(2), np.array([None] * 2), torch.zeros(2, 1)):
        with pytest.raises(FrameError):
            env.revise(odd, np.ones((2, 1), np.bool_))
        with pytest.raises(InputError):
            env.revise(real, odd)
    plain = DreamVectorEnv(make_world(), 2, horizon=50)
    plain.reset(seed=0)
    with pytest.raises(ConfigError, match="Drifting"):
        plain.revise(real, np.ones((2, 1), np.bool_))


# Frames lost on purpose


class Counting(gym.Env):
    """Frame t is of brightness t."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 1
        return self.frame(), {}

    def step(self, action):
        self.time += 1
        return self.frame(), 0.0, False, False, {}

    def frame(self) -> np.ndarray:
        return np.full((16, 16, 3), self.time % 256, np.uint8)


def play(env: gym.Env, steps: int, seed: int = 0) -> list[tuple[int, int]]:
    """Return brightness and age of each frame."""
    env.reset(seed=seed)
    found = []
    for _ in range(steps):
        frame, _, _, _, info = env.step(0)
        found.append((int(frame[0, 0, 0]), info["frame_age"]))
    return found


@pytest.mark.parametrize(("loss", "longest"), [(0.0, 1), (0.2, 1), (0.4, 6)])
def test_the_share_of_lost_frames_is_the_one_asked_for(loss: float, longest: int) -> None:
    ages = [age for _, age in play(LossyFrames(Counting(), loss, longest=longest), 4000)]
    assert np.mean([age == -1 for age in ages]) == pytest.approx(loss, abs=0.05)


def test_what_is_lost_depends_on_the_seed_alone() -> None:
    env = LossyFrames(Counting(), 0.5)
    assert play(env, 50, seed=1) == play(env, 50, seed=1) != play(env, 50, seed=2)


@pytest.mark.parametrize("stand_in", ["black", "last"])
def test_a_lost_frame_has_a_stand_in(stand_in: Any) -> None:
    newest = 1
    for time, (shown, age) in enumerate(play(LossyFrames(Counting(), 0.5, stand_in=stand_in), 100), start=2):
        if age == 0:
            newest = time
        assert shown == (time if age == 0 else 0 if stand_in == "black" else newest)


def test_a_late_frame_shows_what_was_then_and_says_how_old_it_is() -> None:
    found = play(LossyFrames(Counting(), 1.0, delay=3), 20)
    assert [age for _, age in found[:3]] == [-1, -1, -1]
    assert [(shown, age) for shown, age in found[3:]] == [(time - 3, 3) for time in range(5, 22)]


def test_losses_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss must be"):
        LossyFrames(Counting(), 1.5)
    with pytest.raises(ConfigError, match="loss=1"):
        LossyFrames(Counting(), 1.0)
    with pytest.raises(ConfigError, match="longest"):
        LossyFrames(Counting(), 0.5, longest=0)
    with pytest.raises(ConfigError, match="stand_in"):
        LossyFrames(Counting(), 0.5, stand_in="grey")


def test_latents_of_a_lossy_environment_are_revised() -> None:
    world = revising_world()
    plain, revised = (
        LatentObservation(LossyFrames(Counting(), 1.0, delay=2), world, revise=revise) for revise in (False, True)
    )
    for env in (plain, revised):
        env.reset(seed=0)
    pairs = [(plain.step(1)[0], revised.step(1)[0]) for _ in range(6)]
    assert np.array_equal(*pairs[1])  # no frame has come yet
    assert not np.array_equal(*pairs[-1])


# Measuring


def test_where_nothing_was_hidden_nothing_is_gained() -> None:
    model = revising_world().model
    gap = Gap(context=6, hidden=0)
    windows = torch.rand(3, gap.steps + 1, 3, 16, 16), torch.zeros(3, gap.steps, dtype=torch.int64)
    found = measure_gap(model, gap, windows)
    for way in ("revised, L=1", "revised, L=5"):
        assert found[way] == found["filter"]


def test_a_gap_is_measured_and_drawn(tmp_path: Path) -> None:
    model, gap = revising_world().model, Gap(context=4, hidden=2, seen=2)
    windows = torch.rand(3, gap.steps + 1, 3, 16, 16), torch.zeros(3, gap.steps, dtype=torch.int64)
    found = measure_gap(model, gap, windows)
    assert {len(way["future_by_step"]) for way in found.values()} == {FUTURE}
    assert found["revised, L=2"]["hidden"] == found["filter"]["hidden"]  # it does not reach the gap
    draw(model, gap, windows, tmp_path / "gap.png", count=1)
    with Image.open(tmp_path / "gap.png") as image:
        picture = np.asarray(image)
    rows = [picture[round(len(picture) * i / 4) :][: 2 * 16] for i in range(4)]
    assert rows[0].tobytes() != rows[1].tobytes()  # reality, and what was seen of it
    assert rows[1].std() < rows[0].std()  # grey where nothing was seen


def test_what_is_regained_is_a_share_of_what_was_lost() -> None:
    assert regained(best=300.0, without=100.0, revised=200.0) == 0.5
    assert regained(best=300.0, without=300.0, revised=310.0) is None


def test_the_example_shows_what_is_remembered_in_hindsight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "examples"))
    importlib.import_module("postdiction").main(tmp_path, steps=240, training_steps=2)
    with Image.open(tmp_path / "hindsight.png") as picture:
        assert picture.width > 12 * 32
    shown = capsys.readouterr().out
    assert "filtered: 0." in shown
    assert "revised: 0." in shown

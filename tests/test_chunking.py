"""Worlds that imagine several frames at once, acted in at every frame."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from drifting import Drifting, DriftingConfig
from tiny_worlds import TINY_DIT, randomized
from torch import Tensor

from dreamenv.capabilities import SupportsBfloat16, SupportsCalibrate, SupportsEmbed, SupportsReconstruct
from dreamenv.diffusion.context_noise import Stabilization
from dreamenv.diffusion.process import RectifiedFlow
from dreamenv.diffusion.sampler import Euler
from dreamenv.diffusion.schedule import FullSequence
from dreamenv.diffusion.target import FlowVelocity
from dreamenv.dream.chunking import ActionRepeatChunking, frame_by_frame
from dreamenv.testing import SPEC, WorldModelContract, assert_equal
from dreamenv.world_model import BackboneConfig, Imagined, State, WorldModel, new_state

ROWS, CHUNK = 4, 3
DRIFTING = DriftingConfig(chunk=CHUNK)
DENOISING = dataclasses.replace(
    TINY_DIT,
    process=RectifiedFlow(),
    target=FlowVelocity(),
    sampler=Euler(steps=2),
    schedule=FullSequence(frames=CHUNK),
    context_noise=Stabilization(stabilization_level=0.02),
)
CAPABILITIES = (SupportsCalibrate, SupportsEmbed, SupportsReconstruct, SupportsBfloat16)


class TestAnticipatingAFake(WorldModelContract):
    config = DRIFTING
    test_a_gradient_reaches_every_parameter = None  # it has nothing to learn

    def build(self, config: BackboneConfig) -> WorldModel:
        return ActionRepeatChunking(config.build(self.spec))


class TestAnticipatingDenoising(WorldModelContract):
    config = DENOISING
    test_one_batch_can_be_overfitted = None  # the stages are the model's own, and tested there

    def build(self, config: BackboneConfig) -> WorldModel:
        return ActionRepeatChunking(config.build(self.spec))


@pytest.fixture(params=[DRIFTING, DENOISING], ids=["fake", "denoising"])
def model(request) -> WorldModel:
    if request.param is DENOISING:
        return randomized(DENOISING)  # also weights that begin as 0, so that actions count
    return request.param.build(SPEC).eval()


@pytest.fixture(autouse=True)
def _gradients_only_in_the_contract(request):
    with torch.set_grad_enabled(request.cls is not None):
        yield


def begin(model: WorldModel) -> State:
    return model.start(
        torch.rand((ROWS, *SPEC.frame_shape), generator=torch.Generator().manual_seed(1)), torch.arange(4)
    )


def random_actions(steps: int) -> Tensor:
    """Kept now and then, so that rows replay, sample again and play chunks to their end at different times."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(3, (ROWS, -(-steps // 2)), generator=generator).repeat_interleave(2, dim=1)[:, :steps]


def step_by_step(model: WorldModel, state: State, actions: Tensor) -> tuple[dict[str, Tensor], State]:
    steps = []
    for action in actions.split(1, dim=1):
        imagined, state = model.imagine(state, action)
        steps.append({name: getattr(imagined, name) for name in ("frames", "rewards", "termination")})
    return {name: torch.cat([step[name] for step in steps], dim=1) for name in steps[0]}, state


def test_a_sequence_in_one_call_is_the_same_step_by_step(model):
    anticipating, actions = ActionRepeatChunking(model), random_actions(11)
    whole, after = anticipating.imagine(begin(anticipating), actions)
    steps, other = step_by_step(anticipating, begin(anticipating), actions)
    for name, value in steps.items():
        assert torch.equal(getattr(whole, name), value)
    assert_equal(after, other)


def test_a_dream_of_one_action_is_the_models_own(model):
    anticipating, actions = ActionRepeatChunking(model), torch.tensor([0, 1, 2, 1])[:, None].expand(ROWS, 3 * CHUNK)
    after, own = begin(model), []
    for chunk in actions.split(CHUNK, dim=1):
        imagined, after = model.imagine(after, chunk)
        own.append(imagined)
    steps, state = step_by_step(anticipating, begin(anticipating), actions)
    for name, value in steps.items():
        assert torch.equal(torch.cat([getattr(imagined, name) for imagined in own], dim=1), value)
    assert_equal(state["after"], after)


def test_a_changed_action_counts_from_its_own_frame_on():
    """Drifting in chunks, and frame by frame, is the same dream: its every frame depends on that frame's action."""
    anticipating, stepwise, actions = (
        ActionRepeatChunking(DRIFTING.build(SPEC)),
        DriftingConfig().build(SPEC),
        random_actions(17),
    )
    chunked, state = anticipating.imagine(begin(anticipating), actions)
    expected, other = stepwise.imagine(begin(stepwise), actions)
    torch.testing.assert_close(chunked.frames, expected.frames, rtol=0, atol=1e-5)
    assert torch.equal(chunked.rewards, expected.rewards)
    assert torch.equal(state["rng_counter"], other["rng_counter"])


def test_a_changed_action_continues_from_the_played_frames(model):
    anticipating, first, second = (
        ActionRepeatChunking(model),
        torch.zeros(ROWS, 2).long(),
        torch.ones(ROWS, CHUNK).long(),
    )
    sampled, _ = model.imagine(begin(model), torch.zeros(ROWS, CHUNK).long())
    expected, _ = model.imagine(model.observe(begin(model), first, sampled.frames[:, :2]), second)
    imagined, _ = anticipating.imagine(begin(anticipating), torch.cat((first, second), dim=1))
    torch.testing.assert_close(imagined.frames[:, :2], sampled.frames[:, :2], rtol=0, atol=1e-6)
    torch.testing.assert_close(imagined.frames[:, 2:], expected.frames, rtol=0, atol=1e-6)
    kept, _ = anticipating.imagine(begin(anticipating), torch.zeros(ROWS, 2 + CHUNK).long())
    assert (kept.frames[:, 2:] != imagined.frames[:, 2:]).any()


def test_only_rows_that_need_it_are_sampled(monkeypatch):
    anticipating, sampled = ActionRepeatChunking(DRIFTING.build(SPEC)), []
    imagine = Drifting.imagine

    def noting(self, state, actions, **settings):
        sampled.append(len(actions))
        return imagine(self, state, actions, **settings)

    state = begin(anticipating)
    monkeypatch.setattr(Drifting, "imagine", noting)
    for action, rows in [([0, 0, 0, 0], 4), ([0, 0, 0, 0], 0), ([0, 1, 0, 2], 2), ([0, 1, 0, 2], 2), ([0, 1, 1, 2], 1)]:
        sampled.clear()
        _, state = anticipating.imagine(state, torch.tensor(action)[:, None])
        assert sum(sampled) == rows
        assert len(sampled) <= 1


def test_real_frames_discard_sampled_frames_that_were_not_played(model):
    anticipating = ActionRepeatChunking(model)
    actions, seen = torch.ones(ROWS, 2).long(), torch.rand(ROWS, 2, *SPEC.frame_shape)
    played, state = anticipating.imagine(begin(anticipating), actions[:, :1])
    expected = model.observe(model.observe(begin(model), actions[:, :1], played.frames), actions, seen)
    state = anticipating.observe(state, actions, seen)
    assert_equal(state["after"], expected)
    own, _ = model.imagine(expected, torch.ones(ROWS, CHUNK).long())
    assert torch.equal(anticipating.imagine(state, torch.ones(ROWS, CHUNK).long())[0].frames, own.frames)


def test_the_embedding_is_of_the_present_frame(model):
    anticipating = ActionRepeatChunking(model)
    state, own = begin(anticipating), begin(model)
    for action in random_actions(8).split(1, dim=1):
        imagined, state = anticipating.imagine(state, action)
        own = model.observe(own, action, imagined.frames)
        torch.testing.assert_close(anticipating.embed(state), model.embed(own), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("rng_key", 77), ("temperature", 3.0)])
def test_another_stream_or_temperature_samples_again_at_once(model, name, value):
    anticipating, action = ActionRepeatChunking(model), torch.zeros(ROWS, 1).long()
    _, state = anticipating.imagine(begin(anticipating), action)
    changed = state.clone()
    changed[name][1] = value
    as_sampled, _ = anticipating.imagine(state, action)
    other, _ = anticipating.imagine(changed, action)
    differs = (as_sampled.frames != other.frames).flatten(1).any(dim=1)
    assert differs.tolist() == [False, True, False, False]


def test_rows_at_different_steps_can_overwrite_each_other(model):
    """Also over rows of a fresh state, whose parts hold the same numbers at first."""
    anticipating, actions = ActionRepeatChunking(model), random_actions(4)
    _, dreamt = anticipating.imagine(begin(anticipating), actions[:, :2])
    dreamt["rng_key"] = dreamt["rng_key"] + 1
    state = begin(anticipating)
    state[:] = dreamt
    assert_equal(state, dreamt)
    dreamt[1:2] = begin(anticipating)[1:2]
    assert_equal(dreamt[1:2], begin(anticipating)[1:2])
    assert_equal(dreamt[[0, 2, 3]], state[[0, 2, 3]])


def test_what_the_model_predicts_next_to_frames_is_passed_on():
    doubting = ActionRepeatChunking(DriftingConfig(chunk=CHUNK, doubt=0.5, terminal_reward=7.0).build(SPEC))
    imagined, _ = doubting.imagine(begin(doubting), random_actions(4))
    assert (imagined.uncertainty == 0.5).all()
    assert (imagined.terminal_rewards == 7.0).all()
    silent = ActionRepeatChunking(DENOISING.build(SPEC).eval())
    imagined, _ = silent.imagine(begin(silent), random_actions(4))
    assert imagined.uncertainty is imagined.terminal_rewards is None


class Mute(WorldModel):
    """A model that can do nothing but the contract: every frame is brighter than the one before."""

    spec = dataclasses.replace(SPEC, chunk=2)

    def start(self, first_frame, seed):
        return new_state(seed, {"frame": first_frame})

    def observe(self, state, actions, frames):
        return state.copy().update({"frame": frames[:, -1]})

    def imagine(self, state, actions, *, decode=True):
        rise = torch.arange(1, actions.shape[1] + 1).view(1, -1, 1, 1, 1) / 10
        frames, nothing = state["frame"][:, None] + rise, torch.zeros(actions.shape)
        return Imagined(frames, nothing, nothing), state.copy().update({"frame": frames[:, -1]})

    def stages(self):
        return ()


class Able(Mute):
    """A model that can do everything."""

    embedding_size = 1

    def embed(self, state):
        return state["frame"].mean(dim=(1, 2, 3))[:, None]

    def reconstruct(self, frames):
        return frames

    def calibrate(self, statistics):
        self.calibrated = statistics

    def store_in_bfloat16(self):
        self.rounded = True


@pytest.mark.parametrize("inner", [Mute(), Able(), DRIFTING.build(SPEC), DENOISING.build(SPEC)])
def test_the_wrapper_has_exactly_the_models_capabilities(inner):
    for anticipating in (ActionRepeatChunking(inner), copy.deepcopy(ActionRepeatChunking(inner))):
        assert isinstance(anticipating, WorldModel)
        for capability in CAPABILITIES:
            assert isinstance(anticipating, capability) == isinstance(inner, capability), capability


def test_the_embedding_is_of_the_frame_shown_last():
    anticipating, action = ActionRepeatChunking(Able()), torch.zeros(2, 1).long()
    _, state = anticipating.imagine(anticipating.start(torch.zeros(2, *SPEC.frame_shape), torch.arange(2)), action)
    torch.testing.assert_close(anticipating.embed(state), torch.full((2, 1), 0.1))


def test_a_copy_is_a_model_of_its_own():
    anticipating = ActionRepeatChunking(Able())
    other = copy.deepcopy(anticipating)
    other.store_in_bfloat16()
    assert other.model.rounded
    assert not hasattr(anticipating.model, "rounded")


def test_a_model_that_imagines_frame_by_frame_is_left_alone():
    stepwise, chunked = DriftingConfig().build(SPEC), DRIFTING.build(SPEC)
    assert frame_by_frame(stepwise) is stepwise
    assert frame_by_frame(chunked).spec == SPEC

"""The contract every backbone keeps, as tests. Inherit `WorldModelContract` and give it a configuration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from dreamenv.capabilities import (
    SupportsCalibrate,
    SupportsEmbed,
    SupportsGaze,
    SupportsReconstruct,
    SupportsScore,
)
from dreamenv.data import FrameStore
from dreamenv.errors import ActionError, FrameError, SeedError, StateError
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.testing.chance import learn, predict, record_chance
from dreamenv.testing.gaze import check_gaze_contract
from dreamenv.world_model import BackboneConfig, Batch, DataStatistics, State, WorldModel, WorldModelSpec

__all__ = ["ROWS", "SPEC", "STEPS", "WorldModelContract", "assert_equal"]

SPEC = WorldModelSpec(frame_shape=(3, 16, 16), action_space=gym.spaces.Discrete(3), frame_rate=10.0)
ROWS, STEPS = 4, 6


class WorldModelContract:
    """Inherit this in a class whose name begins with Test, and set `config`.

    Attributes:
        config: the backbone, as small as it gets.
        spec: what it is built for.
        overfit_steps: optimiser steps per stage within which one batch is learned; 0 for a model without parameters.
    """

    config: BackboneConfig
    spec = SPEC
    overfit_steps = 150

    @pytest.fixture
    def model(self) -> WorldModel:
        return self.make_model()

    def make_model(self) -> WorldModel:
        torch.manual_seed(0)  # weights are sampled by torch.nn.init, which knows only the global stream
        model = self.build(self.config)
        return model.eval()

    def build(self, config: BackboneConfig) -> WorldModel:
        return config.build(self.spec)

    def test_shapes_follow_the_conventions(self, model: WorldModel) -> None:
        with torch.no_grad():
            state = self.begin(model)
            actions = self.actions(2 * self.spec.chunk)
            imagined, after = model.imagine(state, actions)
        assert imagined.frames is not None
        assert imagined.frames.shape == (ROWS, actions.shape[1], *self.spec.frame_shape)
        assert imagined.frames.dtype == torch.float32
        assert float(imagined.frames.min()) >= 0
        assert float(imagined.frames.max()) <= 1
        assert imagined.rewards.shape == imagined.termination.shape == actions.shape[:2]
        assert float(imagined.termination.min()) >= 0
        assert float(imagined.termination.max()) <= 1
        assert state.batch_size == after.batch_size == torch.Size([ROWS])
        assert torch.equal(after["rng_counter"], state["rng_counter"] + actions.shape[1])

    def test_imagining_leaves_the_given_state_as_it_was(self, model: WorldModel) -> None:
        with torch.no_grad():
            state = self.begin(model)
            before = state.clone()
            model.imagine(state, self.actions(2 * self.spec.chunk))
            model.observe(state, self.actions(STEPS), self.frames(STEPS))
        assert_equal(state, before)

    def test_the_same_seed_dreams_the_same_dream(self, model: WorldModel) -> None:
        assert_equal(self.dream(model, self.begin(model)), self.dream(model, self.begin(model)))

    def test_rows_do_not_influence_each_other(self, model: WorldModel) -> None:
        alone = self.dream(model, self.begin(model))
        frames, seeds = self.first_frames(), torch.arange(ROWS)
        frames[1:], seeds[1:] = frames[1:].flip(-1), seeds[1:] + 100
        with torch.no_grad():
            companions = self.dream(model, model.start(frames, seeds))
        assert_equal(alone[:1], companions[:1])

    def test_a_row_dreams_in_a_batch_as_it_does_alone(self, model: WorldModel) -> None:
        state = self.begin(model)
        together, alone = self.dream(model, state), self.dream(model, state[1:2], rows=slice(1, 2))
        torch.testing.assert_close(together["dreamt"][1:2], alone["dreamt"], rtol=1e-4, atol=1e-4)

    def test_a_restored_state_replays_exactly(self, model: WorldModel) -> None:
        with torch.no_grad():
            _, state = model.imagine(self.begin(model), self.actions(2 * self.spec.chunk))
        stored = load(save({key: value.contiguous() for key, value in state.flatten_keys("/").items()}))
        restored = State(stored, batch_size=[ROWS]).unflatten_keys("/")
        assert_equal(self.dream(model, state), self.dream(model, restored))

    def test_resetting_one_row_leaves_the_others_bit_identical(self, model: WorldModel) -> None:
        with torch.no_grad():
            _, state = model.imagine(self.begin(model), self.actions(2 * self.spec.chunk))
            undisturbed = self.dream(model, state)
            state[2:3] = model.start(self.first_frames()[2:3], torch.tensor([99]))
            disturbed = self.dream(model, state)
        keep = torch.tensor([0, 1, 3])
        assert_equal(undisturbed[keep], disturbed[keep])

    def test_observing_in_pieces_agrees_with_one_pass(self, model: WorldModel) -> None:
        actions, frames = self.actions(STEPS), self.frames(STEPS)
        with torch.no_grad():
            whole = model.observe(self.begin(model), actions, frames)
            pieces = self.begin(model)
            for i in range(STEPS):
                pieces = model.observe(pieces, actions[:, i : i + 1], frames[:, i : i + 1])
        for key in whole.keys(include_nested=True, leaves_only=True):
            torch.testing.assert_close(whole[key], pieces[key], rtol=1e-4, atol=1e-5)

    def test_imagining_in_pieces_agrees_with_one_pass(self, model: WorldModel) -> None:
        chunk = self.spec.chunk
        actions = self.actions(3 * chunk)
        with torch.no_grad():
            whole, _ = model.imagine(self.begin(model), actions)
            state, parts = self.begin(model), []
            for i in range(3):
                part, state = model.imagine(state, actions[:, i * chunk : (i + 1) * chunk])
                parts.append(part)
        for name in ("frames", "rewards", "termination"):
            torch.testing.assert_close(
                getattr(whole, name), torch.cat([getattr(part, name) for part in parts], dim=1), rtol=1e-4, atol=1e-4
            )

    def test_a_gradient_reaches_every_parameter(self, model: WorldModel) -> None:
        model.train()
        for stage in model.stages():
            for objective in stage.objectives:
                model.zero_grad()
                loss, _ = objective.loss(self.batch(model, stage.precompute))
                loss.backward()
                for parameter in objective.parameters:
                    assert parameter.grad is not None, stage.name
                    assert bool(parameter.grad.isfinite().all())
        reached = {id(p) for stage in model.stages() for o in stage.objectives for p in o.parameters}
        assert {name for name, p in model.named_parameters() if id(p) not in reached} == set()

    def test_one_batch_can_be_overfitted(self, model: WorldModel) -> None:
        model.train()
        for stage in model.stages():
            batch = self.batch(model, stage.precompute)
            for objective in stage.objectives:
                optimizer = torch.optim.Adam(objective.parameters, lr=3e-3)
                losses = []
                for _ in range(self.overfit_steps):
                    loss, _ = objective.loss(batch)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(float(loss.detach()))
                assert min(losses[-10:]) < 0.5 * losses[0], f"{stage.name}: {losses[0]} -> {losses[-1]}"

    def test_before_training_rewards_and_terminations_are_the_usual_ones(self, model: WorldModel) -> None:
        """What is rare is not predicted everywhere by a head that has not learned yet, or only little."""
        if not isinstance(model, SupportsCalibrate) or not model.spec.predicts_rewards:
            return
        model.calibrate(self.statistics())
        with torch.no_grad():
            imagined, _ = model.imagine(self.begin(model), self.actions(2 * self.spec.chunk))
        usual = torch.full_like(imagined.rewards, self.statistics().reward_mean)
        torch.testing.assert_close(imagined.rewards, usual, rtol=1e-3, atol=1e-4)
        rate = torch.full_like(usual, self.statistics().termination_rate)
        torch.testing.assert_close(imagined.termination, rate, rtol=1e-3, atol=1e-5)

    def test_a_constant_hazard_is_predicted_at_every_age(self, tmp_path: Path) -> None:
        """How a recording is cut into windows says nothing of when an episode ends."""
        store = record_chance(tmp_path, self.spec)
        for model, stage, length in self.taught(store, steps=150):
            found = predict(model, (0, 1, 2, length - 1, length, 2 * length)).termination
            shares = found / store.statistics().termination_rate
            assert float(shares.min()) > 2 / 3, f"{stage}: {shares.tolist()}"
            assert float(shares.max()) < 3 / 2, f"{stage}: {shares.tolist()}"

    def test_a_rare_reward_is_not_paid_elsewhere(self, tmp_path: Path) -> None:
        """A head that starts anywhere pays where nothing happens, for longer than a rare reward takes to be learned."""
        store = record_chance(tmp_path, self.spec)
        for model, stage, length in self.taught(store, steps=40):
            shares = predict(model, (0, length // 2, length)).rewards / store.statistics().reward_mean
            assert float(shares.abs().max()) < 5 / 4, f"{stage}: {shares.tolist()}"

    def test_saving_and_loading_keeps_the_dream(self, model: WorldModel) -> None:
        if isinstance(model, SupportsCalibrate):
            model.calibrate(self.statistics())
        stored = save({key: value.contiguous() for key, value in model.state_dict().items()})
        config = part_from_json(json.loads(json.dumps(part_to_json(self.config))))
        assert isinstance(config, BackboneConfig)
        loaded = self.build(config)
        loaded.load_state_dict(load(stored))
        loaded.eval()
        assert_equal(self.dream(model, self.begin(model)), self.dream(loaded, self.begin(loaded)))

    def test_the_configuration_survives_json(self) -> None:
        assert part_from_json(json.loads(json.dumps(part_to_json(self.config)))) == self.config
        assert len(dataclasses.fields(self.config)) <= 20

    def test_the_embedding_has_the_size_it_says(self, model: WorldModel) -> None:
        if not isinstance(model, SupportsEmbed):
            assert not hasattr(model, "embed")
            return
        with torch.no_grad():
            embedding = model.embed(self.begin(model))
        assert embedding.shape == (ROWS, model.embedding_size)
        assert embedding.dtype == torch.float32

    def test_redrawn_frames_are_frames_of_the_models_own(self, model: WorldModel) -> None:
        if not isinstance(model, SupportsReconstruct):
            assert not hasattr(model, "reconstruct")
            return
        frames = self.first_frames()
        with torch.no_grad():
            reconstructed = model.reconstruct(frames)
            alone = model.reconstruct(frames[:1])
        assert reconstructed.shape == frames.shape
        assert 0 <= float(reconstructed.min()) <= float(reconstructed.max()) <= 1
        torch.testing.assert_close(reconstructed[:1], alone, rtol=1e-4, atol=1e-4)

    def test_a_state_is_its_own_memory(self, model: WorldModel) -> None:
        """No two entries share memory, or writing a row of one would write the other; nor do frames of outside."""
        first, actions, frames = self.first_frames(), self.actions(STEPS), self.frames(STEPS)
        with torch.no_grad():
            fresh = model.start(first, torch.arange(ROWS))
            later = model.observe(fresh, actions, frames)
            imagined, after = model.imagine(later, self.actions(2 * self.spec.chunk))
        for state in (fresh, later, after):
            entries = [tensor for tensor in state.values(True, True) if tensor.numel()]
            places = [tensor.untyped_storage().data_ptr() for tensor in (*entries, first, frames, imagined.frames)]
            assert len(set(places)) == len(places)

    def test_a_score_is_of_each_row_alone_and_says_what_it_is(self, model: WorldModel) -> None:
        if not isinstance(model, SupportsScore):
            assert not hasattr(model, "score")
            return
        state, actions, frames = self.begin(model), self.actions(STEPS), self.frames(STEPS)
        before = state.clone()
        with torch.no_grad():
            nats = model.score(state, actions, frames)
            others = frames.clone()
            others[1:] = others[1:].flip(-1)
            beside = model.score(state, actions, others)
            alone = model.score(state[1:2], actions[1:2], frames[1:2])
        assert nats.shape == (ROWS, STEPS)
        assert nats.dtype == torch.float32
        assert float(nats.min()) >= -1e-3  # what is given a probability is of whole numbers
        assert model.score_of in ("pixels", "tokens")
        assert model.score_is in ("exact", "bound")
        assert_equal(state, before)
        assert torch.equal(nats[:1], beside[:1])
        torch.testing.assert_close(nats[1:2], alone, rtol=1e-4, atol=1e-3)

    def test_scoring_in_pieces_agrees_with_one_pass(self, model: WorldModel) -> None:
        if not isinstance(model, SupportsScore):
            return
        state, actions, frames = self.begin(model), self.actions(STEPS), self.frames(STEPS)
        with torch.no_grad():
            whole, parts = model.score(state, actions, frames), []
            for i in range(STEPS):
                parts.append(model.score(state, actions[:, i : i + 1], frames[:, i : i + 1]))
                state = model.observe(state, actions[:, i : i + 1], frames[:, i : i + 1])
        torch.testing.assert_close(whole, torch.cat(parts, dim=1), rtol=1e-4, atol=1e-3)

    def test_a_score_refuses_what_observing_refuses(self, model: WorldModel) -> None:
        if not isinstance(model, SupportsScore):
            return
        state = self.begin(model)
        with pytest.raises(FrameError, match="leads to"):
            model.score(state, self.actions(STEPS), self.frames(STEPS - 1))
        with pytest.raises(ActionError, match="float64"):
            model.score(state, self.actions(STEPS).double(), self.frames(STEPS))
        with pytest.raises(StateError, match="rows"):
            model.score(state[:2], self.actions(STEPS), self.frames(STEPS))

    def test_each_row_looks_where_it_is_told(self, model: WorldModel) -> None:
        if not isinstance(model, SupportsGaze):
            assert not hasattr(model, "look")
            return
        check_gaze_contract(model, self.begin(model), self.actions(2 * self.spec.chunk))

    def test_imagining_without_frames_changes_nothing_else(self, model: WorldModel) -> None:
        actions = self.actions(2 * self.spec.chunk)
        with torch.no_grad():
            seen, state = model.imagine(self.begin(model), actions)
            blind, other = model.imagine(self.begin(model), actions, decode=False)
        assert torch.equal(seen.rewards, blind.rewards)
        assert torch.equal(seen.termination, blind.termination)
        assert_equal(state, other)

    def test_bad_input_is_refused_by_name(self, model: WorldModel) -> None:
        c, h, w = self.spec.frame_shape
        state = self.begin(model)
        with pytest.raises(FrameError, match="first_frame"):
            model.start(torch.zeros(ROWS, c, h + 4, w), torch.arange(ROWS))
        with pytest.raises(SeedError, match=f"{ROWS},"):
            model.start(self.first_frames(), torch.arange(ROWS + 1))
        with pytest.raises(SeedError, match="-1"):
            model.start(self.first_frames(), torch.arange(ROWS) - 1)
        with pytest.raises(ActionError, match="actions must be"):
            model.imagine(state, self.actions(self.spec.chunk)[:, 0])
        with pytest.raises(ActionError, match="float64"):
            model.imagine(state, self.actions(self.spec.chunk).double())
        with pytest.raises(FrameError, match="leads to"):
            model.observe(state, self.actions(STEPS), self.frames(STEPS - 1))
        with pytest.raises(StateError, match="rows"):
            model.imagine(state[:2], self.actions(self.spec.chunk))
        with pytest.raises(StateError, match="another world"):
            model.imagine(State({"other": torch.zeros(ROWS)}, batch_size=[ROWS]), self.actions(self.spec.chunk))

    # What the tests are made of

    def taught(self, store: FrameStore, steps: int) -> Iterator[tuple[WorldModel, str, int]]:
        """Teach a model by each of its stages that learns terminations; its name, and the steps of its windows."""
        model = self.make_model()
        stages = model.stages()
        if not model.spec.predicts_rewards or not (stages or isinstance(model, SupportsCalibrate)):
            return  # nothing of what it predicts comes from a recording
        telling = [
            [stage.name] for stage in stages
            if any("termination" in o.loss(self.batch(model, stage.precompute))[1] for o in stage.objectives)
        ]  # fmt: skip
        for names in telling or [[stage.name for stage in stages]]:
            model = self.make_model()
            chosen = [stage for stage in model.stages() if stage.name in names]
            learn(model, chosen, store, steps)
            yield model, ", ".join(names), max((stage.sequence_length for stage in chosen), default=STEPS)

    def first_frames(self) -> Tensor:
        return torch.rand((ROWS, *self.spec.frame_shape), generator=torch.Generator().manual_seed(1))

    def frames(self, steps: int) -> Tensor:
        return torch.rand((ROWS, steps, *self.spec.frame_shape), generator=torch.Generator().manual_seed(2))

    def actions(self, steps: int) -> Tensor:
        assert isinstance(self.spec.action_space, gym.spaces.Discrete)
        generator = torch.Generator().manual_seed(3)
        return torch.randint(int(self.spec.action_space.n), (ROWS, steps), generator=generator)

    def statistics(self) -> DataStatistics:
        """Of data in which one step in forty pays 4, or so."""
        return DataStatistics(
            frame_mean=torch.rand(self.spec.frame_shape, generator=torch.Generator().manual_seed(5)), reward_mean=0.1,
            reward_std=0.6, reward_min=0.0, reward_max=4.0, termination_rate=0.01,
        )  # fmt: skip

    def begin(self, model: WorldModel) -> State:
        with torch.no_grad():
            return model.start(self.first_frames(), torch.arange(ROWS))

    def dream(self, model: WorldModel, state: State, rows: slice = slice(None)) -> State:
        """Imagine a few steps; the final state with the frames as "dreamt"."""
        with torch.no_grad():
            imagined, after = model.imagine(state, self.actions(4 * self.spec.chunk)[rows])
        assert imagined.frames is not None
        after["dreamt"] = imagined.frames
        return after

    def batch(self, model: WorldModel, precompute: object) -> Batch:
        first, frames, actions = self.first_frames(), self.frames(STEPS), self.actions(STEPS)
        features = None
        if callable(precompute):
            everything = torch.cat((first[:, None], frames), dim=1)
            with torch.no_grad():
                features = precompute(everything.flatten(0, 1)).unflatten(0, (ROWS, STEPS + 1))
        return Batch(
            first_frame=first, frames=frames, actions=actions, rewards=actions.float(),
            terminated=torch.zeros(ROWS, STEPS, dtype=torch.bool), weight=torch.ones(ROWS, STEPS), features=features,
            generator=torch.Generator().manual_seed(4),
        )  # fmt: skip


def assert_equal(left: State, right: State) -> None:
    """Bit for bit."""
    left, right = left.flatten_keys("/"), right.flatten_keys("/")
    assert set(left.keys()) == set(right.keys())
    for key in left.keys():
        assert torch.equal(left[key], right[key]), key

"""What every backbone that takes prompts keeps besides the contract, as tests. Inherit `PromptContract` instead."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from dreamenv.capabilities import SupportsPrompt
from dreamenv.errors import PromptError
from dreamenv.testing.contract import ROWS, STEPS, WorldModelContract, assert_equal
from dreamenv.world_model import Batch, State, WorldModel

__all__ = ["PromptContract"]


class PromptContract(WorldModelContract):
    """Inherit this, as `WorldModelContract`, for a backbone that offers `dreamenv.capabilities.SupportsPrompt`."""

    def test_an_empty_prompt_equals_none(self, model: WorldModel) -> None:
        assert isinstance(model, SupportsPrompt)
        self.teach_prompts(model)
        state = self.begin(model)
        empty = torch.zeros_like(self.prompts(model))
        assert_equal(self.dream(model, state), self.dream(model, model.prompt(state, empty)))
        cleared = model.prompt(model.prompt(state, self.prompts(model)), empty)
        assert_equal(self.dream(model, state), self.dream(model, cleared))

    def test_a_prompt_changes_what_its_own_row_dreams(self, model: WorldModel) -> None:
        assert isinstance(model, SupportsPrompt)
        self.teach_prompts(model)
        state = self.begin(model)
        before, prompts = state.clone(), self.prompts(model)
        prompts[1:] = 0
        prompted = model.prompt(state, prompts)
        assert_equal(state, before)
        assert torch.equal(prompted["rng_key"], state["rng_key"])
        assert torch.equal(prompted["rng_counter"], state["rng_counter"])
        with torch.no_grad():
            plain, _ = model.imagine(state, self.actions(4 * self.spec.chunk))
            asked, _ = model.imagine(prompted, self.actions(4 * self.spec.chunk))
        changed = [
            (one - other).abs().flatten(1).amax(dim=1)
            for one, other in ((plain.frames, asked.frames), (plain.termination, asked.termination))
            if one is not None and other is not None
        ]
        assert float(sum(difference[0] for difference in changed)) > 0
        assert float(sum(difference[1:].sum() for difference in changed)) == 0

    def test_a_restored_state_carries_its_prompt(self, model: WorldModel) -> None:
        assert isinstance(model, SupportsPrompt)
        self.teach_prompts(model)
        with torch.no_grad():
            _, state = model.imagine(
                model.prompt(self.begin(model), self.prompts(model)), self.actions(self.spec.chunk)
            )
        stored = load(save({key: value.contiguous() for key, value in state.flatten_keys("/").items()}))
        restored = State(stored, batch_size=[ROWS]).unflatten_keys("/")
        assert_equal(self.dream(model, state), self.dream(model, restored))

    def test_a_gradient_reaches_the_words_that_were_said(self, model: WorldModel) -> None:
        assert isinstance(model, SupportsPrompt)
        assert isinstance(model.prompt_encoder, nn.Module)
        self.teach_prompts(model, steps=1)
        learned = [parameter for parameter in model.prompt_encoder.parameters() if bool((parameter != 0).any())]
        assert learned
        assert model.prompt_encoder.unknown_words("red") == []
        assert model.prompt_encoder.unknown_words("red ochre") == ["ochre"]

    def test_prompts_of_another_shape_are_refused(self, model: WorldModel) -> None:
        assert isinstance(model, SupportsPrompt)
        prompts = self.prompts(model)
        for wrong in (prompts[:2], prompts[:, :1], prompts.float()):
            with pytest.raises(PromptError, match="int64"):
                model.prompt(self.begin(model), wrong)

    # What the tests are made of

    def prompts(self, model: SupportsPrompt) -> Tensor:
        """One per row."""
        return model.prompt_encoder.encode(["red", "blue things", "red things", "left"][:ROWS])

    def teach_prompts(self, model: WorldModel, steps: int = 5) -> None:
        """Train a little on prompts: before, all words are unknown, and say nothing."""
        model.train()
        for stage in model.stages():
            batch = self.batch(model, stage.precompute)
            for objective in stage.objectives:
                optimizer = torch.optim.Adam(objective.parameters, lr=1e-2)
                for _ in range(steps):
                    optimizer.zero_grad()
                    objective.loss(batch)[0].backward()
                    optimizer.step()
        model.eval()

    def batch(self, model: WorldModel, precompute: object) -> Batch:
        """Under a caption per row."""
        assert isinstance(model, SupportsPrompt)
        prompts = self.prompts(model)[:, None].expand(-1, STEPS, -1)
        return dataclasses.replace(super().batch(model, precompute), prompts=prompts)

"""MineWorld's weights, which are a stock LLaMA's, predict in our world what they predict there."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamenv.backbones.tokens import TokenWorld, TokenWorldConfig
from dreamenv.backbones.tokens.action_tokens import GroupedActionTokensConfig
from dreamenv.backbones.tokens.diagonal import DiagonalOrderConfig
from dreamenv.backbones.tokens.presets import mineworld
from dreamenv.backbones.tokens.training import TokenWorldTraining
from dreamenv.codecs.fsq import FSQConfig
from dreamenv.codecs.fsq_tokens import FSQTokenizerConfig
from dreamenv.errors import WeightsError
from dreamenv.importers.mineworld import ACTION_SPACE, load_mineworld, read_transformer_config
from dreamenv.world_model import WorldModelSpec

VOCABULARY, ACTIONS, STEPS = 25, 70, 3
SPEC = WorldModelSpec(frame_shape=(3, 16, 16), action_space=ACTION_SPACE, frame_rate=20.0)
SIZES = {"width": 128, "depth": 2, "heads": 2, "kv_heads": 1, "hidden": 96}


@pytest.fixture(scope="module")
def llama() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=128, intermediate_size=96, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2,
        rms_norm_eps=1e-5, vocab_size=VOCABULARY + ACTIONS, max_position_embeddings=512, initializer_range=0.2,
        attn_implementation="eager",
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def make(tensors: dict[str, Tensor], **settings: Any) -> TokenWorld:
    config = TokenWorldConfig(
        tokenizer=FSQTokenizerConfig(codec=FSQConfig(scalars=2, levels=5, channels=(8,))),
        transformer=read_transformer_config(tensors),
        actions=GroupedActionTokensConfig(),
        head=None,
        training=TokenWorldTraining(dropout=0.0),
    )
    return dataclasses.replace(config, **settings).build(SPEC).eval()


def test_a_stock_llama_predicts_the_same_tokens(llama: Any) -> None:
    tensors = {f"transformer.{name}": one for name, one in llama.state_dict().items()}
    model = make(tensors)
    load_mineworld(model, tensors)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCABULARY, (2, STEPS + 1, 16), generator=generator)
    actions = torch.randint(2, (2, STEPS, 9), generator=generator)
    actions[..., :2] = torch.randint(21, (2, STEPS, 2), generator=generator)
    stream = [tokens[:, 0]]
    for index in range(STEPS):
        stream += [torch.tensor([written(one) for one in actions[:, index].tolist()]), tokens[:, index + 1]]
    with torch.no_grad():
        logits = llama(torch.cat(stream, dim=1)).logits[..., :VOCABULARY]
        theirs = logits[:, 15:-1].unflatten(1, (STEPS, 11 + 16))[
            :, :, 11:
        ]  # what follows each token of an action's end
        nats = -theirs.log_softmax(dim=-1).gather(-1, tokens[:, 1:, :, None]).squeeze(-1).sum(dim=-1)
        acted = model.frames.acted(actions, None)
        whole, _ = model.dynamics.learned_nats(acted, tokens, tokens, None)
        cached = model.dynamics.nats(model.dynamics.begin(tokens[:, 0]), tokens[:, 0], acted, tokens[:, 1:])
    assert float(nats.std()) > 0.5
    torch.testing.assert_close(whole.sum(dim=-1), nats, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cached, nats, rtol=1e-4, atol=1e-4)


def written(action: list[int]) -> list[int]:
    """Write an action as MineWorld does; numbers of tokens were read off its program."""
    pitch, yaw, *choices = action
    tokens = {  # of each choice but the first, which is none
        0: range(14, 23), 1: (2, 3), 2: (4, 5), 3: (8, 7), 4: (0, 1), 5: (6,), 6: (9, 11),
    }  # fmt: skip
    middle = [(66, *tokens[index])[choice] for index, choice in enumerate(choices)]
    return [VOCABULARY + one for one in (65, 23 + pitch, 44 + yaw, *middle, 67)]


def test_sizes_are_read_off_the_shapes() -> None:
    sizes = mineworld().transformer
    with torch.device("meta"):
        tensors = {
            "model.embed_tokens.weight": torch.empty(8262, 1024),
            "model.layers.19.self_attn.q_proj.weight": torch.empty(1024, 1024),
            "model.layers.0.self_attn.k_proj.weight": torch.empty(256, 1024),
            "model.layers.0.mlp.gate_proj.weight": torch.empty(4096, 1024),
        }
    assert read_transformer_config(tensors) == sizes


def test_weights_that_do_not_fit_are_refused(llama: Any) -> None:
    tensors = dict(llama.state_dict())
    model = make(tensors)
    with pytest.raises(WeightsError, match=r"model.norm.weight is missing. Is the file whole"):
        load_mineworld(model, {name: one for name, one in tensors.items() if name != "model.norm.weight"})
    name = "model.layers.1.self_attn.o_proj.weight"
    with pytest.raises(WeightsError, match=r"o_proj.weight is \(128, 64\); with the shapes of the others"):
        load_mineworld(model, {**tensors, name: tensors[name][:, :64]})
    with pytest.raises(WeightsError, match=r"MineWorld has raster order and grouped action tokens"):
        load_mineworld(make(tensors, order=DiagonalOrderConfig()), tensors)
    with pytest.raises(WeightsError, match=r"these weights are of TokenTransformerConfig\(context=15"):
        load_mineworld(make(tensors, transformer=dataclasses.replace(model.config.transformer, depth=1)), tensors)
    with pytest.raises(WeightsError, match=r"has 95 tokens, .* and the codebook 9: they do not match"):
        load_mineworld(make(tensors, tokenizer=FSQTokenizerConfig(codec=FSQConfig(scalars=2, levels=3))), tensors)
    with pytest.raises(WeightsError, match=r"model.embed_tokens.weight is missing"):
        read_transformer_config({"other.weight": torch.zeros(1)})

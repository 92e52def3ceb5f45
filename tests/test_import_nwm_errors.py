"""Navigation World Models' importer refuses files that cannot work, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_nwm import Tensors, tiny_codec, tiny_network

from dreamenv.errors import WeightsError
from dreamenv.importers.adapter import Options, load_weights
from dreamenv.importers.nwm import NWMAdapter


def shapes(tensors: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def without(tensors: Tensors, part: str) -> Tensors:
    return {name: one for name, one in tensors.items() if part not in name}


def network(**shapes: tuple[int, ...]) -> Tensors:
    """The tiny transformer with some tensors of other shapes; ``__`` stands for a dot in their names."""
    return tiny_network() | {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def codec(**shapes: tuple[int, ...]) -> Tensors:
    return tiny_codec() | {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


BAD: dict[str, tuple[Callable[[], list[Tensors]], dict[str, Any], str]] = {
    "one file": (lambda: [network()], {}, "0 of 1 files are of the autoencoder.*needs two files"),
    "no transformer": (lambda: [codec()], {}, "0 of 1 files are of the transformer"),
    "two transformers": (lambda: [network(), network(), codec()], {}, "2 of 3 files"),
    "another system": (lambda: [{"unet.weight": torch.zeros(1)}, codec()], {}, "unet.weight.*another system"),
    "no past": (lambda: [without(network(), "cttn"), codec()], {}, "a transformer without attention to past frames"),
    "another layout": (
        lambda: [{"encoder.down.0.block.0.conv1.weight": torch.zeros(1)}, network()],
        {},
        "diffusers' file is needed",
    ),
    "missing tensor": (lambda: [without(network(), "1.mlp.fc2.bias"), codec()], {}, "missing: blocks.1.mlp"),
    "missing block": (
        lambda: [without(network(blocks__2__mlp__fc1__bias=(1,)), "blocks.1."), codec()],
        {},
        "up to 2, but 1 is missing",
    ),
    "extra tensor": (lambda: [network(more=(1,)), codec()], {}, "one too many: more"),
    "odd shape": (lambda: [network(blocks__0__attn__proj__bias=(5,)), codec()], {}, r"is \(5,\).*\(24,\)"),
    "axes": (lambda: [network(pos_embed=(16, 24)), codec()], {}, "pos_embed is .* 3 axes"),
    "no context": (lambda: [network(pos_embed=(1, 16, 24)), codec()], {}, "none is left for context"),
    "no variance": (lambda: [network(final_layer__linear__weight=(16, 24)), codec()], {}, "learned variance"),
    "other latents": (
        lambda: [network(x_embedder__proj__weight=(24, 8, 2, 2), final_layer__linear__weight=(64, 24)), codec()],
        {},
        "8 channels .* makes 4 .*not of one system",
    ),
    "codec widths": (
        lambda: [network(), codec(encoder__down_blocks__0__resnets__0__conv1__weight=(20, 32, 3, 3))],
        {},
        "32 groups do not divide 20",
    ),
    "no square": (lambda: [network(pos_embed=(4, 15, 24)), codec()], {}, "no square; set size"),
    "size": (lambda: [network(), codec()], {"size": (16, 20)}, "16 x 20 are not 16 tokens of 4 x 4"),
    "heads": (lambda: [network(), codec()], {"heads": 5}, "5 heads do not divide a width of 24"),
    "actions": (lambda: [network(), codec()], {"actions": "keys"}, "one action space, 'moves', not 'keys'"),
    "steps": (lambda: [network(), codec()], {"sampling_steps": 2000}, "steps must be from 1 to 1000"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_what_is_wrong(case: str) -> None:
    files, options, match = BAD[case]
    with pytest.raises(WeightsError, match=match):
        load_weights(NWMAdapter().read(files(), Options(**options)))

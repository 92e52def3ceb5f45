"""Oasis's importer refuses files and settings that cannot work, by name."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from drifting import make_world
from tiny_oasis import OPTIONS, SPACE, adapter, tiny_files
from torch import Tensor

from dreamenv.codecs.oasis_vae import OasisVAEConfig
from dreamenv.denoisers.oasis import OasisConfig
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.importers.adapter import load_weights

# What is refused


def without(file: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in file.items() if key != name}


REFUSED = {
    "one file": (lambda n, c: [n], {}, "two files.*found 1 of the first kind and 0 of the second"),
    "two networks": (lambda n, c: [n, n], {}, "found 2 of the first kind"),
    "one too many": (lambda n, c: [n, c, c], {}, "and 2 of the second"),
    "another system": (lambda n, c: [n, {"conv_in.weight": torch.ones(1)}], {}, "conv_in.weight.*not of Oasis"),
    "a missing tensor": (lambda n, c: [without(n, "blocks.1.t_mlp.fc1.bias"), c], {}, "missing: blocks.1.t_mlp"),
    "a missing shape": (lambda n, c: [n, without(c, "post_quant_conv.weight")], {}, "quant_conv.weight is missing"),
    "a tensor too many": (lambda n, c: [n, {**c, "loss.weight": torch.ones(1)}], {}, "one too many: loss.weight"),
    "no block": (lambda n, c: [n, {k: v for k, v in c.items() if "encoder." not in k}], {}, "begins with encoder.0"),
    "a shape": (lambda n, c: [{**n, "blocks.0.s_attn.to_out.bias": torch.ones(9)}, c], {}, r"is \(9,\).*be \(16,\)"),
    "axes": (lambda n, c: [{**n, "x_embedder.proj.weight": torch.ones(16, 16)}, c], {}, "should have 4 axes"),
    "another codec": (lambda n, c: [n, tiny_files(latent=2)[1]], {}, "latents of 4 channels, and the codec makes 2"),
    "actions": (lambda n, c: [{**n, "external_cond.weight": torch.ones(16, 4)}, c], {}, "actions of 4 values"),
    "speeds": (lambda n, c: [{**n, "spatial_rotary_emb.freqs": torch.ones(2)}, c], {}, "not the table"),
    "heads apart": (lambda n, c: [{**n, SPACE: torch.ones(4)}, c], {}, "heads 8 and 16 channels wide"),
    "other heads": (lambda n, c: [n, c], {"heads": 1}, "1 heads were asked for.*go with 8 channels.*say 2"),
    "no heads": (lambda n, c: [n, c], {"encoder_heads": None}, "codec's encoder is 32 wide.*heads="),
    "a size": (lambda n, c: [n, c], {"size": (16, 36)}, "16 x 36.*multiples of 8"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_cannot_be_imported_are_refused_with_the_reason(case):
    make, options, said = REFUSED[case]
    with pytest.raises(WeightsError, match=said):
        load_weights(adapter.read(make(*tiny_files()), dataclasses.replace(OPTIONS, **options)))


def test_another_world_is_not_written_as_oasis():
    with pytest.raises(WeightsError, match="'drifting' with the denoiser None"):
        adapter.write(make_world())


def test_unknown_actions_are_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"'discrete', 'minerl', 'vector'.*treechop.*not 'keyboard'"):
        adapter.read(tiny_files(), dataclasses.replace(OPTIONS, actions="keyboard"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"depth": 0}, "depth"), ({"heads": 3}, "multiple of 4"), ({"window": "jumps"}, "'slides' or 'restarts'")],
)
def test_sizes_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        OasisConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "said"), [({"decoder_heads": 5}, "the decoder's width"), ({"latent_channels": 0}, "latent_channels")]
)
def test_sizes_of_the_autoencoder_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        OasisVAEConfig(**changes)

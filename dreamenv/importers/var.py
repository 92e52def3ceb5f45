"""VAR's multi-scale tokenizer (Tian et al. 2024): ``vae_ch160v4096z32.pth``, from its file and back to it.

It is a tokenizer, no world: what is returned codes frames, and can be trained further. Sizes are read from the tensors'
shapes. No tensor says the sides of the scales, that phi mixes in half of its convolution, and that codes are compared
by their distance: these are as published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamenv.codecs.codebook import CodebookConfig
from dreamenv.codecs.ldm_grid import LDMGridConfig
from dreamenv.codecs.multi_scale import MultiScaleTokenizer, MultiScaleTokenizerConfig
from dreamenv.codecs.tokenizer import TokenizerTraining
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.importers.adapter import shape_of
from dreamenv.importers.checkpoints import read_tensors
from dreamenv.importers.key_map import KeyMap, Rule

__all__ = ["import_var_tokenizer", "to_var_tensors", "var_names"]

_SCALES = {16: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 32: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)}
"""Of frames of 256 and of 512 pixels, by the side of their grid."""

_GROUPS = 32  # of channels normalised together
_SOURCE = "Take vae_ch160v4096z32.pth of FoundationVision/var on Hugging Face, whole"
_LEFT_OUT = "quantize.ema_vocab_hit_SV"  # how often codes were used in training
_CODES = "quantize.embedding.weight"
_PHIS = ("quantize.quant_resi.qresi_ls.*", "quantize.quant_resi.*", "quantize.quant_resi.qresi")
"""How phis are called that some scales share, that none share, and the one that all share."""


def import_var_tokenizer(
    path: str | Path, *, size: tuple[int, int] = (256, 256), scales: tuple[int, ...] | None = None
) -> MultiScaleTokenizer:
    """Return the tokenizer of a file of VAR's, with its weights.

    Args:
        path: of the file.
        size: height and width of the frames to code, in pixels.
        scales: heights of the scales, coarse to fine; None takes what was published for that size.

    Raises:
        WeightsError: no such file, of another system, incomplete, of shapes that do not fit together, or a size for
            which no scales were published.
    """
    return _built(read_tensors(path), size, scales)


def to_var_tensors(tokenizer: MultiScaleTokenizer) -> dict[str, Tensor]:
    """Return a tokenizer's tensors under VAR's names; how often codes were used in training is not among them.

    Raises:
        WeightsError: its networks are not VAR's.
    """
    if not isinstance(tokenizer.config.grid, LDMGridConfig):
        raise WeightsError(
            f"the networks of this tokenizer are {tokenizer.config.grid.kind!r}, not VAR's; only one that "
            "was imported, or has a grid=LDMGridConfig(...), can be written as one of VAR's."
        )
    shared = _PHIS[2] if tokenizer.config.phis == 1 else _PHIS[0]
    names = var_names(len(tokenizer.config.grid.channels), shared)
    theirs, unknown = names.to_theirs(_ours(tokenizer))
    assert not unknown, unknown
    return theirs | {_CODES: tokenizer.codebook.codes.detach().clone()}


def var_names(levels: int, phi: str) -> KeyMap:
    """Return the names of all tensors but the codes, theirs and ours.

    Args:
        levels: resolutions of the networks.
        phi: their name of a phi, with a ``*`` for its number.
    """
    rules: list[Rule | tuple[str, str]] = []
    for half, theirs in (("encoder", "down"), ("decoder", "up")):
        rules += [
            *_both(f"{half}.conv_in", f"grid.{half}.conv_in"),
            *_both(f"{half}.norm_out", f"grid.{half}.norm"),
            *_both(f"{half}.conv_out", f"grid.{half}.conv_out"),
            *_residual(f"{half}.mid.block_1", f"grid.{half}.middle.blocks.0"),
            *_residual(f"{half}.mid.block_2", f"grid.{half}.middle.blocks.1"),
            *_attention(f"{half}.mid.attn_1", f"grid.{half}.middle.attention"),
        ]
        for level in range(levels):
            ours = level if half == "encoder" else levels - 1 - level  # theirs counts from the finest on, in both
            stage, their_stage = f"grid.{half}.stages.{ours}", f"{half}.{theirs}.{level}"
            rules += _residual(f"{their_stage}.block.*", f"{stage}.blocks.*")
            rules += _attention(f"{their_stage}.attn.*", f"{stage}.attention.*")
            rules += _both(f"{their_stage}.{theirs}sample.conv", f"{stage}.resize")
    rules += [*_both("quant_conv", "grid.quant_conv"), *_both("post_quant_conv", "grid.post_quant_conv")]
    rules += _both(phi, "phi.*" if "*" in phi else "phi.0")
    return KeyMap(rules)


def _built(tensors: Mapping[str, Tensor], size: tuple[int, int], scales: tuple[int, ...] | None) -> MultiScaleTokenizer:
    vocabulary, width = shape_of(tensors, _CODES, 2)
    phi, phis = _phis(tensors)
    grid = _grid_config(tensors)
    height = size[0] // grid.downsample
    if scales is None and height not in _SCALES:
        raise WeightsError(
            f"no scales were published for frames of {size[0]}x{size[1]}, only for 256 and 512 pixels; "
            f"set scales, coarse to fine, the last of them {height}."
        )
    try:
        config = MultiScaleTokenizerConfig(
            grid=grid,
            codebook=CodebookConfig(vocabulary=vocabulary, width=width),
            scales=_SCALES[height] if scales is None else scales,
            phis=phis,
            training=TokenizerTraining(batch_size=4, learning_rate=1e-5),
        )
        tokenizer = config.build((shape_of(tensors, "encoder.conv_in.weight", 4)[1], *size))
    except ConfigError as error:
        raise WeightsError(f"VAR's tokenizer cannot be set up so: {error}") from error
    _load(tokenizer, tensors, var_names(len(grid.channels), phi))
    return tokenizer.eval()


@torch.no_grad()
def _load(tokenizer: MultiScaleTokenizer, tensors: Mapping[str, Tensor], names: KeyMap) -> None:
    """Put the tensors in; each has its place, and each place its tensor."""
    given = {name: tensor.float() for name, tensor in tensors.items() if name not in (_LEFT_OUT, _CODES)}
    ours, unknown = names.to_ours(given)
    places = _ours(tokenizer)
    missing, extra = sorted(set(places) - set(ours)), [*unknown, *sorted(set(ours) - set(places))]
    if missing or extra:
        theirs, _ = names.to_theirs({name: places[name] for name in missing})
        raise WeightsError(
            f"the tensors do not fit the architecture that their shapes indicate: {len(missing)} are missing "
            f"({', '.join(list(theirs)[:3])}), {len(extra)} are too many ({', '.join(extra[:3])}). {_SOURCE}."
        )
    for name, tensor in ours.items():
        if tensor.shape != places[name].shape:
            [theirs_name] = names.to_theirs({name: tensor})[0]
            raise WeightsError(
                f"{theirs_name} is {tuple(tensor.shape)}; with the shapes of the others it would have to be "
                f"{tuple(places[name].shape)}."
            )
        places[name].copy_(tensor)
    tokenizer.codebook.load(tensors[_CODES].float())


def _ours(tokenizer: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that VAR has, too."""
    return dict(tokenizer.named_parameters())


def _phis(tensors: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return what phis are called, and how many there are."""
    for name in _PHIS:
        pattern = re.compile(re.escape(f"{name}.weight").replace(r"\*", r"\d+"))
        found = sum(pattern.fullmatch(one) is not None for one in tensors)
        if found:
            return name, found
    raise WeightsError(f"there is no {_PHIS[0]}.weight: this is no tokenizer of several scales. {_SOURCE}.")


def _grid_config(tensors: Mapping[str, Tensor]) -> LDMGridConfig:
    levels = blocks = 0
    while f"encoder.down.{levels}.block.0.conv1.weight" in tensors:
        levels += 1
    while f"encoder.down.0.block.{blocks}.conv1.weight" in tensors:
        blocks += 1
    if not levels:
        raise WeightsError(f"encoder.down.0.block.0.conv1.weight is missing: it is of another system. {_SOURCE}.")
    channels = [shape_of(tensors, f"encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in range(levels)]
    return LDMGridConfig(channels=tuple(channels), blocks=blocks, groups=_GROUPS)


def _both(theirs: str, ours: str) -> list[Rule | tuple[str, str]]:
    return [(f"{theirs}.{kind}", f"{ours}.{kind}") for kind in ("weight", "bias")]


def _residual(theirs: str, ours: str) -> list[Rule | tuple[str, str]]:
    pairs = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "shortcut"}
    return [pair for a, b in pairs.items() for pair in _both(f"{theirs}.{a}", f"{ours}.{b}")]


def _attention(theirs: str, ours: str) -> list[Rule | tuple[str, str]]:
    """Name attention, whose products are theirs as convolutions of single places."""
    rules = _both(f"{theirs}.norm", f"{ours}.norm")
    for a, b in (("qkv", "qkv"), ("proj_out", "out_proj")):
        rules.append(Rule(f"{theirs}.{a}.weight", f"{ours}.{b}.weight", _flattened, _as_convolution))
        rules.append((f"{theirs}.{a}.bias", f"{ours}.{b}.bias"))
    return rules


def _flattened(weight: Tensor) -> Tensor:
    return weight.flatten(1)


def _as_convolution(weight: Tensor) -> Tensor:
    return weight[..., None, None]

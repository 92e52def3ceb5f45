"""MineWorld (Guo et al. 2025) whole: its transformer, and the tokenizer that makes its tokens of frames.

The tokenizer is a `VQModel` of `diffusers`; its tensors are in the checkpoint next to the transformer's, or in a file
of their own, ``vae.ckpt``. Sizes are read off the tensors' shapes, also whether there is attention between the blocks
of the coarsest maps. Codes are compared by their distance, and frames are from -1 to 1, as in the public program.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dreamenv.backbones.tokens.model import TokenWorld
from dreamenv.backbones.tokens.presets import mineworld
from dreamenv.codecs.codebook import CodebookConfig
from dreamenv.codecs.ldm_grid import LDMGridConfig
from dreamenv.codecs.tokenizer import TokenizerTraining
from dreamenv.codecs.vq import VQTokenizer, VQTokenizerConfig
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.importers.adapter import Adapter, Architecture, Options, shape_of
from dreamenv.importers.mineworld import ACTION_SPACE, load_mineworld, read_transformer_config
from dreamenv.importers.nwm import CODEC_NAMES
from dreamenv.world import World
from dreamenv.world_model import WorldModel, WorldModelSpec

__all__ = ["MineWorldAdapter", "load_tokenizer", "read_tokenizer_config"]

_SIZE, _RATE = (224, 384), 20.0  # of frames: height and width in pixels, and hertz, that of Minecraft
_TRANSFORMER, _TOKENIZER = "dynamics", "frames.tokenizer"
_CODES = "quantize.embedding.weight"
_BEFORE = ("tokenizer.model.", "model.", "")  # what stands before the tokenizer's names: in a checkpoint, in vae.ckpt
_FIRST = "encoder.down_blocks.{}.resnets.0.conv1.weight"


class MineWorldAdapter(Adapter):
    """Reads a checkpoint, or the files of transformer and tokenizer."""

    name: ClassVar[str] = "mineworld"
    title: ClassVar[str] = "MineWorld"
    licence: ClassVar[str] = "MIT"
    source: ClassVar[str] = "microsoft/mineworld on Hugging Face, withdrawn by its authors in May 2025"
    options: ClassVar[tuple[str, ...]] = ("size", "context")

    def read(self, files: Sequence[Mapping[str, Tensor]], options: Options) -> Architecture:
        """See `Adapter`."""
        tensors = {name: tensor for file in files for name, tensor in file.items()}
        coder = _tokenizer(tensors)
        preset, height, width = mineworld(), *(options.size or _SIZE)
        try:
            transformer = read_transformer_config(tensors, options.context or preset.transformer.context)
            tokenizer = read_tokenizer_config(coder)
        except ConfigError as error:
            raise WeightsError(f"MineWorld's shapes cannot be: {error}") from error
        notes = []
        if options.context is None:
            notes.append(f"no tensor says how many past frames it attends to; {transformer.context} were assumed, as "
                         "in its models of 16 frames; for those of 32, set context to 31.")  # fmt: skip
        return Architecture(
            config=dataclasses.replace(preset, tokenizer=tokenizer, transformer=transformer),
            spec=WorldModelSpec(frame_shape=(3, height, width), action_space=ACTION_SPACE, frame_rate=_RATE),
            tensors={_TRANSFORMER: tensors, _TOKENIZER: coder},
            names={},
            notes=tuple(notes),
        )

    def load(self, architecture: Architecture) -> WorldModel:
        """See `Adapter`."""
        try:
            model = architecture.config.build(architecture.spec)
        except ConfigError as error:
            raise WeightsError(f"MineWorld cannot be set up so: {error}") from error
        assert isinstance(model, TokenWorld)
        tokenizer = model.frames.tokenizer
        assert isinstance(tokenizer, VQTokenizer)
        load_tokenizer(tokenizer, architecture.tensors[_TOKENIZER])
        load_mineworld(model, architecture.tensors[_TRANSFORMER])
        return model.eval()

    def write(self, world: World) -> dict[str, dict[str, Tensor]]:
        """Refuse: what its transformer never draws was left out, so its file cannot be made again.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "MineWorld's weights are not written back: rows of its tables for actions that no choice stands for were "
            "left out when they were read. Save the world instead, with world.save(path)."
        )


def read_tokenizer_config(tensors: Mapping[str, Tensor]) -> VQTokenizerConfig:
    """Return the sizes that a tokenizer's tensors have, under the names of `diffusers.VQModel`.

    Raises:
        WeightsError: of another system, or shapes that do not fit together.
    """
    vocabulary, width = shape_of(tensors, _CODES, 2)
    stages = _count(tensors, r"encoder\.down_blocks\.(\d+)\.")
    inner = shape_of(tensors, "quant_conv.weight", 4)[1]
    if inner != width:
        raise WeightsError(
            f"the tokenizer's codes have {width} numbers, and its maps {inner}; only equal ones are read."
        )
    middle = "encoder.mid_block.attentions.0.to_q.weight" in tensors
    return VQTokenizerConfig(
        grid=LDMGridConfig(
            channels=tuple(shape_of(tensors, _FIRST.format(index), 4)[0] for index in range(stages)),
            blocks=_count(tensors, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
            attention="middle" if middle else "none",
            kernel=1,
        ),
        codebook=CodebookConfig(vocabulary=vocabulary, width=width),
        unit=False,
        training=TokenizerTraining(batch_size=4, learning_rate=1e-5),
    )


@torch.no_grad()
def load_tokenizer(tokenizer: VQTokenizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors in; each has its place, and each place its tensor.

    Raises:
        WeightsError: one is missing, is one too many, or is of another shape.
    """
    given = {name: tensor.float() for name, tensor in tensors.items() if name != _CODES}
    ours, unknown = CODEC_NAMES.to_ours(given)
    places = dict(tokenizer.grid.named_parameters())
    missing, extra = sorted({*places} - {*ours}), [*unknown, *sorted({*ours} - {*places})]
    if missing or extra:
        theirs, _ = CODEC_NAMES.to_theirs({name: places[name] for name in missing})
        raise WeightsError(
            f"the tokenizer's tensors do not fit the architecture that their shapes indicate: {len(missing)} are "
            f"missing ({', '.join([*theirs][:3])}), {len(extra)} are too many ({', '.join(extra[:3])}). Is the file "
            "whole?"
        )
    for name, tensor in ours.items():
        if tensor.shape != places[name].shape:
            [theirs_name] = CODEC_NAMES.to_theirs({name: tensor})[0]
            raise WeightsError(
                f"{theirs_name} is {tuple(tensor.shape)}; with the shapes of the others it would have to be "
                f"{tuple(places[name].shape)}."
            )
        places[name].copy_(tensor)
    tokenizer.codebook.load(tensors[_CODES].float())


def _tokenizer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tokenizer's tensors, without what is in front of their names."""
    for before in _BEFORE:
        if before + _CODES in tensors:
            parts = tuple(before + part for part in ("encoder.", "decoder.", "quant", "post_quant"))
            return {name.removeprefix(before): one for name, one in tensors.items() if name.startswith(parts)}
    raise WeightsError(
        f"there is no tokenizer among these tensors ({_BEFORE[0]}{_CODES} is missing), without which no frame can be "
        "shown. Name vae.ckpt, too."
    )


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(found[1]) for name in tensors if (found := re.match(pattern, name))), default=-1)

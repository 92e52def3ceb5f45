"""MineWorld's transformer (Guo et al. 2025) as the dynamics of a token world.

Its weights have the names of a stock LLaMA (``model.layers.*``, ``lm_head``), in a checkpoint of its training under
``transformer.``. Sizes are read off the tensors' shapes. What is ours to arrange:

- queries, keys and values are one layer, and pairs of channels that rotate together stand side by side;
- the table of embeddings is that of frames' tokens first, then of actions' tokens. The latter become the vectors of
  grouped action tokens of `ACTION_SPACE`, nine choices between the two brackets;
- of the last layer, the rows that predict actions' tokens are left out: MineWorld never draws those.

The weights were withdrawn by their authors in May 2025; this is for those who have them, or have trained their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import gymnasium as gym
import torch
from torch import Tensor

from dreamenv.backbones.tokens.action_tokens import GroupedActionTokensConfig
from dreamenv.backbones.tokens.model import TokenWorld
from dreamenv.backbones.tokens.raster import RasterOrderConfig
from dreamenv.backbones.tokens.transformer import TokenTransformerConfig
from dreamenv.errors import WeightsError
from dreamenv.importers.adapter import shape_of

__all__ = ["ACTION_SPACE", "load_mineworld", "read_transformer_config"]

_HEAD = 64  # channels of a head of attention, as published
_BINS = 21  # of each direction of the camera, from -90 to 90 degrees, finer near 0
_BUTTONS = (
    "use", "attack", "forward", "back", "left", "right", "jump", "sneak", "sprint", "drop", "swapHands", "pickItem",
    "inventory", "ESC", *(f"hotbar.{number}" for number in range(1, 10)),
)  # fmt: skip
_CAMERA = len(_BUTTONS), len(_BUTTONS) + _BINS  # the first bin of pitch and of yaw
_BEGIN, _NOTHING, _END = (len(_BUTTONS) + 2 * _BINS + index for index in range(3))
_UNUSED = 2  # tokens behind those of actions, as published
_CHOICES = (
    tuple(f"hotbar.{number}" for number in range(1, 10)),
    ("forward", "back"),
    ("left", "right"),
    ("sprint", "sneak"),
    ("use", "attack"),
    ("jump",),
    ("drop", "pickItem"),
)

ACTION_SPACE = gym.spaces.MultiDiscrete([_BINS, _BINS, *(1 + len(one) for one in _CHOICES)])
"""Bins of pitch and yaw (10 is no turn), then slot, walk, strafe, pace, hands, jump and drop: 0 is none of them."""


def read_transformer_config(tensors: Mapping[str, Tensor], context: int = 15) -> TokenTransformerConfig:
    """Return the sizes that tensors have.

    Args:
        tensors: under their published names, with or without ``transformer.`` in front.
        context: past frames that a token attends to, which no tensor tells: 15 or 31 in what was published.

    Raises:
        WeightsError: of another system, or shapes that do not fit together.
    """
    tensors = _named(tensors)
    width = shape_of(tensors, "model.embed_tokens.weight", 2)[1]
    keys = shape_of(tensors, "model.layers.0.self_attn.k_proj.weight", 2)[0]
    hidden = shape_of(tensors, "model.layers.0.mlp.gate_proj.weight", 2)[0]
    depth = 1 + max(int(found[1]) for name in tensors if (found := re.match(r"model\.layers\.(\d+)\.", name)))
    if width % _HEAD or keys % _HEAD or (width // _HEAD) % (keys // _HEAD):
        raise WeightsError(
            f"queries are {width} wide and keys {keys}, which are no heads of {_HEAD} channels that go together. Is "
            "this MineWorld?"
        )
    return TokenTransformerConfig(
        context=context, width=width, depth=depth, heads=width // _HEAD, kv_heads=keys // _HEAD, hidden=hidden,
        places=False,
    )  # fmt: skip


@torch.no_grad()
def load_mineworld(model: TokenWorld, tensors: Mapping[str, Tensor]) -> None:
    """Put published weights into the dynamics of a world; its tokenizer and head stay as they are.

    Args:
        model: of raster order, with grouped action tokens of `ACTION_SPACE`, and a transformer as
            `read_transformer_config` says.
        tensors: under their published names, with or without ``transformer.`` in front.

    Raises:
        WeightsError: a world of other parts or sizes, a codebook that does not match, or tensors that are missing or
            of other shapes.
    """
    tensors, config = _named(tensors), model.config
    if not isinstance(config.order, RasterOrderConfig) or not isinstance(config.actions, GroupedActionTokensConfig):
        raise WeightsError(
            f"MineWorld has raster order and grouped action tokens, and this world {config.order.kind!r} and "
            f"{config.actions.kind!r}."
        )
    if model.spec.action_space != ACTION_SPACE:
        raise WeightsError(f"MineWorld's actions are {ACTION_SPACE}, and this world's {model.spec.action_space}.")
    wanted = read_transformer_config(tensors, config.transformer.context)
    if config.transformer != wanted:
        raise WeightsError(f"these weights are of {wanted}, and the world has {config.transformer}.")
    vocabulary, table = model.frames.tokenizer.vocabulary, tensors["model.embed_tokens.weight"]
    rest = len(table) - vocabulary
    if not _END < rest <= _END + _UNUSED + 1:
        raise WeightsError(
            f"the transformer has {len(table)} tokens, of which {_END + 1} to {_END + _UNUSED + 1} are of actions, and "
            f"the codebook {vocabulary}: they do not match. Take the tokenizer that the transformer was trained with."
        )
    _, unknown = model.load_state_dict(_ours(tensors, model, vocabulary), strict=False)
    assert not unknown, unknown


def _ours(tensors: Mapping[str, Tensor], model: TokenWorld, vocabulary: int) -> dict[str, Tensor]:
    """Return the tensors under our names, in our layout."""
    config = model.config.transformer
    table, last = tensors["model.embed_tokens.weight"].float(), _taken(tensors, "lm_head.weight", None)
    slots, proj = _action_vectors(table[vocabulary:])
    found = {
        "dynamics.order.table.weight": table[:vocabulary],
        "dynamics.logits.weight": last[:vocabulary],
        "dynamics.transformer.norm.weight": _taken(tensors, "model.norm.weight", (config.width,)),
        "frames.actions.slots": slots,
        "frames.actions.proj.weight": proj,
    }
    for index in range(config.depth):
        theirs, ours = f"model.layers.{index}", f"dynamics.transformer.layers.{index}"
        shared = (config.kv_heads * config.head_size, config.width)
        query, key, value = (
            _taken(tensors, f"{theirs}.self_attn.{name}_proj.weight", shape)
            for name, shape in (("q", (config.width,) * 2), ("k", shared), ("v", shared))
        )
        halves = [(config.hidden, config.width)] * 2
        gate, up = (
            _taken(tensors, f"{theirs}.mlp.{name}_proj.weight", shape)
            for name, shape in zip(("gate", "up"), halves, strict=True)
        )
        found |= {
            f"{ours}.qkv.weight": torch.cat((_paired(query, _HEAD), _paired(key, _HEAD), value)),
            f"{ours}.up.weight": torch.cat((gate, up)),
            f"{ours}.down.weight": _taken(tensors, f"{theirs}.mlp.down_proj.weight", (config.width, config.hidden)),
            f"{ours}.out_proj.weight": _taken(tensors, f"{theirs}.self_attn.o_proj.weight", (config.width,) * 2),
            f"{ours}.attention_norm.weight": _taken(tensors, f"{theirs}.input_layernorm.weight", (config.width,)),
            f"{ours}.feed_norm.weight": _taken(tensors, f"{theirs}.post_attention_layernorm.weight", (config.width,)),
        }
    return found


def _action_vectors(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the brackets among the slots (11, w), and the vectors of all choices (w, choices)."""
    chosen = [start + index for start in _CAMERA for index in range(_BINS)]
    chosen += [token for one in _CHOICES for token in (_NOTHING, *(_BUTTONS.index(name) for name in one))]
    slots = torch.zeros(len(_CHOICES) + 4, table.shape[1])
    slots[0], slots[-1] = table[_BEGIN], table[_END]
    return slots, table[chosen].t().contiguous()


def _paired(weight: Tensor, head: int) -> Tensor:
    """Put channels side by side that rotate together: LLaMA has them half a head apart."""
    paired: Tensor = weight.unflatten(0, (-1, 2, head // 2)).transpose(1, 2).flatten(0, 2)
    return paired


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those of the transformer, without what is in front of their names."""
    inside = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    found = {
        name: one for name, one in inside.items() if name.startswith(("model.layers.", "model.embed_", "model.norm"))
    }
    if "lm_head.weight" in inside:
        found["lm_head.weight"] = inside["lm_head.weight"]
    return found


def _taken(tensors: Mapping[str, Tensor], name: str, shape: Sequence[int] | None) -> Tensor:
    """Return a tensor in float32, of a shape if one is given.

    Raises:
        WeightsError: it is missing, or of another shape.
    """
    found = shape_of(tensors, name, 2 if shape is None else len(shape))
    if shape is not None and found != tuple(shape):
        raise WeightsError(f"{name} is {found}; with the shapes of the others it would have to be {tuple(shape)}.")
    return tensors[name].float()

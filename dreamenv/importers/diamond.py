"""DIAMOND's worlds of Atari games (Alonso et al. 2024): one file per game, with denoiser, rewards and a policy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
from torch import Tensor

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.errors import WeightsError
from dreamenv.importers.adapter import Adapter, Architecture, Options, published, shape_of
from dreamenv.importers.names import Names, Rule
from dreamenv.public.diamond import DiamondSizes
from dreamenv.public.diamond_events import DiamondEventsSizes
from dreamenv.world import World
from dreamenv.world_model import WorldModelSpec

__all__ = ["DiamondAdapter"]

_PICTURES_PER_SECOND = 15.0  # an Atari game's 60, of which four are skipped at a time


def _blocks(theirs: str, ours: str) -> list[tuple[str, str]]:
    """The names of residual blocks."""
    pairs = [
        ("norm1.linear", "modulations.0"), ("norm2.linear", "modulations.1"), ("conv1", "convolutions.0"),
        ("conv2", "convolutions.1"), ("proj", "shortcut"), ("attn.norm.norm", "attention.norm"),
        ("attn.qkv_proj", "attention.enter"), ("attn.out_proj", "attention.leave"),
    ]  # fmt: skip
    return _both([(f"{theirs}.resblocks.*.{a}", f"{ours}.blocks.*.{b}") for a, b in pairs])


def _both(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(f"{a}.{end}", f"{b}.{end}") for a, b in pairs for end in ("weight", "bias")]


def _turned(tensor: Tensor) -> Tensor:
    """An embedding's rows are the columns of a product with indicators."""
    return tensor.mT


_DENOISER = Names([
    Rule("inner_model.noise_emb.weight", "level.frequencies", lambda t: t[0], lambda t: t[None]),
    Rule("inner_model.act_emb.0.weight", "action.weight", _turned, _turned),
    *_both([
        ("inner_model.cond_proj.*", "mix.*"), ("inner_model.conv_in", "enter"), ("inner_model.norm_out.norm", "norm"),
        ("inner_model.conv_out", "leave"), ("inner_model.unet.downsamples.*.conv", "unet.shrink.*"),
        ("inner_model.unet.upsamples.*.conv", "unet.grow.*"),
    ]),
    *_blocks("inner_model.unet.d_blocks.*", "unet.downs.*"),
    *_blocks("inner_model.unet.u_blocks.*", "unet.ups.*"),
    *_blocks("inner_model.unet.mid_blocks", "unet.middle"),
])  # fmt: skip

_EVENTS = Names([
    Rule("act_emb.weight", "action.weight", _turned, _turned),
    *_both([
        ("encoder.conv_in", "enter"), ("encoder.downsamples.*.conv", "shrink.*"), ("head.*", "head.*"),
    ]),
    *_blocks("encoder.blocks.*", "stages.*"),
    *[(f"lstm.{part}_l0", f"memory.{part}_l0") for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")],
])  # fmt: skip


class DiamondAdapter(Adapter):
    """Reads an agent's file: its ``denoiser`` and ``rew_end_model``; its ``actor_critic`` is left out."""

    name: ClassVar[str] = "diamond"
    title: ClassVar[str] = "DIAMOND"
    licence: ClassVar[str] = "MIT"
    source: ClassVar[str] = "the Hugging Face repository eloialonso/diamond, atari_100k/models/<Game>.pt"

    def read(self, files: Sequence[Mapping[str, Tensor]], options: Options) -> Architecture:
        """See `Adapter.read`."""
        if len(files) != 1:
            raise WeightsError(f"DIAMOND's weights of a game are one file, not {len(files)}.")
        parts = {
            part: {name.removeprefix(f"{part}."): one for name, one in files[0].items() if name.startswith(f"{part}.")}
            for part in ("denoiser", "rew_end_model")
        }
        for part, tensors in parts.items():
            if not tensors:
                raise WeightsError(
                    f"there is no {part} in the file, whose tensors are {', '.join(list(files[0])[:3])}, ...: this is "
                    "no agent of DIAMOND, which has the parts denoiser, rew_end_model and actor_critic."
                )
        denoiser, events = parts["denoiser"], parts["rew_end_model"]
        if any("upsampler" in name or "noise_cond_emb" in name for name in denoiser):
            raise WeightsError("this is DIAMOND's world of CS:GO, which has an upsampler; Atari's alone are imported.")
        actions, wide = shape_of(denoiser, "inner_model.act_emb.0.weight", 2)
        condition = 2 * shape_of(denoiser, "inner_model.noise_emb.weight", 2)[1]
        colours = shape_of(denoiser, "inner_model.conv_out.weight", 4)[0]
        if condition % wide:
            raise WeightsError(
                f"inner_model.act_emb.0.weight is {actions, wide}: {wide} does not divide the {condition} that "
                "inner_model.noise_emb.weight tells of."
            )
        context = condition // wide
        entering = shape_of(denoiser, "inner_model.conv_in.weight", 4)[1]
        if entering != (context + 1) * colours:
            raise WeightsError(
                f"inner_model.conv_in.weight takes {entering} channels; {context} frames of context and a noisy one of "
                f"{colours} channels are {(context + 1) * colours}."
            )
        size, events_sizes = _events(events, options)
        if size[0] * size[1] < 1 or shape_of(events, "act_emb.weight", 2)[0] != actions:
            raise WeightsError(
                f"rew_end_model knows {shape_of(events, 'act_emb.weight', 2)[0]} actions, the denoiser {actions}: they "
                "are not of the same game."
            )
        sizes = DiamondSizes(
            actions=actions, condition=condition, **_resolutions(denoiser, "inner_model.unet.d_blocks")
        )
        config = DenoisingConfig(
            network="public", public=sizes, events=events_sizes, context=context, passes=options.passes or 3,
            spread=1.0, offset=0.3, quantise_passes=True, denoiser_length=max(8, context), denoiser_rate=1e-4,
            events_rate=1e-4, bfloat16=False,
        )  # fmt: skip
        spec = WorldModelSpec(
            frame_shape=(colours, *size), action_space=gym.spaces.Discrete(actions), frame_rate=_PICTURES_PER_SECOND
        )
        return Architecture(
            config=config, spec=spec, tensors={"network": denoiser, "events": events},
            names={"network": _DENOISER, "events": _EVENTS}, rewards=True,
            notes=("rewards are told by their sign, -1, 0 or 1, and given as their mean",),
        )  # fmt: skip

    def write(self, world: World) -> dict[str, dict[str, Tensor]]:
        """See `Adapter.write`."""
        model = world.model
        parts = {"denoiser": ("network", _DENOISER), "rew_end_model": ("events", _EVENTS)}
        return {
            "agent.pt": {
                f"{part}.{name}": tensor
                for part, (place, names) in parts.items()
                for name, tensor in published(model.get_submodule(place), names).items()
            }
        }


def _events(tensors: Mapping[str, Tensor], options: Options) -> tuple[tuple[int, int], DiamondEventsSizes]:
    """Return the size of frames, and the sizes of the network of rewards."""
    found = _resolutions(tensors, "encoder.blocks")
    levels = len(found["channels"]) - 1  # the last stage is of the coarsest resolution once more
    found = {name: values[:levels] for name, values in found.items()}
    features = shape_of(tensors, "lstm.weight_ih_l0", 2)[1]
    side = math.isqrt(features // max(1, found["channels"][-1]))
    if side**2 * found["channels"][-1] != features and options.size is None:
        raise WeightsError(
            f"lstm.weight_ih_l0 takes {features} features, which is no square of places with "
            f"{found['channels'][-1]} channels; name the size of frames."
        )
    size = options.size or (side * 2 ** (levels - 1),) * 2
    memory, condition = shape_of(tensors, "lstm.weight_hh_l0", 2)[1], shape_of(tensors, "act_emb.weight", 2)[1]
    return size, DiamondEventsSizes(memory=memory, condition=condition, **found)


def _resolutions(tensors: Mapping[str, Tensor], place: str) -> dict[str, Any]:
    """Return channels, blocks and attention of each resolution."""
    blocks: dict[int, set[int]] = {}
    attention: set[int] = set()
    for name in tensors:
        found = re.match(rf"{re.escape(place)}\.(\d+)\.resblocks\.(\d+)\.(\w+)", name)
        if found:
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
            attention |= {int(found[1])} if found[3] == "attn" else set()
    if sorted(blocks) != list(range(len(blocks))) or not blocks:
        raise WeightsError(f"the resolutions of {place} should be numbered from 0 on, not {sorted(blocks)}.")
    channels = [shape_of(tensors, f"{place}.{index}.resblocks.0.conv2.weight", 4)[0] for index in range(len(blocks))]
    return {
        "channels": tuple(channels),
        "blocks": tuple(len(blocks[index]) for index in range(len(blocks))),
        "attention": tuple(index in attention for index in range(len(blocks))),
    }

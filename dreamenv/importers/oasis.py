"""Oasis 500M (Decart and Etched 2024): a transformer and an autoencoder, each in a file of its own.

The public code writes its two tables of rotary speeds under the first of the many names that share each of them, and
takes them from whichever names are there; so does this. How wide a head of attention is can be read off these tables,
but not off the autoencoder's tensors: as published, its heads are 64 wide unless `Options.heads` says how many.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.data.provenance import Provenance
from dreamenv.data.readers.minecraft import ACTION_KEYS, FRAME_RATE, action_space
from dreamenv.envs.minerl.tasks import MINERL_TASKS
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.importers.adapter import Adapter, Architecture, Options, published, shape_of
from dreamenv.importers.names import Names
from dreamenv.public.oasis import OasisSizes
from dreamenv.public.oasis_actions import minerl_space, native_vector
from dreamenv.public.oasis_codec import OasisCodecSizes
from dreamenv.public.pair_rotary import place_speeds, time_speeds
from dreamenv.public.silent import SilentSizes
from dreamenv.world import World
from dreamenv.world_model import WorldModelSpec

__all__ = ["OasisAdapter"]

_NETWORK, _CODEC = "oasis500m.safetensors", "vit-l-20.safetensors"
_SIZE = (360, 640)
_HEAD = 64  # channels of a head of attention, as published
_HIGHEST = 256.0
_WINDOW = 31  # past frames: the public code's window of 32 is with the frame that is drawn
_TASK = "minerl_survival"  # whose table of actions is Oasis's by default: an open world, and every action there is
_SPEEDS = {"s": "blocks.0.s_attn.rotary_emb.freqs", "t": "blocks.0.t_attn.rotary_emb.freqs"}
_SPATIAL = re.compile(r"spatial_rotary_emb\.freqs|blocks\.\d+\.s_attn\.rotary_emb\.freqs")
_TEMPORAL = re.compile(r"temporal_rotary_emb\.freqs|blocks\.\d+\.t_attn\.rotary_emb\.freqs")


def _linear(theirs: str, ours: str, *, bias: bool = True) -> list[tuple[str, str]]:
    return [(f"{theirs}.{kind}", f"{ours}.{kind}") for kind in (("weight", "bias") if bias else ("weight",))]


def _half(short: str, ours: str) -> list[tuple[str, str]]:
    return [
        *_linear(f"blocks.*.{short}_attn.to_qkv", f"{ours}.*.attention.enter", bias=False),
        *_linear(f"blocks.*.{short}_attn.to_out", f"{ours}.*.attention.leave"),
        *_linear(f"blocks.*.{short}_mlp.fc1", f"{ours}.*.expand"),
        *_linear(f"blocks.*.{short}_mlp.fc2", f"{ours}.*.contract"),
        *_linear(f"blocks.*.{short}_adaLN_modulation.1", f"{ours}.*.modulation"),
    ]


def _side(name: str) -> list[tuple[str, str]]:
    return [
        *_linear(f"{name}.*.norm1", f"{name}.*.before"),
        *_linear(f"{name}.*.attn.qkv", f"{name}.*.enter"),
        *_linear(f"{name}.*.attn.proj", f"{name}.*.leave"),
        *_linear(f"{name}.*.norm2", f"{name}.*.between"),
        *_linear(f"{name}.*.mlp.fc1", f"{name}.*.expand"),
        *_linear(f"{name}.*.mlp.fc2", f"{name}.*.contract"),
    ]


_NAMES = {
    "network": Names([
        *_linear("x_embedder.proj", "enter"),
        *_linear("t_embedder.mlp.*", "level.*"),
        *_linear("external_cond", "action"),
        *_half("s", "space"),
        *_half("t", "time"),
        (_SPEEDS["s"], "space_speeds"),
        (_SPEEDS["t"], "time_speeds"),
        *_linear("final_layer.adaLN_modulation.1", "modulation"),
        *_linear("final_layer.linear", "leave"),
    ]),
    "codec.autoencoder": Names([
        *_linear("patch_embed.proj", "enter"),
        *_side("encoder"),
        *_linear("enc_norm", "encoder_norm"),
        *_linear("quant_conv", "moments"),
        *_linear("post_quant_conv", "widen"),
        *_side("decoder"),
        *_linear("dec_norm", "decoder_norm"),
        *_linear("predictor", "leave"),
    ]),
}  # fmt: skip


class OasisAdapter(Adapter):
    """Reads and writes Oasis."""

    name = "oasis"
    title = "Oasis 500M (Decart and Etched)"
    licence = "MIT"
    source = f"{_NETWORK} and {_CODEC} of Etched/oasis-500m on the Hugging Face Hub, which asks for a login"

    def read(self, files: Sequence[Mapping[str, Tensor]], options: Options) -> Architecture:
        """See `Adapter`. Actions: "discrete", "minerl", "vector", or the name of a MineRL task for its table."""
        network, codec = _sorted(files)
        size = options.size or _SIZE
        network, sizes = _read_network(network, options.heads)
        codec_sizes: Any = _read_codec(codec, options.heads)
        channels = network["x_embedder.proj.weight"].shape[1]
        if channels != codec_sizes.latent:
            raise WeightsError(
                f"the network draws latents of {channels} channels, and the codec makes {codec_sizes.latent}: they are "
                f"not of one model. Take {_NETWORK} and {_CODEC} of one release."
            )
        multiple = codec_sizes.patch * sizes["patch"]
        if min(size) < 1 or any(side % multiple for side in size):
            raise WeightsError(
                f"frames of {size[0]} x {size[1]} pixels cannot be: with patches of {codec_sizes.patch} pixels and "
                f"{sizes['patch']} latents, both sides must be multiples of {multiple}; published is "
                f"{_SIZE[0]} x {_SIZE[1]}."
            )
        space, table, provenance = _actions(options.actions or "discrete", size)
        network_sizes: Any = OasisSizes(**sizes, table=table)
        spec = WorldModelSpec(frame_shape=(3, *size), action_space=space, frame_rate=FRAME_RATE)
        return Architecture(
            config=DenoisingConfig(
                network="public",
                public=network_sizes,
                codec=codec_sizes,
                events=SilentSizes(),
                context=_WINDOW,
                noise="chain",
                schedule="sigmoid",
                target="velocity",
                data_std=1.0,
                sampler="ddim",
                passes=10 if options.passes is None else options.passes,
                stabilisation=14.0,
                manner="labelled",
                spread=1.0,
                denoiser_length=_WINDOW,
                denoiser_batch=1,
                denoiser_rate=1e-5,
                event_channels=(32, 8),
            ),
            spec=spec,
            tensors={"network": network, "codec.autoencoder": codec},
            names=_NAMES,
            provenance=provenance,
            notes=(
                "a step is one tick of 1/20 s; make MineRL's environment with frame_skip=1 to have the same",
                "when 31 past frames are remembered the window slides over what was computed once, unlike the public "
                "code, which computes all of them anew; world.replaced(public=dataclasses.replace(world.config.public, "
                "window='restarts')) does as it does, at a third of the speed",
            ),
        )

    def write(self, world: World) -> dict[str, dict[str, Tensor]]:
        """See `Adapter`.

        Raises:
            WeightsError: the world is no Oasis.
        """
        config: Any = world.config
        kinds = [getattr(getattr(config, place, None), "kind", None) for place in ("public", "codec")]
        if kinds != ["oasis", "oasis codec"]:
            raise WeightsError(
                f"this world is {type(config).__name__} with the network {kinds[0]!r} and the codec {kinds[1]!r}; only "
                "one that was imported from Oasis can be written as Oasis."
            )
        model: Any = world.model
        parts = {_NETWORK: (model.network, "network"), _CODEC: (model.codec.autoencoder, "codec.autoencoder")}
        return {file: published(part, _NAMES[place]) for file, (part, place) in parts.items()}


def _sorted(files: Sequence[Mapping[str, Tensor]]) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return the network's tensors and the codec's."""
    both = f"Oasis is two files, {_NETWORK} (the network) and {_CODEC} (the codec)"
    networks = [file for file in files if "x_embedder.proj.weight" in file and "external_cond.weight" in file]
    codecs = [file for file in files if "patch_embed.proj.weight" in file and "quant_conv.weight" in file]
    for file in files:
        if not any(file is known for known in (*networks, *codecs)):
            raise WeightsError(
                f"a file with the tensors {', '.join(sorted(file)[:3])}, ... ({len(file)} in all) is not of Oasis: "
                f"{both}. If it is of another system, import it as that."
            )
    if len(networks) != 1 or len(codecs) != 1:
        raise WeightsError(f"{both}; found {len(networks)} of the first kind and {len(codecs)} of the second.")
    return networks[0], codecs[0]


def _read_network(tensors: Mapping[str, Tensor], heads: int | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors with each table of speeds once, and the network's sizes."""
    width, _, patch, _ = shape_of(tensors, "x_embedder.proj.weight", 4)
    told = shape_of(tensors, "external_cond.weight", 2)[1]
    if told != len(ACTION_KEYS):
        raise WeightsError(
            f"external_cond.weight takes actions of {told} values; Oasis's have {len(ACTION_KEYS)}: is this Oasis 500M?"
        )
    speeds = {"s": _shared(tensors, _SPATIAL), "t": _shared(tensors, _TEMPORAL)}
    known = {pairs * len(one) for pairs, one in ((4, speeds["s"]), (2, speeds["t"])) if one is not None}
    if len(known) > 1:
        raise WeightsError(
            f"the tables of rotary speeds in space and in time go with heads {' and '.join(map(str, sorted(known)))} "
            "channels wide; both must go with the same. Is the file damaged?"
        )
    head = known.pop() if known else None
    heads = _heads(width, head, heads, 4, "network")
    kept = {
        name: tensor for name, tensor in tensors.items() if not (_SPATIAL.fullmatch(name) or _TEMPORAL.fullmatch(name))
    }
    head = width // heads
    kept[_SPEEDS["s"]] = place_speeds(head // 4, _HIGHEST) if speeds["s"] is None else speeds["s"]
    kept[_SPEEDS["t"]] = time_speeds(head // 2) if speeds["t"] is None else speeds["t"]
    return kept, {"width": width, "depth": _depth(tensors, "blocks"), "heads": heads, "patch": patch}


def _read_codec(tensors: Mapping[str, Tensor], heads: int | None) -> OasisCodecSizes:
    ours, _, patch, _ = shape_of(tensors, "patch_embed.proj.weight", 4)
    theirs, latent = shape_of(tensors, "post_quant_conv.weight", 2)
    return OasisCodecSizes(
        patch=patch,
        latent=latent,
        encoder_width=ours,
        encoder_depth=_depth(tensors, "encoder"),
        encoder_heads=_heads(ours, None, heads, 8, "codec's encoder"),
        decoder_width=theirs,
        decoder_depth=_depth(tensors, "decoder"),
        decoder_heads=_heads(theirs, None, heads, 8, "codec's decoder"),
    )


def _depth(tensors: Mapping[str, Tensor], blocks: str) -> int:
    numbers = [int(name.split(".")[1]) for name in tensors if re.match(rf"{blocks}\.\d+\.", name)]
    if not numbers:
        raise WeightsError(f"there is no tensor whose name begins with {blocks}.0. Is the file whole, and of Oasis?")
    return max(numbers) + 1


def _shared(tensors: Mapping[str, Tensor], names: re.Pattern[str]) -> Tensor | None:
    """Return what all tensors of these names are, None if there is none."""
    found = {name: tensor for name, tensor in tensors.items() if names.fullmatch(name)}
    first: Tensor | None = None
    for name, tensor in found.items():
        if tensor.ndim != 1 or not len(tensor) or (first is not None and not _alike(first, tensor)):
            raise WeightsError(
                f"{name} {tuple(tensor.shape)} is not the table of rotary speeds that the other layers have: Oasis has "
                "one for all of them. Is the file of a variant?"
            )
        first = tensor
    return first


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and (one.is_meta or torch.equal(one, other))


def _heads(width: int, head: int | None, asked: int | None, multiple: int, what: str) -> int:
    """Return how many heads a width has, given how wide one is, or how many are asked for."""
    heads = width // (head or _HEAD) if asked is None else asked
    if heads < 1 or width % heads or (width // heads) % multiple:
        where = f"its rotary speeds tell of heads {head} wide" if head else "its heads cannot be read off its tensors"
        tried = f"{heads} heads" if asked is not None else f"heads {head or _HEAD} wide"
        raise WeightsError(
            f"the {what} is {width} wide, which {tried} do not divide into multiples of {multiple}; {where}. Say how "
            "many there are with heads=."
        )
    if head is not None and width // heads != head:
        raise WeightsError(
            f"{heads} heads were asked for, {width // heads} wide in the {what}; its rotary speeds tell of {head} "
            f"channels. Leave heads= out, or say {width // head}."
        )
    return heads


def _actions(wanted: str, size: tuple[int, int]) -> tuple[gym.Space[Any], tuple[tuple[float, ...], ...], Provenance]:
    """Return the space of actions, the vector of each if it is a table, and what plays alike."""
    place: dict[str, Any] = {"frame_size": size, "resize": "area", "frame_rate": FRAME_RATE}
    if wanted == "vector":  # as recordings of VPT are read
        kept = {"format": "vpt", "width": size[1], "gui": "still", "gui_scale": 1.0}
        return action_space(), (), Provenance(
            environment_id="Minecraft-VPT-v0", environment_kwargs=kept, action_names=ACTION_KEYS, **place
        )  # fmt: skip
    task = MINERL_TASKS.get(_TASK if wanted in ("discrete", "minerl") else wanted)
    if task is None:
        raise ConfigError(
            f"Oasis's actions are 'discrete', 'minerl', 'vector' or the table of one of {', '.join(MINERL_TASKS)}, "
            f"not {wanted!r}."
        )
    native = wanted == "minerl"
    shown = size[0] if size[0] == size[1] else size
    kwargs: dict[str, Any] = {"size": shown, "frame_skip": 1, "reward": task.rewards[0]}
    provenance = Provenance(
        environment_id=task.id,
        environment_kwargs={**kwargs, "native_actions": True} if native else kwargs,
        action_names=() if native else task.action_names,
        action_table=[] if native else list(task.action_table),
        frame_skip=1,
        max_episode_steps=task.max_native_steps,
        score=task.score,
        **place,
    )
    if native:
        return minerl_space(), (), provenance
    table = tuple(native_vector(action) for action in task.action_table)
    return gym.spaces.Discrete(len(table)), table, provenance

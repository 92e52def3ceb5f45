"""Oasis 500M (Decart and Etched 2024): a transformer and an autoencoder, each in a file of its own.

The public code writes its two tables of rotary speeds under the first of the many names that share each of them, and
takes them from whichever names are there; so does this. How wide a head of attention is can be read off these tables,
but not off the autoencoder's tensors: as published, its heads are 64 wide unless `Options.encoder_heads` and
`Options.decoder_heads` say how many.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from dreamenv.backbones.denoising import DenoiserTraining, DenoisingConfig
from dreamenv.codecs.oasis_vae import OasisVAEConfig
from dreamenv.data.provenance import Provenance
from dreamenv.data.readers.minecraft import ACTION_KEYS, FRAME_RATE, action_space
from dreamenv.denoisers.oasis import HIGHEST_FREQUENCY, OasisConfig
from dreamenv.denoisers.oasis_actions import minerl_space, native_vector
from dreamenv.diffusion.context_noise import Stabilization
from dreamenv.diffusion.process import VariancePreserving
from dreamenv.diffusion.sampler import DDIM
from dreamenv.diffusion.target import Velocity
from dreamenv.envs.minerl.tasks import MINERL_TASKS
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.heads.no_reward import NoRewardHeadConfig
from dreamenv.importers.adapter import Adapter, Architecture, Options, shape_of, to_published
from dreamenv.importers.key_map import KeyMap
from dreamenv.nn.pair_rotary import place_speeds, time_speeds
from dreamenv.world import World
from dreamenv.world_model import WorldModelSpec

__all__ = ["OasisAdapter"]

_NETWORK, _CODEC = "oasis500m.safetensors", "vit-l-20.safetensors"
_SIZE = (360, 640)
_HEAD = 64  # channels of a head of attention, as published
_STEPS = 1000  # of the noise process
_STABILIZATION = 14.0  # the public stabilization_level 15, counted from 0
_TASK = "minerl_survival"  # whose table of actions is Oasis's by default: an open world, and every action there is
_SPEEDS = {"s": "blocks.0.s_attn.rotary_emb.freqs", "t": "blocks.0.t_attn.rotary_emb.freqs"}
_SPATIAL = re.compile(r"spatial_rotary_emb\.freqs|blocks\.\d+\.s_attn\.rotary_emb\.freqs")
_TEMPORAL = re.compile(r"temporal_rotary_emb\.freqs|blocks\.\d+\.t_attn\.rotary_emb\.freqs")


def _linear(theirs: str, ours: str, *, bias: bool = True) -> list[tuple[str, str]]:
    return [(f"{theirs}.{kind}", f"{ours}.{kind}") for kind in (("weight", "bias") if bias else ("weight",))]


def _blocks(short: str, ours: str) -> list[tuple[str, str]]:
    return [
        *_linear(f"blocks.*.{short}_attn.to_qkv", f"{ours}.*.attention.qkv", bias=False),
        *_linear(f"blocks.*.{short}_attn.to_out", f"{ours}.*.attention.out_proj"),
        *_linear(f"blocks.*.{short}_mlp.fc1", f"{ours}.*.fc1"),
        *_linear(f"blocks.*.{short}_mlp.fc2", f"{ours}.*.fc2"),
        *_linear(f"blocks.*.{short}_adaLN_modulation.1", f"{ours}.*.modulation"),
    ]


def _side(name: str) -> list[tuple[str, str]]:
    return [
        *_linear(f"{name}.*.norm1", f"{name}.*.norm1"),
        *_linear(f"{name}.*.attn.qkv", f"{name}.*.qkv"),
        *_linear(f"{name}.*.attn.proj", f"{name}.*.out_proj"),
        *_linear(f"{name}.*.norm2", f"{name}.*.norm2"),
        *_linear(f"{name}.*.mlp.fc1", f"{name}.*.fc1"),
        *_linear(f"{name}.*.mlp.fc2", f"{name}.*.fc2"),
    ]


_NAMES = {
    "denoiser": KeyMap([
        *_linear("x_embedder.proj", "patch_embed"),
        *_linear("t_embedder.mlp.*", "time_embed.*"),
        *_linear("external_cond", "action_embed"),
        *_blocks("s", "spatial_blocks"),
        *_blocks("t", "temporal_blocks"),
        (_SPEEDS["s"], "spatial_speeds"),
        (_SPEEDS["t"], "temporal_speeds"),
        *_linear("final_layer.adaLN_modulation.1", "modulation"),
        *_linear("final_layer.linear", "out_proj"),
    ]),
    "codec.autoencoder": KeyMap([
        *_linear("patch_embed.proj", "patch_embed"),
        *_side("encoder"),
        *_linear("enc_norm", "encoder_norm"),
        *_linear("quant_conv", "to_moments"),
        *_linear("post_quant_conv", "from_latent"),
        *_side("decoder"),
        *_linear("dec_norm", "decoder_norm"),
        *_linear("predictor", "out_proj"),
    ]),
}  # fmt: skip


class OasisAdapter(Adapter):
    """Reads and writes Oasis."""

    name = "oasis"
    title = "Oasis 500M (Decart and Etched)"
    licence = "MIT"
    options = ("size", "heads", "encoder_heads", "decoder_heads", "actions", "sampling_steps")
    source = f"{_NETWORK} and {_CODEC} of Etched/oasis-500m on the Hugging Face Hub, which asks for a login"

    def read(self, files: Sequence[Mapping[str, Tensor]], options: Options) -> Architecture:
        """See `Adapter`. Actions: "discrete", "minerl", "vector", or the name of a MineRL task for its table."""
        network, codec = _sorted(files)
        size = options.size or _SIZE
        network, sizes = _read_network(network, options.heads)
        codec_config = _read_codec(codec, options)
        channels = network["x_embedder.proj.weight"].shape[1]
        if channels != codec_config.latent_channels:
            raise WeightsError(
                f"the network has latents of {channels} channels, and the codec makes {codec_config.latent_channels}: "
                f"they are not of one model. Take {_NETWORK} and {_CODEC} of one release."
            )
        multiple = codec_config.patch * sizes["patch"]
        if min(size) < 1 or any(side % multiple for side in size):
            raise WeightsError(
                f"frames of {size[0]} x {size[1]} pixels cannot be: with patches of {codec_config.patch} pixels and "
                f"{sizes['patch']} latents, both sides must be multiples of {multiple}; published is "
                f"{_SIZE[0]} x {_SIZE[1]}."
            )
        space, table, provenance = _actions(options.actions or "discrete", size)
        denoiser, steps = OasisConfig(**sizes, action_table=table), options.sampling_steps
        return Architecture(
            config=DenoisingConfig(
                denoiser=denoiser,
                process=VariancePreserving(schedule="sigmoid", steps=_STEPS, time_scale=float(_STEPS)),
                target=Velocity(),
                sampler=DDIM(steps=10 if steps is None else steps, init_noise_sigma=1.0),
                context_noise=Stabilization(stabilization_level=_STABILIZATION, context_noise_mode="labelled"),
                codec=codec_config,
                head=NoRewardHeadConfig(),
                training=DenoiserTraining(batch_size=1, sequence_length=denoiser.context, learning_rate=1e-5),
            ),
            spec=WorldModelSpec(frame_shape=(3, *size), action_space=space, frame_rate=FRAME_RATE),
            tensors={"denoiser": network, "codec.autoencoder": codec},
            names=_NAMES,
            provenance=provenance,
            notes=(
                *_assumed(files, options, sizes["heads"], codec_config),
                "a step is one tick of 1/20 s; make MineRL's environment with frame_skip=1 to have the same",
                "when 31 past frames are remembered the window slides over what was computed once, unlike the public "
                "code, which computes all of them again; "
                "world.replaced(denoiser=dataclasses.replace(world.config.denoiser, window='restarts')) does as it "
                "does, at a third of the speed",
            ),
        )

    def write(self, world: World) -> dict[str, dict[str, Tensor]]:
        """See `Adapter`.

        Raises:
            WeightsError: the world is no Oasis.
        """
        config: Any = world.config
        kinds = [getattr(getattr(config, place, None), "kind", None) for place in ("denoiser", "codec")]
        if kinds != [OasisConfig.kind, OasisVAEConfig.kind]:
            raise WeightsError(
                f"this world is {config.kind!r} with the denoiser {kinds[0]!r} and the codec {kinds[1]!r}; only one "
                "that was imported from Oasis can be written as Oasis."
            )
        files = {_NETWORK: "denoiser", _CODEC: "codec.autoencoder"}
        return {file: to_published(world.model.get_submodule(place), _NAMES[place]) for file, place in files.items()}


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
    values = shape_of(tensors, "external_cond.weight", 2)[1]
    if values != len(ACTION_KEYS):
        raise WeightsError(
            f"external_cond.weight takes actions of {values} values; Oasis's have {len(ACTION_KEYS)}. Is this Oasis?"
        )
    speeds = {"s": _shared(tensors, _SPATIAL), "t": _shared(tensors, _TEMPORAL)}
    known = {pairs * len(one) for pairs, one in ((4, speeds["s"]), (2, speeds["t"])) if one is not None}
    if len(known) > 1:
        raise WeightsError(
            f"the tables of rotary speeds in space and in time go with heads {' and '.join(map(str, sorted(known)))} "
            "channels wide; both must go with the same. Is the file damaged?"
        )
    head = known.pop() if known else None
    heads = _heads(width, head, heads, 4)
    kept = {
        name: tensor for name, tensor in tensors.items() if not (_SPATIAL.fullmatch(name) or _TEMPORAL.fullmatch(name))
    }
    head = width // heads
    kept[_SPEEDS["s"]] = place_speeds(head // 4, HIGHEST_FREQUENCY) if speeds["s"] is None else speeds["s"]
    kept[_SPEEDS["t"]] = time_speeds(head // 2) if speeds["t"] is None else speeds["t"]
    return kept, {"width": width, "depth": _depth(tensors, "blocks"), "heads": heads, "patch": patch}


def _read_codec(tensors: Mapping[str, Tensor], options: Options) -> OasisVAEConfig:
    ours, _, patch, _ = shape_of(tensors, "patch_embed.proj.weight", 4)
    theirs, latent = shape_of(tensors, "post_quant_conv.weight", 2)
    return OasisVAEConfig(
        patch=patch,
        latent_channels=latent,
        encoder_width=ours,
        encoder_depth=_depth(tensors, "encoder"),
        encoder_heads=_heads(ours, None, options.encoder_heads, 8, "encoder"),
        decoder_width=theirs,
        decoder_depth=_depth(tensors, "decoder"),
        decoder_heads=_heads(theirs, None, options.decoder_heads, 8, "decoder"),
    )


def _assumed(files: Sequence[Mapping[str, Tensor]], options: Options, heads: int, codec: OasisVAEConfig) -> list[str]:
    """Return what is said about heads of attention that neither tensors nor options told of."""
    told = any(_SPATIAL.fullmatch(name) or _TEMPORAL.fullmatch(name) for file in files for name in file)
    counts = {
        "heads": None if told else heads, "encoder_heads": codec.encoder_heads, "decoder_heads": codec.decoder_heads
    }  # fmt: skip
    return [
        f"assumed {name}={count}, each {_HEAD} channels wide as published: no tensor says how many there are"
        for name, count in counts.items()
        if count is not None and getattr(options, name) is None
    ]


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
    return one.shape == other.shape and torch.equal(one, other)


def _heads(width: int, head: int | None, asked: int | None, multiple: int, half: str = "") -> int:
    """Return how many heads a width has, given how wide one is, or how many are asked for."""
    what, name = (f"codec's {half}", f"{half}_heads") if half else ("network", "heads")
    heads = width // (head or _HEAD) if asked is None else asked
    if heads < 1 or width % heads or (width // heads) % multiple:
        where = f"its rotary speeds go with heads {head} wide" if head else "its heads cannot be read off its tensors"
        tried = f"{heads} heads" if asked is not None else f"heads {head or _HEAD} wide"
        raise WeightsError(
            f"the {what} is {width} wide, which {tried} do not divide into multiples of {multiple}; {where}. Say how "
            f"many there are with {name}=."
        )
    if head is not None and width // heads != head:
        raise WeightsError(
            f"{heads} heads were asked for, {width // heads} wide in the {what}; its rotary speeds go with {head} "
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

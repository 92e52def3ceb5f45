"""Navigation World Models (Bar et al. 2024): the transformer of a training run, and Stable Diffusion's autoencoder."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from torch import Tensor

from dreamenv.backbones.denoising import DenoiserTraining, DenoisingConfig
from dreamenv.codecs.sd_vae import SDVAEConfig
from dreamenv.denoisers.nwm import HIGHEST, LOWEST, NWMConfig
from dreamenv.diffusion.process import VariancePreserving
from dreamenv.diffusion.sampler import Ancestral, DPMSolver, Sampler
from dreamenv.diffusion.target import Epsilon
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.heads.no_reward import NoRewardHeadConfig
from dreamenv.importers.adapter import Adapter, Architecture, Options, shape_of, to_published
from dreamenv.importers.key_map import KeyMap
from dreamenv.world import World
from dreamenv.world_model import WorldModelSpec

__all__ = ["CODEC_NAMES", "DENOISER_NAMES", "NWMAdapter"]

_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # by width, of the published S, B, L and XL
_HEAD_WIDTH = 64  # of other widths
_FRAME_RATE = 4.0  # of the recordings, hertz
_STEPS = 250  # of the ancestral sampler, with the variance that the network predicts
_FEW = 50  # up to so many, which are too few for it, DPM-Solver++ is used
_DENOISER, _CODEC = "blocks.0.cttn.in_proj_weight", "encoder.conv_in.weight"  # by which files are distinguished
_BOTH = (
    "NWM needs two files: a checkpoint of the transformer (.pth.tar), and stabilityai/sd-vae-ft-ema's "
    "diffusion_pytorch_model.safetensors"
)
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))")


def _both(theirs: str, ours: str) -> list[tuple[str, str]]:
    return [(f"{theirs}.{kind}", f"{ours}.{kind}") for kind in ("weight", "bias")]


def _number(theirs: str, ours: str) -> list[tuple[str, str]]:
    return [*_both(f"{theirs}.mlp.0", f"{ours}.fc1"), *_both(f"{theirs}.mlp.2", f"{ours}.fc2")]


DENOISER_NAMES = KeyMap([
    ("pos_embed", "pos_embed"),
    *_both("x_embedder.proj", "patch_embed"),
    *_number("t_embedder", "time"),
    *_number("time_embedder", "time_shift"),
    *_number("y_embedder.x_emb", "moves.0"),
    *_number("y_embedder.y_emb", "moves.1"),
    *_number("y_embedder.angle_emb", "moves.2"),
    *_both("blocks.*.attn.qkv", "blocks.*.qkv"),
    *_both("blocks.*.attn.proj", "blocks.*.out_proj"),
    ("blocks.*.cttn.in_proj_weight", "blocks.*.cross_qkv.weight"),
    ("blocks.*.cttn.in_proj_bias", "blocks.*.cross_qkv.bias"),
    ("blocks.*.cttn.bias_k", "blocks.*.null_key"),
    ("blocks.*.cttn.bias_v", "blocks.*.null_value"),
    *_both("blocks.*.cttn.out_proj", "blocks.*.cross_out_proj"),
    *_both("blocks.*.adaLN_modulation.1", "blocks.*.modulation"),
    *_both("blocks.*.mlp.fc1", "blocks.*.fc1"),
    *_both("blocks.*.mlp.fc2", "blocks.*.fc2"),
    *_both("final_layer.adaLN_modulation.1", "modulation"),
    *_both("final_layer.linear", "final"),
])  # fmt: skip
"""Of the transformer."""


def _residual(theirs: str, ours: str) -> list[tuple[str, str]]:
    pairs = {
        "norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "conv_shortcut": "shortcut",
    }  # fmt: skip
    return [pair for a, b in pairs.items() for pair in _both(f"{theirs}.{a}", f"{ours}.{b}")]


def _middle(theirs: str, ours: str) -> list[tuple[str, str]]:
    pairs = {"group_norm": "norm", "to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "out_proj"}
    attention = [pair for a, b in pairs.items() for pair in _both(f"{theirs}.attentions.0.{a}", f"{ours}.{b}")]
    return [*_residual(f"{theirs}.resnets.*", f"{ours}.blocks.*"), *attention]


CODEC_NAMES = KeyMap([
    *_both("encoder.conv_in", "encoder.conv_in"),
    *_residual("encoder.down_blocks.*.resnets.*", "encoder.stages.*.blocks.*"),
    *_both("encoder.down_blocks.*.downsamplers.0.conv", "encoder.stages.*.resize"),
    *_middle("encoder.mid_block", "encoder.middle"),
    *_both("encoder.conv_norm_out", "encoder.norm"),
    *_both("encoder.conv_out", "encoder.conv_out"),
    *_both("quant_conv", "quant_conv"),
    *_both("post_quant_conv", "post_quant_conv"),
    *_both("decoder.conv_in", "decoder.conv_in"),
    *_middle("decoder.mid_block", "decoder.middle"),
    *_residual("decoder.up_blocks.*.resnets.*", "decoder.stages.*.blocks.*"),
    *_both("decoder.up_blocks.*.upsamplers.0.conv", "decoder.stages.*.resize"),
    *_both("decoder.conv_norm_out", "decoder.norm"),
    *_both("decoder.conv_out", "decoder.conv_out"),
])  # fmt: skip
"""Of the autoencoder, as `diffusers` names its tensors today."""


class NWMAdapter(Adapter):
    """Reads both files, and writes them again; older names of the autoencoder's attention come back as today's."""

    name: ClassVar[str] = "nwm"
    title: ClassVar[str] = "Navigation World Models"
    licence: ClassVar[str] = (
        "CC-BY-NC-4.0, non-commercial use only; the autoencoder sd-vae-ft-ema has a licence of its own (MIT)"
    )
    source: ClassVar[str] = (
        "facebook/nwm on Hugging Face (0100000.pth.tar of nwm_cdit_xl), and diffusion_pytorch_model.safetensors of "
        "stabilityai/sd-vae-ft-ema"
    )

    def read(self, files: Sequence[Mapping[str, Tensor]], options: Options) -> Architecture:
        """See `Adapter.read`."""
        if options.actions not in (None, "moves"):
            raise WeightsError(f"NWM has one action space, 'moves', not {options.actions!r}; leave actions out.")
        network, codec = _sorted(files)
        codec_config = _codec_config(codec)
        denoiser, places = _denoiser_config(network, options.heads)
        channels = shape_of(network, "x_embedder.proj.weight", 4)[1]
        if channels != codec_config.latent_channels:
            raise WeightsError(
                f"the transformer denoises latents of {channels} channels (x_embedder.proj.weight), the autoencoder "
                f"makes {codec_config.latent_channels} (decoder.conv_in.weight): they are not of one system. Take the "
                "autoencoder that the transformer was trained with, stabilityai/sd-vae-ft-ema."
            )
        steps = _STEPS if options.sampling_steps is None else options.sampling_steps
        height, width = _frame_size(places, denoiser.patch * codec_config.downsample, options.size)
        space = gym.spaces.Box(np.array(LOWEST, np.float32), np.array(HIGHEST, np.float32))
        try:
            config = DenoisingConfig(
                denoiser=denoiser,
                process=VariancePreserving(schedule="linear", timestep_spacing="linspace", time_scale=1000.0),
                target=Epsilon(),
                sampler=_sampler(steps),
                codec=codec_config,
                head=NoRewardHeadConfig(),
                context_source="decoded",
                quantize_frames=False,
                training=DenoiserTraining(sequence_length=max(8, denoiser.context)),
            )
        except ConfigError as error:
            raise WeightsError(f"NWM cannot be set up so: {error}") from error
        return Architecture(
            config=config,
            spec=WorldModelSpec(frame_shape=(3, height, width), action_space=space, frame_rate=_FRAME_RATE),
            tensors={"denoiser": network, "codec.autoencoder": codec},
            names={"denoiser": DENOISER_NAMES, "codec.autoencoder": CODEC_NAMES},
            notes=(
                *_assumed(options, denoiser),
                f"It was trained on {denoiser.context} frames of context; a dream that starts from fewer takes the "
                "first one for those that are missing.",
                f"Each frame takes {steps} sampling steps"
                + ("; up to 50 are made by DPM-Solver++, ten times as fast with 25." if steps > _FEW else "."),
            ),
        )

    def write(self, world: World) -> dict[str, dict[str, Tensor]]:
        """See `Adapter.write`."""
        model: Any = world.model
        config = world.config
        if not isinstance(config, DenoisingConfig) or not isinstance(config.denoiser, NWMConfig):
            raise WeightsError(
                "this world's denoiser is not NWM's; only a world imported from it can be written as one."
            )
        return {
            "0100000.pth.tar": to_published(model.denoiser, DENOISER_NAMES),
            "diffusion_pytorch_model.safetensors": to_published(model.codec.autoencoder, CODEC_NAMES),
        }


def _sampler(steps: int) -> Sampler:
    """Return the published sampler, or one that does with few steps; both begin with noise of 1."""
    if steps > _FEW:
        return Ancestral(steps=steps, init_noise_sigma=1.0, variance="learned")
    return DPMSolver(steps=steps, init_noise_sigma=1.0)


def _sorted(files: Sequence[Mapping[str, Tensor]]) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Tell the transformer's file from the autoencoder's."""
    networks, codecs = [], []
    for tensors in files:
        if _DENOISER in tensors:
            networks.append(tensors)
        elif _CODEC in tensors:
            codecs.append({_today(name): tensor for name, tensor in tensors.items()})
        else:
            raise WeightsError(
                f"a file holds tensors such as {', '.join(list(tensors)[:3])}, but neither {_DENOISER} nor {_CODEC}: "
                f"it is of another system{_guess(tensors)}. {_BOTH}."
            )
    for found, what in ((networks, "the transformer"), (codecs, "the autoencoder")):
        if len(found) != 1:
            raise WeightsError(f"{len(found)} of {len(files)} files are of {what}, which must be one. {_BOTH}.")
    return networks[0], codecs[0]


def _guess(tensors: Mapping[str, Tensor]) -> str:
    if any(name.startswith("encoder.down.0.") for name in tensors):
        return " or layout: the autoencoder as its authors named it, of which diffusers' file is needed"
    if "blocks.0.attn.qkv.weight" in tensors:
        return ", a transformer without attention to past frames"
    return ""


def _today(name: str) -> str:
    """Return today's name of a tensor of the autoencoder."""
    old = _OLD_NAME.fullmatch(name)
    return f"{old.group(1)}{_OLD[old.group(2)]}{old.group(3)}" if old else name


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many numbers a name goes through, from 0 on."""
    found = {int(match.group(1)) for match in map(re.compile(pattern).match, tensors) if match}
    if found != set(range(len(found))):
        lacking = min(set(range(len(found))) - found)
        raise WeightsError(f"tensors are numbered up to {max(found)}, but {lacking} is missing. Is the file whole?")
    return len(found)


def _denoiser_config(tensors: Mapping[str, Tensor], heads: int | None) -> tuple[NWMConfig, int]:
    """Return the settings, and the tokens of a frame."""
    frames, places, width = shape_of(tensors, "pos_embed", 3)
    _, channels, patch, _ = shape_of(tensors, "x_embedder.proj.weight", 4)
    said = shape_of(tensors, "final_layer.linear.weight", 2)[0]
    if frames < 2:
        raise WeightsError(
            f"pos_embed has places for {frames} frames; with one for the predicted frame, none is left for context."
        )
    if said != 2 * channels * patch**2:
        raise WeightsError(
            f"final_layer.linear.weight says {said} values per token; noise and variance of {channels} channels in "
            f"patches of {patch} would be {2 * channels * patch**2}. A network without learned variance cannot be "
            "imported."
        )
    heads = heads or _HEADS.get(width, max(1, width // _HEAD_WIDTH))
    if heads < 1 or width % heads:
        raise WeightsError(f"{heads} heads do not divide a width of {width}, which pos_embed has; set heads.")
    depth = _count(tensors, r"blocks\.(\d+)\.")
    return NWMConfig(context=frames - 1, embed_dim=width, depth=depth, heads=heads, patch=patch), places


def _assumed(options: Options, denoiser: NWMConfig) -> list[str]:
    """Return what is said about heads of attention that no option told of: no tensor does."""
    if options.heads is not None:
        return []
    how = "as published" if denoiser.embed_dim in _HEADS else f"each {_HEAD_WIDTH} channels wide"
    return [f"assumed heads={denoiser.heads} for a width of {denoiser.embed_dim}, {how}: no tensor says how many."]


def _codec_config(tensors: Mapping[str, Tensor]) -> SDVAEConfig:
    stages = _count(tensors, r"encoder\.down_blocks\.(\d+)\.")
    first = "encoder.down_blocks.{}.resnets.0.conv1.weight"
    channels = tuple(shape_of(tensors, first.format(index), 4)[0] for index in range(stages))
    try:
        return SDVAEConfig(
            channels=channels,
            blocks=_count(tensors, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
            latent_channels=shape_of(tensors, "decoder.conv_in.weight", 4)[1],
        )
    except ConfigError as error:
        raise WeightsError(f"the autoencoder's shapes cannot be: {error}") from error


def _frame_size(places: int, pixels: int, size: tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width of frames, of tokens of so many pixels per side."""
    side = math.isqrt(places)
    if size is None:
        if side**2 != places:
            raise WeightsError(f"pos_embed has {places} places, which make no square; set size to height and width.")
        return side * pixels, side * pixels
    if size[0] % pixels or size[1] % pixels or (size[0] // pixels) * (size[1] // pixels) != places:
        without = f"; leave size out for {side * pixels} x {side * pixels}" if side**2 == places else ""
        raise WeightsError(
            f"frames of {size[0]} x {size[1]} are not {places} tokens of {pixels} x {pixels} pixels, for which "
            f"pos_embed has places{without}."
        )
    return size
